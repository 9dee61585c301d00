"""The options of a comparison: the grid, what makes it fair, and where it goes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from tercet.ground.errors import require

_BUDGET = re.compile(r"(seconds|flops):(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)")


@dataclass(frozen=True)
class CompareConfig:
    """The grid of networks, what makes the comparison fair, and where it goes."""

    backbones: tuple[Any, ...] = ()
    """Networks to compare: names, YAML files, or mappings of `model` and any option of its own."""
    recurrent: tuple[Literal["none", "rnn", "gru", "lstm"], ...] = ("none",)
    """Recurrent modules between backbone and head."""
    bidirectional: tuple[bool, ...] = (False,)
    """Whether the recurrent modules read in both directions, such as false,true to compare the two."""
    scans: tuple[Literal["pooled", "rows", "columns", "cells", "snake"], ...] = ("pooled",)
    """What the recurrent modules read."""
    sizes: tuple[int, ...] = ()
    """Input sizes in pixels, all square (default: each network's own, or --input.size)."""
    seeds: int = 3
    """Trainings of every network, each with a seed of its own; the same seeds for all networks."""
    seed: int = 0
    """The first seed."""
    baseline: str | None = None
    """Name of the network that the others are tested against (default: the first)."""
    budget: str | None = None
    """seconds:N or flops:X for each training, instead of the same number of updates."""
    match_parameters: bool = False
    """Widen or narrow every network (--hidden-size, else --head-hidden-dim) to the baseline's number of parameters."""
    tolerance: float = 0.05
    """match_parameters: largest deviation, as a share of the baseline's number."""
    output: str | None = None
    """Folder (default: runs/ and the data's name with a number)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int | None = None
    """Threads a process (default: the cores are shared among trainings side by side)."""
    tensorboard: bool = False
    """Write TensorBoard scalars where tensorboard is installed."""

    def __post_init__(self) -> None:
        axes = ("recurrent", "bidirectional", "scans", "sizes")
        values: dict[str, tuple[Any, ...]] = {axis: getattr(self, axis) for axis in axes}
        require(
            [
                *(len(set(given)) < len(given) and f"{axis} names a value twice" for axis, given in values.items()),
                *(axis != "sizes" and not given and f"{axis} is empty" for axis, given in values.items()),
                any(size < 1 for size in self.sizes) and "sizes must be positive",
                self.seeds < 1 and f"seeds {self.seeds} must be positive",
                self.seed < 0 and "seed must not be negative",
                self.budget is not None
                and (not _BUDGET.fullmatch(self.budget) or not self.limit()[1])
                and f"budget '{self.budget}' must be seconds:N or flops:X, such as seconds:600 or flops:1e15",
                not 0 < self.tolerance < 1 and f"tolerance {self.tolerance} must lie in (0, 1)",
                self.threads is not None and self.threads < 1 and "threads must be positive",
            ]
        )

    def limit(self) -> tuple[str, float]:
        """Return the kind of the budget (`updates`, `seconds` or `flops`) and its amount (0 for `updates`)."""
        found = _BUDGET.fullmatch(self.budget or "")
        return (found[1], float(found[2])) if found else ("updates", 0.0)

    def every_seed(self) -> range:
        """Return the seeds."""
        return range(self.seed, self.seed + self.seeds)
