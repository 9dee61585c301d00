"""`MultilabelPredictions`: the multi-label counterpart of `Predictions`. N samples, K classes.

Labels have independent scores, and the label set of a sample may be empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.core.errors import DataError
from tercet.core.files import csv_rows
from tercet.core.frames import data_frame
from tercet.core.predictions import ARRAY_ERRORS, UNKNOWN, Floats, load_arrays, save_arrays
from tercet.core.untrusted_files import escape_formula

LabelMatrix = NDArray[np.bool_]
"""N K: the labels of each sample."""
SEPARATOR = " | "
"""Separator of the labels in a CSV cell."""


@dataclass(frozen=True, eq=False, repr=False)
class MultilabelPredictions:
    """Label scores of N samples, the predicted label sets, and the true ones if known."""

    ids: tuple[str, ...]
    """N unique sample names."""
    classes: tuple[str, ...]
    """K label names in column order."""
    scores: Floats
    """N K, in [0, 1]; rows need not sum to 1."""
    chosen: LabelMatrix
    """N K, the predicted labels; rows may be empty."""
    truth: NDArray[np.int8]
    """N K: 1 for true labels, 0 for others, -1 in the whole row if unknown."""

    def __post_init__(self) -> None:
        scores, truth = np.asarray(self.scores, dtype=np.float64), np.asarray(self.truth)
        chosen = np.asarray(self.chosen)
        expected = (len(self.ids), len(self.classes))
        for what, values in (("scores", scores), ("chosen labels", chosen), ("true labels", truth)):
            if values.shape != expected:
                raise DataError(f"{what} have shape {values.shape}, expected {expected} (samples, labels)")
        if chosen.size and chosen.dtype != np.bool_:
            raise DataError(f"chosen labels are of type {chosen.dtype}, expected bool")
        unknown = truth == UNKNOWN
        if not ((truth >= UNKNOWN) & (truth <= 1)).all() or (unknown.any(axis=1) != unknown.all(axis=1)).any():
            raise DataError("true labels must be 1 or 0, or -1 in the whole row if unknown")
        if not ((scores >= 0) & (scores <= 1)).all():
            row = int(np.argmin(((scores >= 0) & (scores <= 1)).all(axis=1)))
            raise DataError(f"scores of sample '{self.ids[row]}' do not lie in [0, 1]")
        if len(set(self.ids)) != len(self.ids):
            raise DataError("sample ids are not unique, expected one row per sample")
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
        """Convert logits (N K) to scores by the logistic function, and to label sets by the threshold.

        Raises:
            DataError: The logits have another shape, or contain NaN.
        """
        values = np.asarray(logits, dtype=np.float64)
        if values.shape != (len(ids), len(classes)):
            raise DataError(f"logits have shape {values.shape}, expected {(len(ids), len(classes))} (samples, labels)")
        if np.isnan(values).any():
            raise DataError(f"the logits of sample '{ids[int(np.argmax(np.isnan(values).any(axis=1)))]}' contain NaN")
        scores = 0.5 * (1 + np.tanh(0.5 * values))  # the logistic function, without overflow
        labels = np.full(values.shape, UNKNOWN) if truth is None else np.asarray(truth)
        return cls(tuple(ids), tuple(classes), scores, scores > threshold, labels)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        known = f", {self.known.sum()} with known labels" if self.known.any() else ""
        return f"<MultilabelPredictions: {len(self)} samples, {len(self.classes)} labels{known}>"

    @property
    def values(self) -> Floats:
        """The scores; of `Predictions` the probabilities."""
        return self.scores

    @property
    def known(self) -> LabelMatrix:
        """Whether the true labels of each sample are known (N)."""
        return np.asarray(np.not_equal(self.truth, UNKNOWN).all(axis=1))

    @property
    def predicted_names(self) -> list[tuple[str, ...]]:
        """Names of the chosen labels of each sample (N), highest score first."""
        return [self._names(self.chosen[row], row) for row in range(len(self))]

    @property
    def true_names(self) -> list[tuple[str, ...] | None]:
        """Names of the true labels of each sample (N) in class order; None if unknown."""
        return [
            tuple(self.classes[label] for label in np.flatnonzero(row == 1)) if known else None
            for row, known in zip(self.truth, self.known, strict=True)
        ]

    def _names(self, chosen: LabelMatrix, row: int) -> tuple[str, ...]:
        labels = np.flatnonzero(chosen)
        return tuple(self.classes[label] for label in labels[np.argsort(-self.scores[row, labels], kind="stable")])

    def best(self, row: int, top: int) -> dict[str, float]:
        """Return the scores of the `top` labels of a sample and of all chosen labels, highest first."""
        order = np.argsort(-self.scores[row], kind="stable")
        return {
            self.classes[label]: float(self.scores[row, label])
            for rank, label in enumerate(order)
            if rank < top or self.chosen[row, label]
        }

    def take(self, rows: ArrayLike) -> MultilabelPredictions:
        """Return samples selected by indices or by a mask (N)."""
        selection = np.asarray(rows)
        index = np.arange(len(self))[selection if selection.size else selection.astype(np.int64)]
        ids = tuple(self.ids[row] for row in index)
        return MultilabelPredictions(ids, self.classes, self.scores[index], self.chosen[index], self.truth[index])

    def with_threshold(self, threshold: float) -> MultilabelPredictions:
        """Return the same scores with the labels chosen whose score exceeds the threshold."""
        return replace(self, chosen=self.scores > threshold)

    def to_frame(self) -> Any:
        """Return a pandas DataFrame: id, labels, predicted, and one column per label, such as `score.cat`."""
        columns = {"id": self.ids, "labels": self.true_names, "predicted": self.predicted_names}
        return data_frame(columns | {f"score.{k}": self.scores[:, i] for i, k in enumerate(self.classes)})

    def save(self, path: Path) -> None:
        """Write an `.npz` file without pickled objects."""
        save_arrays(path, self.ids, self.classes, scores=self.scores, chosen=self.chosen, truth=self.truth)

    @classmethod
    def load(cls, path: Path) -> MultilabelPredictions:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing, damaged, or of another format.
        """
        try:
            return cls(*load_arrays(path, "scores", "chosen", "truth"))
        except ARRAY_ERRORS as error:
            raise DataError(f"{path} is not a multi-label predictions file: {error}") from error

    def write_csv(self, path: Path) -> None:
        """Write a CSV table, atomically: id, labels (if any are known), predicted, and one score per label.

        Labels in a cell are separated by ` | `. Cells that look like formulas are prefixed with `'`.

        Raises:
            StorageError: The file cannot be written.
        """
        labelled = bool(self.known.any())
        with csv_rows(path) as write:
            write(["id", *(["labels"] if labelled else []), "predicted", *map(escape_formula, self.classes)])
            predicted, true = self.predicted_names, self.true_names
            for row, name in enumerate(self.ids):
                label_sets = [*([true[row] or ()] if labelled else []), predicted[row]]
                texts = [name, *(SEPARATOR.join(names) for names in label_sets)]
                write([*map(escape_formula, texts), *self.scores[row].tolist()])
