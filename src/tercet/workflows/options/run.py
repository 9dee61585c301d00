"""The options of the verbs around one run: what may follow `tercet VERB`, without the weight of the work itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tercet.ground.errors import require
from tercet.ground.limits import LEAST_MEMORY
from tercet.records.config import METHODS, CalibrationConfig, DataConfig, FusionConfig, Method, RunConfig
from tercet.records.model_config import ModelConfig
from tercet.records.options import Options, Positional
from tercet.records.training_config import TrainingConfig
from tercet.records.views import Views


@dataclass(frozen=True)
class OutputConfig:
    """How the answer is given."""

    json: bool = False
    """Print one JSON document on standard output, and everything else on standard error."""
    debug: bool = False
    """Show where in the code an error arose."""


@dataclass(frozen=True)
class ResumeConfig:
    """Going on with a run that was stopped."""

    resume: str | None = None
    """Run folder to go on with; takes no other options."""


@dataclass(frozen=True)
class DeviceConfig:
    """Where and in what portions networks compute."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    batch_size: int = 64
    """Images a forward pass."""

    def __post_init__(self) -> None:
        require([self.batch_size < 1 and "batch_size must be positive"])


@dataclass(frozen=True)
class SeenConfig:
    """Which images are measured."""

    include_seen: bool = False
    """Score images that were used in training too; of the training data, all images."""


@dataclass(frozen=True)
class ViewsConfig:
    """What is shown of each image."""

    tta: str | None = None
    """Test-time augmentation: none, flip, vflip, shifts:2, crops:3@540, joined by + (default: the bundle's own)."""

    def __post_init__(self) -> None:
        if self.tta is not None:
            Views.parse(self.tta)


@dataclass(frozen=True)
class EnsembleConfig:
    """Which ways to fuse, and where the result goes."""

    methods: tuple[Method, ...] = METHODS
    """Ways to fuse."""
    output: str | None = None
    """Folder for the result (default: the next free one under runs/)."""
    seed: int = 0
    """Seed of the fusion head and of the cross-fitting folds."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int | None = None
    """Threads a process."""


@dataclass(frozen=True)
class PredictConfig:
    """What is told of each image."""

    csv: str | None = None
    """Write a CSV file with the class and the probabilities of every image."""
    submission: str | None = None
    """A competition's sample file; the CSV file is then written in its form, order and header."""
    top: int = 5
    """Classes shown for each image."""

    def __post_init__(self) -> None:
        require(
            [
                self.top < 1 and "top must be positive",
                self.submission is not None and self.csv is None and "submission needs csv: where to write it",
            ]
        )


@dataclass(frozen=True)
class BoundsConfig:
    """What a model of strangers may take; the work is done by another process then."""

    max_memory: int | None = None
    """MiB of addresses that the process may have (default: no limit)."""
    max_seconds: float | None = None
    """Seconds that it may take once its libraries are loaded (default: no limit)."""

    def __post_init__(self) -> None:
        require(bound_problems(self.max_memory, "max_seconds", self.max_seconds))

    @property
    def any(self) -> bool:
        """Whether there is a limit."""
        return self.max_memory is not None or self.max_seconds is not None


def bound_problems(memory: int | None, name: str, seconds: float | None) -> list[str | bool]:
    """Return what is wrong with limits of memory and time, the latter called `name`."""
    return [
        memory is not None and memory < LEAST_MEMORY and f"max_memory {memory} must be at least {LEAST_MEMORY} MiB",
        seconds is not None and not 0 < seconds < 1e9 and f"{name} {seconds:g} must be positive",
    ]


@dataclass(frozen=True)
class BlendConfig:
    """How prediction files are fused."""

    method: Literal["average", "pruned", "vote", "weighted", "greedy"] = "average"
    """average, pruned (each file keeps only its best class a row), vote, or weights fitted on the labels."""
    labels: str | None = None
    """File with the true labels: .npy, IDX, CSV (id, label), or one label a line."""
    ties: Literal["lowest", "mean"] = "lowest"
    """vote: who wins a tie, the lowest class index or the highest mean probability."""
    keep: int = 1
    """pruned: classes that each file keeps a row."""
    output: str | None = None
    """Write the blend as .npz or .csv."""

    def __post_init__(self) -> None:
        require(
            [
                self.keep < 1 and f"keep {self.keep} must be positive",
                self.output is not None
                and not self.output.endswith((".npz", ".csv"))
                and f"output {self.output} must end in .npz or .csv",
            ]
        )


@dataclass(frozen=True)
class NetworkConfig:
    """What the network is for."""

    classes: int = 1000
    """Number of classes."""
    image_size: tuple[int, ...] = (224,)
    """Height and width of the data's images, or one number for a square."""
    channels: int = 3
    """Channels of the data's images."""
    members: int = 3
    """e2e: members of the fusion head."""

    def __post_init__(self) -> None:
        require(
            [
                min(self.classes, self.channels, self.members, *self.image_size) < 1
                and "classes, image_size, channels and members must be positive",
                len(self.image_size) > 2 and "image_size takes one number, or height and width",
            ]
        )


