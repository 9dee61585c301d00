"""The history of a training: one row an epoch, and everybody reads it (bars, stopping, choosing, plots)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tercet.core.errors import ModelError
from tercet.core.files import write_text


@dataclass(frozen=True)
class EpochRow:
    """One epoch: where it stands in the plan, what it cost and what it reached."""

    stage: int
    """Stage number, from 0."""
    epoch: int
    """Epoch within the stage, from 0."""
    step: int
    """Updates made since the training began."""
    rate: float
    """Learning rate of the last update."""
    train_loss: float
    """Mean loss over all training samples of the epoch, in training mode."""
    train_accuracy: float
    """Share right over the same samples, in training mode (augmented images, noise on)."""
    validation: dict[str, float]
    """Scores on the validation split, by name."""
    seconds: float
    """Time of the epoch, validation included."""
    best: bool
    """Whether this is the best epoch of the whole training so far."""
    note: str = ""
    """Why the stage ended here, where it did."""


@dataclass
class History:
    """Epoch rows in order."""

    rows: list[EpochRow] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[EpochRow]:
        return iter(self.rows)

    def append(self, row: EpochRow) -> None:
        """Add the newest epoch."""
        self.rows.append(row)

    def column(self, name: str) -> list[float]:
        """Return one value an epoch, by field name or by the name of a validation score."""
        return [row.validation[name] if name in row.validation else getattr(row, name) for row in self.rows]

    def to_list(self) -> list[dict[str, Any]]:
        """Return plain values."""
        return [asdict(row) for row in self.rows]

    @classmethod
    def from_list(cls, rows: Sequence[dict[str, Any]]) -> History:
        """Rebuild from `to_list`'s result."""
        return cls([EpochRow(**row) for row in rows])

    def save(self, path: Path) -> None:
        """Write one JSON object a line."""
        write_text(path, "".join(json.dumps(row) + "\n" for row in self.to_list()))

    @classmethod
    def load(cls, path: Path) -> History:
        """Read what `save` wrote.

        Raises:
            ModelError: The file is absent or damaged.
        """
        try:
            return cls.from_list([json.loads(line) for line in path.read_text("utf-8").splitlines()])
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"cannot read the history {path}: {error}") from error
