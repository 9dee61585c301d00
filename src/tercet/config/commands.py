"""Options of `train`, `ensemble`, `evaluate`, `predict`, `models`, `datasets` and `demo`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tercet.config.model import ModelConfig
from tercet.config.parser import CommandOptions, Positional
from tercet.config.run import CalibrationConfig, DataConfig, FusionConfig, RunConfig, unknown_methods
from tercet.config.training import TrainingConfig
from tercet.config.tta import TTAConfig
from tercet.core.errors import raise_problems
from tercet.core.resource_limits import MIN_MEMORY


@dataclass(frozen=True)
class OutputConfig:
    """Output format."""

    json: bool = False
    """Print one JSON document to standard output and all else to standard error."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class ResumeConfig:
    """Continuing an interrupted run."""

    resume: str | None = None
    """Run folder to continue, with its own options."""


@dataclass(frozen=True)
class DeviceConfig:
    """Device and batch size."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    batch_size: int = 64
    """Images per forward pass."""

    def __post_init__(self) -> None:
        raise_problems([self.batch_size < 1 and "batch_size must be positive"])


@dataclass(frozen=True)
class EvaluateConfig:
    """Images to evaluate."""

    include_seen: bool = False
    """Include images that were used in training."""


@dataclass(frozen=True)
class TTAOptions:
    """Test-time augmentation."""

    tta: str | None = None
    """Test-time augmentation: none, flip, vflip, shifts:2, crops:3@540, joined by + (default: that of the bundle)."""

    def __post_init__(self) -> None:
        if self.tta is not None:
            TTAConfig.parse(self.tta)


@dataclass(frozen=True)
class EnsembleConfig:
    """Ensemble methods and output; `labels`, `ties` and `keep` are for prediction files, `seed` and below for runs."""

    ensemble_methods: tuple[str, ...] | None = field(default=None, metadata={"registry": "combiner"})
    """Ensemble methods (default: all for runs, average for prediction files, which take one)."""
    output: str | None = None
    """Run folder (default: runs/ensemble-N); for prediction files, a .npz or .csv file (default: none)."""
    labels: str | None = None
    """File with the true labels: .npy, IDX, CSV (id, label), or one label per line."""
    ties: Literal["lowest", "mean"] = "lowest"
    """vote: break ties by the lowest class index or the highest mean probability."""
    keep: int = 1
    """pruned: number of classes kept per file and row."""
    seed: int = 0
    """Seed of the fusion head and of the cross-fitting folds."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int | None = None
    """Threads per process."""

    def __post_init__(self) -> None:
        problems = unknown_methods(self.ensemble_methods or ())
        raise_problems([*problems, self.keep < 1 and f"keep {self.keep} must be positive"])


@dataclass(frozen=True)
class PredictConfig:
    """Output of the predictions."""

    csv: str | None = None
    """Write the classes and probabilities of all images to this CSV file."""
    submission: str | None = None
    """Sample submission of a competition; --csv then has its columns and row order."""
    top_k: int = 5
    """Number of classes to show per image."""

    def __post_init__(self) -> None:
        raise_problems(
            [
                self.top_k < 1 and "top_k must be positive",
                self.submission is not None and self.csv is None and "submission needs csv, the file to write",
            ]
        )


@dataclass(frozen=True)
class LimitsConfig:
    """Limits for untrusted models; with a limit, prediction runs in a child process."""

    max_memory: int | None = None
    """Address-space limit in MiB (default: no limit)."""
    max_seconds: float | None = None
    """Time limit in seconds after the libraries are loaded (default: no limit)."""

    def __post_init__(self) -> None:
        raise_problems(bound_problems(self.max_memory, "max_seconds", self.max_seconds))

    @property
    def any(self) -> bool:
        """Whether a limit is set."""
        return self.max_memory is not None or self.max_seconds is not None


def bound_problems(memory: int | None, name: str, seconds: float | None) -> list[str | bool]:
    """Return the problems of a memory limit in MiB and of the time limit called `name`."""
    return [
        memory is not None and memory < MIN_MEMORY and f"max_memory {memory} must be at least {MIN_MEMORY} MiB",
        seconds is not None and not 0 < seconds < 1e9 and f"{name} {seconds:g} must be positive",
    ]


@dataclass(frozen=True)
class NetworkConfig:
    """Input and output shapes for which the network is built."""

    classes: int = 1000
    """Number of classes."""
    image_size: tuple[int, ...] = (224,)
    """Image height and width, or one number for squares."""
    channels: int = 3
    """Image channels."""
    members: int = 3
    """e2e: number of ensemble members."""

    def __post_init__(self) -> None:
        raise_problems(
            [
                min(self.classes, self.channels, self.members, *self.image_size) < 1
                and "classes, image_size, channels and members must be positive",
                len(self.image_size) > 2 and "image_size takes one number, or height and width",
            ]
        )