@dataclass(frozen=True)
class DemoConfig:
    """Where the demonstration leaves its run."""

    output: str | None = None
    """Run folder (default: the next free one under runs/)."""


ALIASES = {"data_dir": "data.data_dir"}
"""Other names of options."""
SOURCE = Positional("data", "folder of images by class, table, zip, or name of a data set", required=False)
"""The images that a verb trains on; none where it resumes."""
TRAINED: list[tuple[str, type]] = [
    ("", RunConfig),
    ("", ResumeConfig),
    ("data", DataConfig),
    ("", ModelConfig),
    ("", TrainingConfig),
    ("fusion", FusionConfig),
    ("", OutputConfig),
]
"""The options of `train`, and of what trains as it does; what calibrates has options for that beside."""

TRAIN = Options(
    "train",
    "Train networks on a folder of images, fuse them, and measure them. Leaves a run folder with everything that was "
    "measured and, in RUN/bundle, the fused model.",
    groups=[*TRAINED[:-1], ("calibration", CalibrationConfig), TRAINED[-1]],
    positionals=[SOURCE],
    config_file=True,
    aliases=ALIASES,
    examples=[
        "photos/",
        "photos/ --members resnet18,mobilenetv2_100 --epochs 10 --lr 1e-4",
        "--resume runs/photos-1",
    ],
)
ENSEMBLE = Options(
    "ensemble",
    "Fuse the trained members of one run or of several. The runs hold the same data and splits; what comes out is a "
    "run folder with a bundle.",
    groups=[
        ("", EnsembleConfig),
        ("fusion", FusionConfig),
        ("calibration", CalibrationConfig),
        ("", OutputConfig),
    ],
    positionals=[Positional("runs", "run folders", many=True)],
    config_file=True,
    examples=["runs/photos-1 runs/photos-2 --methods average,weighted"],
)
EVALUATE = Options(
    "evaluate",
    "Measure a bundle or an exported file on labelled images. Classes are matched by name. Scored are the data's own "
    "test split where it has one, else the test split that was held out if the bundle was trained on this very data, "
    "else all images; images that were used in training are refused.",
    groups=[("", SeenConfig), ("", ViewsConfig), ("", DeviceConfig), ("data", DataConfig), ("", OutputConfig)],
    positionals=[
        Positional("bundle", "a bundle's folder, a run's, or an exported file"),
        Positional("data", "folder of images by class, table, zip, or name of a data set"),
    ],
    aliases=ALIASES,
    examples=["runs/photos-1 another-test-set/"],
)
PREDICT = Options(
    "predict",
    "Classify images with a bundle or an exported file.",
    groups=[("", PredictConfig), ("", ViewsConfig), ("", DeviceConfig), ("", BoundsConfig), ("", OutputConfig)],
    positionals=[
        Positional("bundle", "a bundle's folder, a run's, or an exported file"),
        Positional("images", "image files, or folders of them", many=True),
    ],
    examples=[
        "runs/photos-1 new-photos/ --csv answers.csv",
        "runs/photos-1 test/ --submission sample.csv --csv answers.csv",
        "photos.onnx new-photo.jpg",
    ],
)
BLEND = Options(
    "blend",
    "Fuse and score prediction files from anywhere. A file is .npy (N x K), .npz, or CSV with ids. Scores and fitted "
    "weights need labels.",
    groups=[("", BlendConfig), ("", OutputConfig)],
    positionals=[Positional("files", "prediction files; one alone is only scored", many=True)],
    examples=["a.npy b.npy c.npy --labels truth.csv"],
)
MODELS = Options(
    "models",
    "List the networks, or tell the size and cost of one. It is built without weights; operations are those of one "
    "image, and a multiply-add counts as two.",
    groups=[("", NetworkConfig), ("", ModelConfig), ("fusion", FusionConfig), ("", OutputConfig)],
    positionals=[
        Positional("name", "a network, part of a name to search for, or e2e: the fusion head", required=False)
    ],
    examples=["efficientnet", "resnet18 --classes 10 --recurrent lstm --scan rows"],
)
DATASETS = Options(
    "datasets",
    "List the data sets known by name, or tell about one. Told are where it comes from, its licence, files, sizes and "
    "checksums, and how to place it by hand.",
    groups=[("", OutputConfig)],
    positionals=[Positional("name", "a data set", required=False)],
)
DEMO = Options(
    "demo",
    "Train and fuse three members on scikit-learn's digits. Two minutes, no download.",
    groups=[("", DemoConfig), ("", OutputConfig)],
)
