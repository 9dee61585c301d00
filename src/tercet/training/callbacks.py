"""Callbacks: they observe a training and do not change it. An exception that one raises ends the training."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tercet.core.errors import naming_part
from tercet.core.history import EpochRow

try:
    from torch.utils import tensorboard as _tensorboard
except ImportError:  # an extra: `pip install tercet[track]`
    _tensorboard = None  # type: ignore[assignment]


@dataclass(frozen=True)
class TrainingProgress:
    """State of a training after a step."""

    stage: int
    """Stage number, from 0."""
    num_stages: int
    """Number of stages."""
    step: int
    """Optimizer steps so far, over all stages."""
    total_steps: int
    """Steps of all stages together, if none ends early."""
    rate: float
    """Learning rate of this step."""
    loss: float
    """Loss of this batch."""
    epoch: int = 0
    """Epoch within the stage, from 0."""


@dataclass(frozen=True)
class PhaseProgress:
    """Progress of a part of the work without steps, such as the computation of features."""

    name: str
    """Name of the phase."""
    done: int
    """Number of finished images."""
    total: int
    """Number of images."""


@dataclass(frozen=True)
class TrainingStart:
    """A training that begins or resumes."""

    name: str
    """Name of the member."""
    module: nn.Module
    num_stages: int
    total_steps: int
    """Steps of all stages together, if none ends early."""


EVENTS = ("on_train_begin", "on_train_batch_end", "on_epoch_end", "on_train_end")
"""Methods of callbacks, which get a `TrainingStart`, a `TrainingProgress`, an `EpochRow` and a `TrainingResult`."""
Callback = Any
"""An object with any of these methods; `on_epoch_end` is called when the epoch is validated and saved."""


def notify(callbacks: Sequence[Callback], event: str, argument: Any) -> None:
    """Call a method of the callbacks that have it."""
    for callback in callbacks:
        method = getattr(callback, event, None)
        if method is not None:
            method(argument)


class CustomCallbacks:
    """Forwards events to callbacks of the caller's; an exception becomes a `PartError` that names class and method."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.callbacks = tuple(callbacks)

    def _notify(self, event: str, argument: Any) -> None:
        for callback in self.callbacks:
            with naming_part(f"callback {type(callback).__name__}.{event}"):
                notify([callback], event, argument)

    on_train_begin = partialmethod(_notify, "on_train_begin")
    on_train_batch_end = partialmethod(_notify, "on_train_batch_end")
    on_epoch_end = partialmethod(_notify, "on_epoch_end")
    on_train_end = partialmethod(_notify, "on_train_end")


class EpochLog:
    """Appends one readable line per epoch to a file.

    Args:
        path: The file.
        split: Name of the split whose scores are monitored.
    """

    def __init__(self, path: Path, *, split: str = "validation") -> None:
        self.path, self.split = path, split

    def note(self, text: str) -> None:
        """Append a line that belongs to no epoch."""
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

    def on_epoch_end(self, row: EpochRow) -> None:
        """Append the epoch's line."""
        scores = "  ".join(f"{name} {value:.4f}" for name, value in row.validation.items())
        line = (
            f"stage {row.stage + 1}  epoch {row.epoch + 1}  step {row.step}  "
            f"rate {row.rate:.3g}  train loss {row.train_loss:.4f}  train accuracy {row.train_accuracy:.4f}  "
            f"{self.split} {scores}  {row.seconds:.1f} s"
        )
        self.note(line + ("  best" if row.best else "") + (f"  {row.note}" if row.note else ""))


class EventStream:
    """Writes JSON lines for the parent process, which shows the progress of several trainings.

    Args:
        stream: Where to write.
        interval: Minimum seconds between two step events.
    """

    def __init__(self, stream: IO[str], *, interval: float = 0.2) -> None:
        self.stream = stream
        self.interval = interval
        self._last = 0.0

    def _write(self, event: dict[str, Any]) -> None:
        self.stream.write(json.dumps(event) + "\n")
        self.stream.flush()

    def on_train_batch_end(self, progress: TrainingProgress) -> None:
        """Write a step event, at most one per interval."""
        now = time.monotonic()
        if now - self._last >= self.interval:
            self._last = now
            self._write({"event": "step", **progress.__dict__})

    def on_phase(self, progress: PhaseProgress) -> None:
        """Write a phase event, at most one per interval, and the last one."""
        now = time.monotonic()
        if now - self._last >= self.interval or progress.done == progress.total:
            self._last = now
            self._write({"event": "phase", **progress.__dict__})

    def on_epoch_end(self, row: EpochRow) -> None:
        """Write an epoch event."""
        self._write({"event": "epoch", **row.__dict__})

    def error(self, message: str, exit_code: int) -> None:
        """Write why the training failed."""
        self._write({"event": "error", "message": message, "exit_code": exit_code})


class TensorBoard:
    """Writes scalars to TensorBoard once per epoch, and images that other callbacks draw."""

    def __init__(self, folder: Path) -> None:
        self.writer = _tensorboard.SummaryWriter(str(folder))

    def on_epoch_end(self, row: EpochRow) -> None:
        """Write the epoch's scores."""
        scores = {"loss/train": row.train_loss, "accuracy/train": row.train_accuracy, "rate": row.rate}
        scores |= {f"{name}/validation": value for name, value in row.validation.items()}
        for name, value in scores.items():
            self.writer.add_scalar(name, value, row.step)
        self.writer.flush()

    def image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Add an image, H W 3."""
        self.writer.add_image(name, pixels, step, dataformats="HWC")
        self.writer.flush()


def tensorboard(folder: Path, *, enabled: bool) -> Sequence[TensorBoard]:
    """Return the TensorBoard callback if it is enabled and installed, else an empty list."""
    return [TensorBoard(folder)] if enabled and _tensorboard is not None else []
