"""The options of verbs that train much to learn one thing (folds, a grid, a search), or look over many runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from tercet.ground.errors import require
from tercet.records.compare_config import CompareConfig
from tercet.records.config import CalibrationConfig, DataConfig
from tercet.records.model_config import ModelConfig
from tercet.records.options import Options, Positional
from tercet.records.training_config import TrainingConfig
from tercet.workflows.options.run import ALIASES, SOURCE, TRAINED, OutputConfig, ResumeConfig

Sort = Literal["name", "data", "chosen", "validation", "test", "macro_f1", "kappa", "seconds", "date"]
SORTS: tuple[Sort, ...] = get_args(Sort)
"""Columns by which the table of runs can be sorted."""


@dataclass(frozen=True)
class FoldsConfig:
    """How the data are divided into folds, and which members are trained in which."""

    folds: int | None = None
    """Number of folds, stratified, groups whole (default: those of the table's own fold column, else 5)."""
    leave_one_group_out: bool = False
    """One fold a group, named after it; data.group_column or data.group_from tell the group."""
    fold_members: tuple[str, ...] = ()
    """Train a member in some folds only, such as xception=3+4+5: its name, then the names of folds."""
    calibration_fraction: float = 0.0
    """Share of the images that no fold sees: the mean of the folds is calibrated on them (0: it is not calibrated)."""

    def __post_init__(self) -> None:
        odd = [text for text in self.fold_members if not all(text.rpartition("="))]
        require(
            [
                self.folds is not None and self.folds < 2 and f"folds {self.folds} must be at least 2",
                self.folds is not None and self.leave_one_group_out and "give either folds or leave_one_group_out",
                not 0 <= self.calibration_fraction < 1
                and f"calibration_fraction {self.calibration_fraction} must lie in [0, 1)",
                bool(odd) and f"fold_members '{', '.join(odd)}' is not of the form MEMBER=FOLD+FOLD",
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
class RunsConfig:
    """The order of the table."""

    sort: Sort = "date"
    """Column to sort by: scores from the best down, dates from the newest back, all else upwards."""


@dataclass(frozen=True)
class StudyConfig:
    """Which setting of a recipe is run, and what is done otherwise than it says."""

    scale: Literal["small", "paper"] = "small"
    """small finishes on two cores; paper is the published setting."""
    show: bool = False
    """Print the recipe instead of running it."""
    parts: tuple[str, ...] = ()
    """Do these parts only; --resume does the others later."""
    replace: tuple[Any, ...] = ()
    """Put other networks in place of the recipe's: NETWORK=OTHER, or NETWORK=FILE.yaml with a model and its options."""
    rehearse: bool = False
    """Train everything for one update, a tiny network for each backbone: shows that data and options go through."""
    output: str | None = None
    """Folder (default: runs/ and the recipe's name with a number)."""
    device: str | None = None
    """auto, cpu, cuda, cuda:N or mps, for every part."""
    threads: int | None = None
    """Threads a process, for every part."""


CROSSVAL = Options(
    "crossval",
    "Train and measure once a fold, each held out in turn. Every fold does what train does, and is a run of its own; "
    "beside them stand the predictions of all held-out images and one bundle, the mean of the folds' answers. Without "
    "--data.test-fraction the folds are all that is held out.",
    groups=[("", FoldsConfig), *TRAINED[:-1], ("calibration", CalibrationConfig), TRAINED[-1]],
    positionals=[SOURCE],
    config_file=True,
    aliases=ALIASES,
    examples=[
        "photos/ --folds 5 --members resnet18 --epochs 10 --lr 1e-4",
        "signs.csv --leave-one-group-out --data.group-column subject",
    ],
)
COMPARE = Options(
    "compare",
    "Train a grid of networks with several seeds, and compare them. All get the same data, splits and number of "
    "updates; told are what each reaches, whether that is more than chance, what it costs, and which errors differ.",
    groups=[
        ("", CompareConfig),
        ("", ResumeConfig),
        ("data", DataConfig),
        ("", ModelConfig),
        ("", TrainingConfig),
        ("", OutputConfig),
    ],
    positionals=[SOURCE],
    config_file=True,
    aliases=ALIASES,
    examples=["photos/ --backbones resnet18 --recurrent none,lstm --scans rows"],
    without={ModelConfig: frozenset({"recurrent", "bidirectional", "scan"})},
)
TUNE = Options(
    "tune",
    "Search for better options of one network. Trials have options drawn from a space and are measured on validation. "
    "Leaves a table of all trials and, in FOLDER/best.yaml, the configuration of the best, which train --config takes.",
    groups=[("", TuneConfig), *TRAINED],
    positionals=[SOURCE],
    config_file=True,
    aliases=ALIASES,
    examples=[
        "photos/ --space space.yaml --members row-lstm --trials 30",
        "--resume runs/photos-tune-1 --trials 60",
    ],
)
RUNS = Options(
    "runs",
    "List the runs under a folder with their scores, in one table.",
    groups=[("", RunsConfig), ("", OutputConfig)],
    positionals=[Positional("folder", "where to look (default: runs)", required=False)],
    examples=["runs --sort test"],
)
STUDY = Options(
    "study",
    "Repeat a published experiment by its recipe. Published numbers stand beside the measured ones; without a name, "
    "recipes are listed. A study is a folder of ordinary runs; what is missing in it is done when it is resumed.",
    groups=[("", StudyConfig), ("", ResumeConfig), ("data", DataConfig), ("", OutputConfig)],
    positionals=[
        Positional("recipe", "a recipe's name, or a YAML file", required=False),
        Positional("data", "other images than the recipe's: folder, table, zip, or name of a data set", required=False),
    ],
    aliases=ALIASES,
    examples=[
        "rows-vs-cnn --data-dir ~/data",
        "leaves photos/ --replace mobilenetv2_100=resnet18",
        "fingerspelling --data-dir ~/data --scale paper",
        "--resume runs/fingerspelling-1",
    ],
)
