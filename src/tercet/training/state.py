"""Where a training stands: the plain values that a checkpoint carries beside the tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tercet.records.history import History


@dataclass(frozen=True)
class Best:
    """The weights that scored best so far, in a stage or altogether."""

    scores: dict[str, float]
    stage: int
    epoch: int
    file: str
    digest: str


@dataclass
class TrainingState:
    """Where the training stands; with the tensors, all that a resume needs."""

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    stage_step: int = 0
    step: int = 0
    loss_sum: float = 0.0
    num_right: int = 0
    num_seen: int = 0
    epoch_seconds: float = 0.0
    stage_seconds: float = 0.0
    seconds: float = 0.0
    best: Best | None = None
    stage_best: Best | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingState:
        """Rebuild from `dataclasses.asdict`."""
        bests = {key: values[key] and Best(**values[key]) for key in ("best", "stage_best")}
        return cls(**{**values, **bests})


@dataclass(frozen=True)
class TrainingResult:
    """What a training leaves: the module carries the best weights."""

    history: History
    best: Best
    seconds: float
    steps: int
