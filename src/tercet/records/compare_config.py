"""Options of `compare`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from tercet.ground.errors import require

_BUDGET = re.compile(r"(seconds|flops):(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)")


@dataclass(frozen=True)
class CompareConfig:
    """Grid of networks, budget and output."""

    backbones: tuple[Any, ...] = ()
    """Networks to compare: names, YAML files, or mappings of `model` and its options."""
    recurrent: tuple[Literal["none", "rnn", "gru", "lstm"], ...] = ("none",)
    """Recurrent modules between backbone and head."""
    bidirectional: tuple[bool, ...] = (False,)
    """Whether the recurrent modules read in both directions, such as false,true to compare the two."""
    scans: tuple[Literal["pooled", "rows", "columns", "cells", "snake"], ...] = ("pooled",)
    """Sequences that the recurrent modules process."""
    sizes: tuple[int, ...] = ()
    """Input sizes in pixels, square (default: --input.size, else that of each network)."""
    seeds: int = 3
    """Number of seeds; every network is trained with each."""
    seed: int = 0
    """First seed."""
    baseline: str | None = None
    """Network that the others are tested against (default: the first)."""
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
