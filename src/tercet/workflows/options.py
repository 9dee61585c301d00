"""The options of every verb: what may follow `tercet VERB`, without the weight of the work itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tercet.ground.errors import require
from tercet.records.config import METHODS, DataConfig, FusionConfig, Method, RunConfig
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
class FoldsConfig:
    """How the data are divided into folds, and which members are trained in which."""

    folds: int | None = None
    """Number of folds, stratified, groups whole (default: those of the table's own fold column, else 5)."""
    leave_one_group_out: bool = False
    """One fold a group, named after it; data.group_column or data.group_from tell the group."""
    fold_members: tuple[str, ...] = ()
    """Train a member in some folds only, such as xception=3+4+5: its name, then the names of folds."""

    def __post_init__(self) -> None:
        odd = [text for text in self.fold_members if not all(text.rpartition("="))]
        require(
            [
                self.folds is not None and self.folds < 2 and f"folds {self.folds} must be at least 2",
                self.folds is not None and self.leave_one_group_out and "give either folds or leave_one_group_out",
                bool(odd) and f"fold_members '{', '.join(odd)}' is not of the form MEMBER=FOLD+FOLD",
            ]
        )


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
class TuneConfig:
    """What is searched, for how long, and which trainings are given up early."""

    space: str | None = None
    """YAML file with the options to vary, each with a list of choices or a range {low, high, step, log}."""
    trials: int = 20
    """Trainings in all, the first with the options as they are; with --resume the new number."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """Ends trials early: those worse than the median of the others at the same epoch, by Hyperband, or none."""

    def __post_init__(self) -> None:
        require([self.trials < 2 and "trials must be at least 2: the options as they are, and one other"])


@dataclass(frozen=True)
class DemoConfig:
    """Where the demonstration leaves its run."""

    output: str | None = None
    """Run folder (default: the next free one under runs/)."""


ALIASES = {"data_dir": "data.data_dir"}
"""Other names of options."""
_SOURCE = Positional("data", "folder of images by class, table, zip, or name of a data set", required=False)
_TRAINED: list[tuple[str, type]] = [
    ("", RunConfig),
    ("", ResumeConfig),
    ("data", DataConfig),
    ("", ModelConfig),
    ("", TrainingConfig),
    ("fusion", FusionConfig),
    ("", OutputConfig),
]

TRAIN = Options(
    "train",
    "Train several classifiers on a folder of images, fuse them, and report how good they are. Leaves a run folder "
    "with everything that was measured and, in RUN/bundle, the fused model.",
    groups=_TRAINED,
    positionals=[_SOURCE],
    config_file=True,
    aliases=ALIASES,
)
CROSSVAL = Options(
    "crossval",
    "Train and measure as train does, once for every fold of the data, each held out in turn. Leaves a run for each "
    "fold, the predictions of all held-out images together, and one bundle: the mean of the folds' answers.",
    groups=[("", FoldsConfig), *_TRAINED],
    positionals=[_SOURCE],
    config_file=True,
    aliases=ALIASES,
)
TUNE = Options(
    "tune",
    "Search for better options of one network: trials with options drawn from a space, measured on validation. Leaves "
    "a table of all trials and, in FOLDER/best.yaml, the configuration of the best, which train --config takes.",
    groups=[("", TuneConfig), *_TRAINED],
    positionals=[_SOURCE],
    config_file=True,
    aliases=ALIASES,
)
ENSEMBLE = Options(
    "ensemble",
    "Fuse members that exist, of one run or of several runs on the same data and splits, in every way asked for.",
    groups=[("", EnsembleConfig), ("fusion", FusionConfig), ("", OutputConfig)],
    positionals=[Positional("runs", "run folders", many=True)],
    config_file=True,
)
EVALUATE = Options(
    "evaluate",
    "Measure a bundle on labelled images; classes are matched by name. Scored are the data's own test split where it "
    "has one, else the test split that was held out if the bundle was trained on this very data, else all images.",
    groups=[("", ViewsConfig), ("", DeviceConfig), ("data", DataConfig), ("", OutputConfig)],
    positionals=[
        Positional("bundle", "a bundle's folder, or a run's"),
        Positional("data", "folder of images by class, table, zip, or name of a data set"),
    ],
    aliases=ALIASES,
)
PREDICT = Options(
    "predict",
    "Classify images with a bundle.",
    groups=[("", PredictConfig), ("", ViewsConfig), ("", DeviceConfig), ("", OutputConfig)],
    positionals=[
        Positional("bundle", "a bundle's folder, or a run's"),
        Positional("images", "image files, or folders of them", many=True),
    ],
)
BLEND = Options(
    "blend",
    "Fuse prediction files from anywhere (.npy N x K, .npz, or CSV with ids) and score them where labels are known.",
    groups=[("", BlendConfig), ("", OutputConfig)],
    positionals=[Positional("files", "prediction files; one alone is only scored", many=True)],
)
MODELS = Options(
    "models",
    "List the networks; or build one, without weights, and tell its size, cost, input and parts. Operations are those "
    "of one image; a multiply-add counts as two.",
    groups=[("", NetworkConfig), ("", ModelConfig), ("fusion", FusionConfig), ("", OutputConfig)],
    positionals=[
        Positional("name", "a network, part of a name to search for, or e2e: the fusion head", required=False)
    ],
)
DATASETS = Options(
    "datasets",
    "List the data sets known by name; or tell where one comes from and how to place it by hand.",
    groups=[("", OutputConfig)],
    positionals=[Positional("name", "a data set", required=False)],
)
DEMO = Options(
    "demo",
    "Train three members on the handwritten digits that come with scikit-learn, and fuse them in every way.",
    groups=[("", DemoConfig), ("", OutputConfig)],
)
