"""`MultilabelPredictions`: what was said of images that show a set of labels each; the currency of everything after.

The sibling of `Predictions`: labels do not compete for one probability, and a set may be empty. N samples, K classes.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.core.errors import DataError
from tercet.core.files import atomic_path
from tercet.core.predictions import DAMAGED, UNKNOWN, Floats, load_arrays, save_arrays
from tercet.core.untrusted_files import escape_formula

LabelMatrix = NDArray[np.bool_]
"""N K: which labels each sample has."""
SEPARATOR = " | "
"""What stands between the labels of one cell in a table for people."""


@dataclass(frozen=True, eq=False)
class MultilabelPredictions:
    """A score of every label for N samples, the sets chosen by them, and, where known, the true sets."""

    ids: tuple[str, ...]
    """N sample names, all different."""
    classes: tuple[str, ...]
    """K label names, in the order of the columns."""
    scores: Floats
    """N K, in [0, 1]; rows need not sum to anything."""
    chosen: LabelMatrix
    """N K, the labels that were said; a row may be empty."""
    truth: NDArray[np.int8]
    """N K, 1 for the labels that a sample has and 0 for the others; a row of -1 where that is unknown."""

    def __post_init__(self) -> None:
        scores, truth = np.asarray(self.scores, dtype=np.float64), np.asarray(self.truth)
        chosen = np.asarray(self.chosen)
        expected = (len(self.ids), len(self.classes))
        for what, values in (("scores", scores), ("chosen sets", chosen), ("true sets", truth)):
            if values.shape != expected:
                raise DataError(f"{what} have shape {values.shape}, expected {expected} (samples, labels)")
        if chosen.size and chosen.dtype != np.bool_:
            raise DataError(f"chosen sets are of type {chosen.dtype}, expected true and false")
        unknown = truth == UNKNOWN
        if not ((truth >= UNKNOWN) & (truth <= 1)).all() or (unknown.any(axis=1) != unknown.all(axis=1)).any():
            raise DataError("true sets hold 1 and 0, or -1 in a whole row where they are unknown")
        if not ((scores >= 0) & (scores <= 1)).all():
            row = int(np.argmin(((scores >= 0) & (scores <= 1)).all(axis=1)))
            raise DataError(f"the scores of sample '{self.ids[row]}' do not all lie in [0, 1]")
        if len(set(self.ids)) != len(self.ids):
            raise DataError("sample ids are not unique: one row a sample is needed")
        if len(set(self.classes)) != len(self.classes):
            raise DataError(f"label names are not unique: {', '.join(self.classes)}")
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "chosen", chosen.astype(np.bool_, copy=False))
        object.__setattr__(self, "truth", truth.astype(np.int8, copy=False))

    @classmethod
    def from_logits(
        cls,
        logits: ArrayLike,
        *,
        ids: Sequence[str],
        classes: Sequence[str],
        truth: ArrayLike | None = None,
        threshold: float = 0.5,
    ) -> MultilabelPredictions:
        """Turn logits (N K) into scores by the logistic function, and into sets: the labels above the threshold.

        Raises:
            DataError: They are not of this shape, or hold NaN.
        """
        values = np.asarray(logits, dtype=np.float64)
        if values.shape != (len(ids), len(classes)):
            raise DataError(f"logits have shape {values.shape}, expected {(len(ids), len(classes))} (samples, labels)")
        if np.isnan(values).any():
            raise DataError(f"the logits of sample '{ids[int(np.argmax(np.isnan(values).any(axis=1)))]}' hold NaN")
        scores = 0.5 * (1 + np.tanh(0.5 * values))  # the logistic function, without overflow
        known = np.full(values.shape, UNKNOWN) if truth is None else np.asarray(truth)
        return cls(tuple(ids), tuple(classes), scores, scores > threshold, known)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def known(self) -> LabelMatrix:
        """Which samples have a known true set (N)."""
        return np.asarray(np.not_equal(self.truth, UNKNOWN).all(axis=1))

    @property
    def predicted_names(self) -> list[tuple[str, ...]]:
        """The names of each sample's chosen labels (N), the highest score first."""
        return [self._names(self.chosen[row], row) for row in range(len(self))]

    @property
    def true_names(self) -> list[tuple[str, ...] | None]:
        """The names of each sample's true labels (N), in class order; None where they are unknown."""
        return [
            tuple(self.classes[label] for label in np.flatnonzero(row == 1)) if known else None
            for row, known in zip(self.truth, self.known, strict=True)
        ]

    def _names(self, chosen: LabelMatrix, row: int) -> tuple[str, ...]:
        labels = np.flatnonzero(chosen)
        return tuple(self.classes[label] for label in labels[np.argsort(-self.scores[row, labels], kind="stable")])

    def best(self, row: int, top: int) -> dict[str, float]:
        """Return the scores of the `top` highest labels of a sample, and of all that were chosen, highest first."""
        order = np.argsort(-self.scores[row], kind="stable")
        return {
            self.classes[label]: float(self.scores[row, label])
            for place, label in enumerate(order)
            if place < top or self.chosen[row, label]
        }

    def take(self, rows: ArrayLike) -> MultilabelPredictions:
        """Return some samples: indices or a mask over N."""
        wanted = np.asarray(rows)
        index = np.arange(len(self))[wanted if wanted.size else wanted.astype(np.int64)]
        ids = tuple(self.ids[row] for row in index)
        return MultilabelPredictions(ids, self.classes, self.scores[index], self.chosen[index], self.truth[index])

    def with_chosen(self, chosen: ArrayLike) -> MultilabelPredictions:
        """Return the same scores with these sets (N K)."""
        return replace(self, chosen=np.asarray(chosen))

    def save(self, path: Path) -> None:
        """Write an `.npz` file that runs no code when read."""
        save_arrays(path, self.ids, self.classes, scores=self.scores, chosen=self.chosen, truth=self.truth)

    @classmethod
    def load(cls, path: Path) -> MultilabelPredictions:
        """Read what `save` wrote.

        Raises:
            DataError: The file is absent, damaged, or of another kind.
        """
        try:
            return cls(*load_arrays(path, "scores", "chosen", "truth"))
        except DAMAGED as error:
            raise DataError(f"{path} holds no predictions of label sets: {error}") from error

    def write_csv(self, path: Path) -> None:
        """Write a table for people, atomically: id, labels (where any set is known), predicted, one score a label.

        The labels of a cell stand with ` | ` between them. Cells that a spreadsheet may run get a `'` in front.

        Raises:
            StorageError: The file cannot be written.
        """
        labelled = bool(self.known.any())
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
        ):
            writer = csv.writer(stream)
            writer.writerow(["id", *(["labels"] if labelled else []), "predicted", *map(escape_formula, self.classes)])
            said, true = self.predicted_names, self.true_names
            for row, name in enumerate(self.ids):
                sets = [true[row] or ()] if labelled else []
                texts = [name, *(SEPARATOR.join(names) for names in (*sets, said[row]))]
                writer.writerow([*map(escape_formula, texts), *self.scores[row].tolist()])