@dataclass(frozen=True)
class DemoConfig:
    """Output of the demonstration."""

    output: str | None = None
    """Run folder (default: runs/digits-N)."""


ALIASES = {"data_dir": "data.data_dir"}
"""Further names of options."""
TRAINING_DATA = Positional(
    "data", "image folder with one sub-folder per class, table, zip, or data set name", required=False
)
"""Omitted with --resume."""
TRAINING_GROUPS: list[tuple[str, type]] = [
    ("", RunConfig),
    ("", ResumeConfig),
    ("data", DataConfig),
    ("", ModelConfig),
    ("", TrainingConfig),
    ("fusion", FusionConfig),
    ("", OutputConfig),
]
"""Options shared by `train`, `crossval` and `tune`; those that calibrate add `calibration`."""

TRAIN = CommandOptions(
    "train",
    "Train networks on a folder of images and ensemble them. Writes a run folder with all scores and, in RUN/bundle, "
    "the deployable ensemble.",
    groups=[*TRAINING_GROUPS[:-1], ("calibration", CalibrationConfig), TRAINING_GROUPS[-1]],
    positionals=[TRAINING_DATA],
    config_file=True,
    aliases=ALIASES,
    examples=[
        "photos/",
        "photos/ --members resnet18,mobilenetv2_100 --epochs 10 --lr 1e-4",
        "--resume runs/photos-1",
    ],
)
ENSEMBLE = CommandOptions(
    "ensemble",
    "Combine trained runs or prediction files into an ensemble. Runs must share data and splits; the result is a run "
    "folder with a bundle. Prediction files of any toolkit are .npy (N x K), .npz, or CSV with ids; scores and fitted "
    "weights need labels.",
    groups=[
        ("", EnsembleConfig),
        ("fusion", FusionConfig),
        ("calibration", CalibrationConfig),
        ("", OutputConfig),
    ],
    positionals=[Positional("inputs", "run folders, or prediction files", many=True, metavar="RUNS|FILES")],
    config_file=True,
    examples=[
        "runs/photos-1 runs/photos-2 --ensemble-methods average",
        "a.npy b.npy c.npy --labels truth.csv",
    ],
)
EVALUATE = CommandOptions(
    "evaluate",
    "Evaluate a bundle or an exported file on labelled images. Classes are matched by name. Uses the test split of the "
    "data if present; else, if the bundle was trained on this data, the test split held out in training; else all "
    "images. Fails if an image was used in training.",
    groups=[("", EvaluateConfig), ("", TTAOptions), ("", DeviceConfig), ("data", DataConfig), ("", OutputConfig)],
    positionals=[
        Positional("bundle", "bundle or run folder, or an exported file"),
        Positional("data", "image folder with one sub-folder per class, table, zip, or data set name"),
    ],
    aliases=ALIASES,
    examples=["runs/photos-1 another-test-set/"],
)
PREDICT = CommandOptions(
    "predict",
    "Classify images with a bundle or an exported file.",
    groups=[("", PredictConfig), ("", TTAOptions), ("", DeviceConfig), ("", LimitsConfig), ("", OutputConfig)],
    positionals=[
        Positional("bundle", "bundle or run folder, or an exported file"),
        Positional("images", "image files or folders", many=True),
    ],
    examples=[
        "runs/photos-1 new-photos/ --csv predictions.csv",
        "runs/photos-1 test/ --submission sample.csv --csv out.csv",
        "photos.onnx new-photo.jpg",
    ],
)
MODELS = CommandOptions(
    "models",
    "List the networks, or describe the layers and cost of one. FLOPs are per image; a multiply-add counts as two.",
    groups=[("", NetworkConfig), ("", ModelConfig), ("fusion", FusionConfig), ("", OutputConfig)],
    positionals=[Positional("name", "network, part of a name, or e2e for the fusion head", required=False)],
    examples=["efficientnet", "resnet18 --classes 10 --recurrent lstm --scan rows"],
)
DATASETS = CommandOptions(
    "datasets",
    "List the named data sets and their variants, or describe one. Reports origin, licence, files, sizes, checksums, "
    "and how to provide the files without a download.",
    groups=[("", OutputConfig)],
    positionals=[Positional("name", "data set", required=False)],
)
DEMO = CommandOptions(
    "demo",
    "Train an ensemble of three networks on scikit-learn's digits. Two minutes, no download.",
    groups=[("", DemoConfig), ("", OutputConfig)],
)
