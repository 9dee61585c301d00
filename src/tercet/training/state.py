"""Where a training stands: the plain values that a checkpoint carries beside the tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tercet.evaluation.metrics import is_better
from tercet.records.history import History
from tercet.records.training_config import Monitor


@dataclass(frozen=True)
class Best:
    """The weights that scored best so far, in a stage or altogether."""

    scores: dict[str, float]
    stage: int
    epoch: int
    file: str
    digest: str


def improves(scores: dict[str, float], rival: Best | None, monitor: Monitor) -> bool:
    """Tell whether scores beat the rival's; the first ones do, and without a validation split the newest always."""
    return rival is None or not scores or is_better(monitor, scores, rival.scores)


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

    def count_step(self, loss: float, num_samples: int) -> None:
        """Count an update and what its batch showed."""
        self.loss_sum += loss * num_samples
        self.num_seen += num_samples
        self.batch, self.stage_step, self.step = self.batch + 1, self.stage_step + 1, self.step + 1

    def count_seconds(self, seconds: float) -> None:
        """Add to the clocks of epoch, stage and training; they go on after a resume."""
        self.epoch_seconds += seconds
        self.stage_seconds += seconds
        self.seconds += seconds

    def begin_epoch(self) -> None:
        """Go to the next epoch of the stage."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum, self.num_right, self.num_seen, self.epoch_seconds = 0.0, 0, 0, 0.0

    def begin_stage(self) -> None:
        """Go to the first epoch of a stage."""
        self.epoch, self.stage_step, self.stage_seconds, self.stage_best = 0, 0, 0.0, None

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
