"""Options of `crossval`, `compare`, `tune` and `reproduce`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tercet.config.commands import TRAINING, OutputConfig, ResumeConfig
from tercet.config.fields import Config, bounded
from tercet.config.model import ModelConfig
from tercet.config.parser import CommandOptions
from tercet.config.presets import PresetConfig
from tercet.config.run import CalibrationConfig, DataConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import Problem

_BUDGET = re.compile(r"(seconds|flops):(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)")


@dataclass(frozen=True)
class CompareConfig(Config):
    """Grid of networks, budget and output."""

    backbones: tuple[Any, ...] = ()
    """Networks to compare: names, YAML files, or mappings of `model` and its options."""
    recurrent: tuple[Literal["none", "rnn", "gru", "lstm"], ...] = ("none",)
    """Recurrent modules between backbone and head."""
    bidirectional: tuple[bool, ...] = (False,)
    """Recurrent modules in one direction (false), in both (true), or each (false,true)."""
    scans: tuple[Literal["pooled", "rows", "columns", "cells", "snake", "pixels"], ...] = ("pooled",)
    """Input sequences of the recurrent modules."""
    sizes: tuple[int, ...] = bounded((), above=0)
    """Input sizes in pixels, square (default: --input.size, else that of each network)."""
    seeds: int = bounded(3, above=0)
    """Number of seeds; every network is trained once per seed."""
    seed: int = bounded(0, least=0)
    """First seed."""
    baseline: str | None = None
    """Network that the others are tested against (default: the first one)."""
    budget: str | None = None
    """Training budget per network, seconds:N or flops:X, instead of an equal number of optimizer steps."""
    match_parameters: bool = False
    """Widen or narrow every network (--hidden-size, else --head-hidden-dim) to match the baseline's parameter count."""
    tolerance: float = bounded(0.05, above=0, below=1)
    """match_parameters: maximum relative deviation."""
    output: str | None = None
    """Output folder (default: runs/DATA-compare-N)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int | None = bounded(None, above=0)
    """Threads per process (default: cores divided by the number of parallel trainings)."""
    tensorboard: bool = False
    """Write TensorBoard logs if tensorboard is installed."""

    def _rules(self) -> Iterable[Problem]:
        for name in ("recurrent", "bidirectional", "scans", "sizes"):
            axis: tuple[Any, ...] = getattr(self, name)
            if len(set(axis)) < len(axis):
                yield Problem(f"{name} lists a value twice", name)
            if not axis and name != "sizes":
                yield Problem(f"{name} is empty", name)
        if self.budget is not None and not self.budget_limit()[1]:
            yield self.problem("budget", "must be seconds:N or flops:X, such as seconds:600 or flops:1e15")

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
class FoldsConfig(Config):
    """Folds, and the members trained in each."""

    folds: int | None = bounded(None, least=2)
    """Number of folds, stratified and grouped (default: the table's fold column if present, else 5)."""
    leave_one_group_out: bool = False
    """One fold per group; groups are defined by data.group_column or data.group_from."""
    fold_members: tuple[str, ...] = ()
    """Train a member in some folds only, such as xception=3+4+5."""
    calibration_fraction: float = bounded(0.0, least=0, below=1)
    """Fraction of images held out from all folds to calibrate the fold mean (0: no calibration)."""

    def _rules(self) -> Iterable[Problem]:
        if self.folds is not None and self.leave_one_group_out:
            yield Problem("give either --folds or --leave-one-group-out", "folds", "leave_one_group_out")
        invalid = [text for text in self.fold_members if not all(text.rpartition("="))]
        if invalid:
            yield Problem(f"fold_members '{', '.join(invalid)}' must have the form MEMBER=FOLD+FOLD", "fold_members")


@dataclass(frozen=True)
class TuneConfig(Config):
    """Search space, number of trials and pruning."""

    space: str | None = None
    """YAML file with the search space: per option, a list of choices or a range {low, high, step, log} (default:
    learning rates, regularization and augmentation)."""
    trials: int = bounded(20, least=2)
    """Total number of trials; the first one uses the given options. With --resume, the new total."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """Early stopping of bad trials: below the median of the same epoch, Hyperband, or none."""


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


CROSSVAL = CommandOptions(FoldsConfig, *TRAINING, CalibrationConfig, OutputConfig)
COMPARE = CommandOptions(
    CompareConfig,
    PresetConfig,
    ResumeConfig,
    DataConfig,
    ModelConfig,
    TrainingConfig,
    OutputConfig,
    without={ModelConfig: frozenset({"recurrent", "bidirectional", "scan"})},  # axes of the grid
)
TUNE = CommandOptions(TuneConfig, *TRAINING, OutputConfig)
REPRODUCE = CommandOptions(ReproduceConfig, ResumeConfig, DataConfig, OutputConfig)
