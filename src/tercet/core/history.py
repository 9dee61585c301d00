"""Training history: one row per epoch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tercet.core.errors import ModelError
from tercet.core.files import write_text

TIME_LIMIT = "training time limit"
"""Note of an epoch after which all remaining stages are left out, too."""


@dataclass(frozen=True)
class EpochRow:
    """Losses and scores of one epoch."""

    stage: int
    """Stage number, from 0."""
    epoch: int
    """Epoch within the stage, from 0."""
    step: int
    """Optimizer steps since the start of training."""
    rate: float
    """Learning rate of the last step."""
    train_loss: float
    """Mean loss over all training samples of the epoch, in training mode."""
    train_accuracy: float
    """Accuracy on the same samples, in training mode (augmentation and noise are active)."""
    validation: dict[str, float]
    """Scores on the validation split, by name."""
    seconds: float
    """Duration of the epoch, validation included."""
    best: bool
    """Whether this is the best epoch of the training so far."""
    note: str = ""
    """Reason for ending the stage after this epoch, if it ended early."""


@dataclass
class History:
    """Epochs in order."""

    rows: list[EpochRow] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[EpochRow]:
        return iter(self.rows)

    def append(self, row: EpochRow) -> None:
        """Add an epoch."""
        self.rows.append(row)

    def column(self, name: str) -> list[float]:
        """Return the values of a field or of a validation score, one per epoch."""
        return [row.validation[name] if name in row.validation else getattr(row, name) for row in self.rows]

    def to_list(self) -> list[dict[str, Any]]:
        """Return plain values for JSON."""
        return [asdict(row) for row in self.rows]

    @classmethod
    def from_list(cls, rows: Sequence[dict[str, Any]]) -> History:
        """Rebuild from the result of `to_list`."""
        return cls([EpochRow(**row) for row in rows])

    def save(self, path: Path) -> None:
        """Write JSON Lines."""
        write_text(path, "".join(json.dumps(row) + "\n" for row in self.to_list()))

    @classmethod
    def load(cls, path: Path) -> History:
        """Read what `save` wrote.

        Raises:
            ModelError: The file is missing or damaged.
        """
        try:
            return cls.from_list([json.loads(line) for line in path.read_text("utf-8").splitlines()])
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"cannot read the history {path}: {error}") from error
