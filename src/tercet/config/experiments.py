"""Options of `crossval`, `compare`, `tune`, `reproduce` and `runs`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tercet.config.commands import ALIASES, TRAINING_DATA, TRAINING_GROUPS, OutputConfig, ResumeConfig
from tercet.config.model import ModelConfig
from tercet.config.parser import CommandOptions, Positional
from tercet.config.run import CalibrationConfig, DataConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import raise_problems

_BUDGET = re.compile(r"(seconds|flops):(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)")


@dataclass(frozen=True)
class CompareConfig:
    """Grid of networks, budget and output."""

    backbones: tuple[Any, ...] = ()
    """Networks to compare: names, YAML files, or mappings of `model` and its options."""
    recurrent: tuple[Literal["none", "rnn", "gru", "lstm"], ...] = ("none",)
    """Recurrent modules between backbone and head."""
    bidirectional: tuple[bool, ...] = (False,)
    """Recurrent modules in one direction (false), in both (true), or each (false,true)."""
    scans: tuple[Literal["pooled", "rows", "columns", "cells", "snake"], ...] = ("pooled",)
    """Input sequences of the recurrent modules."""
    sizes: tuple[int, ...] = ()
    """Input sizes in pixels, square (default: --input.size, else that of each network)."""
    seeds: int = 3
    """Number of seeds; every network is trained once per seed."""
    seed: int = 0
    """First seed."""
    baseline: str | None = None
    """Network that the others are tested against (default: the first one)."""
    budget: str | None = None
    """Training budget per network, seconds:N or flops:X, instead of an equal number of optimizer steps."""
    match_parameters: bool = False
    """Widen or narrow every network (--hidden-size, else --head-hidden-dim) to match the baseline's parameter count."""
    tolerance: float = 0.05
    """match_parameters: maximum relative deviation."""
    output: str | None = None
    """Output folder (default: runs/DATA-compare-N)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int | None = None
    """Threads per process (default: cores divided by the number of parallel trainings)."""
    tensorboard: bool = False
    """Write TensorBoard logs if tensorboard is installed."""

    def __post_init__(self) -> None:
        axes = ("recurrent", "bidirectional", "scans", "sizes")
        grid: dict[str, tuple[Any, ...]] = {name: getattr(self, name) for name in axes}
        raise_problems(
            [
                *(len(set(axis)) < len(axis) and f"{name} lists a value twice" for name, axis in grid.items()),
                *(name != "sizes" and not axis and f"{name} is empty" for name, axis in grid.items()),
                any(size < 1 for size in self.sizes) and "sizes must be positive",
                self.seeds < 1 and f"seeds {self.seeds} must be positive",
                self.seed < 0 and "seed must not be negative",
                self.budget is not None
                and (not _BUDGET.fullmatch(self.budget) or not self.budget_limit()[1])
                and f"budget '{self.budget}' must be seconds:N or flops:X, such as seconds:600 or flops:1e15",
                not 0 < self.tolerance < 1 and f"tolerance {self.tolerance} must lie in (0, 1)",
                self.threads is not None and self.threads < 1 and "threads must be positive",
            ]
        )

    def budget_limit(self) -> tuple[str, float]:
        """Return the kind of the budget (`updates`, `seconds` or `flops`) and its amount (0 for `updates`)."""
        match = _BUDGET.fullmatch(self.budget or "")
        return (match[1], float(match[2])) if match else ("updates", 0.0)

    def all_seeds(self) -> range:
        """Return `seed`, `seed` + 1, ..."""
        return range(self.seed, self.seed + self.seeds)


Sort = Literal["name", "data", "chosen", "validation", "test", "macro_f1", "kappa", "seconds", "date"]
SORTS: tuple[Sort, ...] = get_args(Sort)
"""Columns that the table of runs can be sorted by."""


@dataclass(frozen=True)
class FoldsConfig:
    """Folds, and the members trained in each."""

    folds: int | None = None
    """Number of folds, stratified and grouped (default: the table's fold column if present, else 5)."""
    leave_one_group_out: bool = False
    """One fold per group; groups are defined by data.group_column or data.group_from."""
    fold_members: tuple[str, ...] = ()
    """Train a member in some folds only, such as xception=3+4+5."""
    calibration_fraction: float = 0.0
    """Fraction of images held out from all folds to calibrate the fold mean (0: no calibration)."""

    def __post_init__(self) -> None:
        invalid = [text for text in self.fold_members if not all(text.rpartition("="))]
        raise_problems(
            [
                self.folds is not None and self.folds < 2 and f"folds {self.folds} must be at least 2",
                self.folds is not None and self.leave_one_group_out and "give either folds or leave_one_group_out",
                not 0 <= self.calibration_fraction < 1
                and f"calibration_fraction {self.calibration_fraction} must lie in [0, 1)",
                bool(invalid) and f"fold_members '{', '.join(invalid)}' must have the form MEMBER=FOLD+FOLD",
            ]
        )


@dataclass(frozen=True)
class TuneConfig:
    """Search space, number of trials and pruning."""

    space: str | None = None
    """YAML file with the search space: per option, a list of choices or a range {low, high, step, log}."""
    trials: int = 20
    """Total number of trials; the first one uses the given options. With --resume, the new total."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """Early stopping of bad trials: below the median of the same epoch, Hyperband, or none."""

    def __post_init__(self) -> None:
        raise_problems([self.trials < 2 and "trials must be at least 2: the first one uses the given options"])


@dataclass(frozen=True)
class RunsConfig:
    """Order of the table."""

    sort: Sort = "date"
    """Column to sort by: scores and dates in descending order, others ascending."""


@dataclass(frozen=True)
class ReproduceConfig:
    """Scale of the recipe, and changes to it."""

    scale: Literal["small", "paper"] = "small"
    """small: feasible on two cores; paper: the published setting."""
    show: bool = False
    """Print the recipe and exit."""
    steps: tuple[str, ...] = ()
    """Parts to run; --resume runs the others later."""
    replace: tuple[Any, ...] = ()
    """Replace networks: NETWORK=OTHER, or NETWORK=FILE.yaml with a model and its options."""
    dry_run: bool = False
    """Train every network for one step, with tiny backbones, to check data and options."""
    output: str | None = None
    """Output folder (default: runs/RECIPE-N)."""
    device: str | None = None
    """Device of all parts: auto, cpu, cuda, cuda:N or mps."""
    threads: int | None = None
    """Threads per process, for all parts."""


CROSSVAL = CommandOptions(
    "crossval",
    "Train and evaluate once per fold. Each fold is a run of `train`; the output also contains the pooled predictions "
    "of all held-out images, and one bundle that averages the fold models. Without --data.test-fraction there is no "
    "test split besides the folds.",
    groups=[("", FoldsConfig), *TRAINING_GROUPS[:-1], ("calibration", CalibrationConfig), TRAINING_GROUPS[-1]],
    positionals=[TRAINING_DATA],
    config_file=True,
    aliases=ALIASES,
    examples=[
        "photos/ --folds 5 --members resnet18 --epochs 10 --lr 1e-4",
        "signs.csv --leave-one-group-out --data.group-column subject",
    ],
)
COMPARE = CommandOptions(
    "compare",
    "Train a grid of networks with several seeds, and compare them. All use the same data, splits and number of "
    "optimizer steps. Reports scores, significance, cost, and errors per image.",
    groups=[
        ("", CompareConfig),
        ("", ResumeConfig),
        ("data", DataConfig),
        ("", ModelConfig),
        ("", TrainingConfig),
        ("", OutputConfig),
    ],
    positionals=[TRAINING_DATA],
    config_file=True,
    aliases=ALIASES,
    examples=["photos/ --backbones resnet18 --recurrent none,lstm --scans rows"],
    without={ModelConfig: frozenset({"recurrent", "bidirectional", "scan"})},
)
TUNE = CommandOptions(
    "tune",
    "Tune the hyperparameters of one network. Trials are sampled from a search space and scored on validation. Writes "
    "a table of all trials and the best configuration, FOLDER/best.yaml, for train --config.",
    groups=[("", TuneConfig), *TRAINING_GROUPS],
    positionals=[TRAINING_DATA],
    config_file=True,
    aliases=ALIASES,
    examples=[
        "photos/ --space space.yaml --members row-lstm --trials 30",
        "--resume runs/photos-tune-1 --trials 60",
    ],
)
RUNS = CommandOptions(
    "runs",
    "List the runs in a folder with their scores.",
    groups=[("", RunsConfig), ("", OutputConfig)],
    positionals=[Positional("folder", "folder to search (default: runs)", required=False)],
    examples=["runs --sort test"],
)
REPRODUCE = CommandOptions(
    "reproduce",
    "Reproduce a published experiment from a recipe. Reports published and measured numbers side by side; without a "
    "name, lists the recipes. The output folder contains ordinary runs; --resume runs the missing parts.",
    groups=[("", ReproduceConfig), ("", ResumeConfig), ("data", DataConfig), ("", OutputConfig)],
    positionals=[
        Positional("recipe", "recipe name or YAML file", required=False),
        Positional("data", "replacement images: folder, table, zip, or data set name", required=False),
    ],
    aliases=ALIASES,
    examples=[
        "rows-vs-cnn --data-dir ~/data",
        "leaves photos/ --replace mobilenetv2_100=resnet18",
        "fingerspelling --data-dir ~/data --scale paper",
        "--resume runs/fingerspelling-1",
    ],
)
