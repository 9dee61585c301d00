"""State of a training, and the checkpoint files it resumes from."""

from __future__ import annotations

import hashlib
import io
import pickle  # only for the name of its error
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tercet.config.training import Monitor
from tercet.core.errors import ModelError
from tercet.core.files import atomic_path
from tercet.core.history import History
from tercet.metrics.classification import is_better


@dataclass(frozen=True)
class BestEpoch:
    """The best weights so far, of a stage or of the whole training."""

    scores: dict[str, float]
    stage: int
    epoch: int
    file: str
    """Name of the safetensors file beside the checkpoint."""
    digest: str
    """SHA-256 of that file."""


def improves(scores: dict[str, float], best: BestEpoch | None, monitor: Monitor) -> bool:
    """Whether scores improve on the best so far; the first do, and without validation (empty) all do."""
    return best is None or not scores or is_better(monitor, scores, best.scores)


@dataclass
class TrainingState:
    """Position, sums and best weights of a training: with the tensors, all that a resume needs."""

    stage: int = 0
    epoch: int = 0
    """Epoch within the stage."""
    batch: int = 0
    """Batches done in the epoch."""
    stage_step: int = 0
    step: int = 0
    loss_sum: float = 0.0
    """Sum of the losses of the epoch's samples."""
    num_correct: int = 0
    num_seen: int = 0
    epoch_seconds: float = 0.0
    stage_seconds: float = 0.0
    seconds: float = 0.0
    best: BestEpoch | None = None
    stage_best: BestEpoch | None = None

    def count_step(self, loss: float, num_correct: int, num_samples: int) -> None:
        """Count an optimizer step and add its batch to the sums of the epoch."""
        self.loss_sum += loss * num_samples
        self.num_correct += num_correct
        self.num_seen += num_samples
        self.batch, self.stage_step, self.step = self.batch + 1, self.stage_step + 1, self.step + 1

    def count_seconds(self, seconds: float) -> None:
        """Add to the time of epoch, stage and training; a resume continues from there."""
        self.epoch_seconds += seconds
        self.stage_seconds += seconds
        self.seconds += seconds

    def begin_epoch(self) -> None:
        """Move to the next epoch of the stage."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum, self.num_correct, self.num_seen, self.epoch_seconds = 0.0, 0, 0, 0.0

    def begin_stage(self) -> None:
        """Move to the first epoch of a stage."""
        self.epoch, self.stage_step, self.stage_seconds, self.stage_best = 0, 0, 0.0, None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingState:
        """Restore from the result of `dataclasses.asdict`."""
        best = {key: values[key] and BestEpoch(**values[key]) for key in ("best", "stage_best")}
        return cls(**{**values, **best})


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training, whose module now has the best weights."""

    history: History
    best: BestEpoch
    seconds: float
    steps: int


_MAGIC = b"tercet-checkpoint-1 "
LAST = "last.ckpt"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values atomically, with a SHA-256 of the content.

    Raises:
        StorageError: The disk is full or read-only; the previous checkpoint is untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        stream.write(_MAGIC + digest.encode() + b"\n")
        stream.write(content)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file of `save_checkpoint`; never runs code from it.

    Raises:
        ModelError: The file is missing, truncated, changed, or not a checkpoint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    header, _, body = content.partition(b"\n")
    if not header.startswith(_MAGIC):
        raise ModelError(f"{path} is not a Tercet checkpoint")
    if hashlib.sha256(body).hexdigest().encode() != header[len(_MAGIC) :]:
        raise ModelError(f"{path} is damaged: its content does not match its SHA-256; start again without --resume")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(body), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelError(f"{path} contains more than tensors and plain values and was not loaded") from error
    return state


def remove_unreferenced(folder: Path, keep: Iterable[str]) -> None:
    """Delete weights that are not in `keep`, and temporary files that a crash left."""
    referenced = {*keep, LAST}
    for path in folder.iterdir():
        if path.name not in referenced and (path.suffix == ".safetensors" or path.name.endswith(".tmp")):
            path.unlink(missing_ok=True)
