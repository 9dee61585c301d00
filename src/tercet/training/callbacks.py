"""Those who watch a training: they are told, and can change nothing; an exception of theirs ends it, saved."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tercet.core.history import EpochRow

try:
    from torch.utils import tensorboard as _tensorboard
except ImportError:  # an extra: `pip install tercet[track]`
    _tensorboard = None  # type: ignore[assignment]


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training stands."""

    stage: int
    """Stage number, from 0."""
    num_stages: int
    """How many stages there are."""
    step: int
    """Updates made."""
    total_steps: int
    """Updates of all stages together, if none ends early."""
    rate: float
    """Learning rate of the last update."""
    loss: float
    """Loss of the last batch."""


class Callback(Protocol):
    """Something that is told how a training goes."""

    def step(self, progress: TrainingProgress) -> None:
        """Hear of an update."""
        ...

    def epoch(self, row: EpochRow) -> None:
        """Hear of an epoch that ended."""
        ...


class EpochLog:
    """One readable line an epoch, at the end of a file.

    Args:
        path: The file.
        split: The split whose scores choose.
    """

    def __init__(self, path: Path, *, split: str = "validation") -> None:
        self.path, self.split = path, split

    def note(self, text: str) -> None:
        """Append a line that belongs to no epoch."""
        self._append(text)

    def step(self, progress: TrainingProgress) -> None:
        """Updates are not logged."""

    def epoch(self, row: EpochRow) -> None:
        """Append a line."""
        scores = "  ".join(f"{name} {value:.4f}" for name, value in row.validation.items())
        line = (
            f"stage {row.stage + 1}  epoch {row.epoch + 1}  step {row.step}  "
            f"rate {row.rate:.3g}  train loss {row.train_loss:.4f}  train accuracy {row.train_accuracy:.4f}  "
            f"{self.split} {scores}  {row.seconds:.1f} s"
        )
        self._append(line + ("  best" if row.best else "") + (f"  {row.note}" if row.note else ""))

    def _append(self, text: str) -> None:
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")


class EventStream:
    """JSON objects, one a line, for a process that draws the progress of several trainings.

    Args:
        stream: Where to write.
        interval: Least seconds between two updates that are reported.
    """

    def __init__(self, stream: IO[str], *, interval: float = 0.2) -> None:
        self.stream = stream
        self.interval = interval
        self._last = 0.0

    def _write(self, event: dict[str, Any]) -> None:
        self.stream.write(json.dumps(event) + "\n")
        self.stream.flush()

    def step(self, progress: TrainingProgress) -> None:
        """Report an update, unless one was reported a moment ago."""
        now = time.monotonic()
        if now - self._last >= self.interval:
            self._last = now
            self._write({"event": "step", **progress.__dict__})

    def epoch(self, row: EpochRow) -> None:
        """Report the epoch."""
        self._write({"event": "epoch", **row.__dict__})

    def error(self, message: str, exit_code: int) -> None:
        """Report why the training ends early."""
        self._write({"event": "error", "message": message, "exit_code": exit_code})


class TensorBoard:
    """Scalars for TensorBoard, one point an epoch, and pictures that others draw."""

    def __init__(self, folder: Path) -> None:
        self.writer = _tensorboard.SummaryWriter(str(folder))

    def step(self, progress: TrainingProgress) -> None:
        """Updates are not drawn."""

    def epoch(self, row: EpochRow) -> None:
        """Add the epoch's scores."""
        scores = {"loss/train": row.train_loss, "accuracy/train": row.train_accuracy, "rate": row.rate}
        scores |= {f"{name}/validation": value for name, value in row.validation.items()}
        for name, value in scores.items():
            self.writer.add_scalar(name, value, row.step)
        self.writer.flush()

    def image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Add a picture, H W 3."""
        self.writer.add_image(name, pixels, step, dataformats="HWC")
        self.writer.flush()


def tensorboard(folder: Path, *, wanted: bool) -> Sequence[TensorBoard]:
    """Return the TensorBoard observer where it is wanted and installed, else nothing."""
    return [TensorBoard(folder)] if wanted and _tensorboard is not None else []
