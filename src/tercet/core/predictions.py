"""`Predictions`: class probabilities with sample ids, class names and labels. N samples, K classes.

The only place where logits become probabilities; shared by all ensembles, metrics, calibration and reports.
"""

from __future__ import annotations

import struct
import tokenize
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.core.errors import DataError
from tercet.core.files import atomic_path
from tercet.core.frames import data_frame

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

UNKNOWN = -1
TOLERANCE = 1e-3  # of row sums; float16 files stay within it
ARRAY_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, EOFError, RuntimeError, MemoryError, ArithmeticError),
    *(AttributeError, SyntaxError, tokenize.TokenError, struct.error, BadZipFile, zlib.error),
)
"""Errors that NumPy raises on truncated, damaged or other files; headers of arrays are parsed as Python literals."""
_UNCHECKED_BYTES, _MAX_RATIO = 1_000_000_000, 100  # votes of many classes are almost only zeros


def save_arrays(path: Path, ids: Sequence[str], classes: Sequence[str], **arrays: NDArray[Any]) -> None:
    """Write ids, classes and arrays as an `.npz` file, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        names = {"ids": np.array(ids, dtype=np.str_), "classes": np.array(classes, dtype=np.str_)}
        np.savez_compressed(stream, **names, **arrays)  # type: ignore[arg-type]  # the stub allows only allow_pickle


def check_unpacked_size(path: Path) -> None:
    """Check that an archive of arrays decompresses to at most 1 GB, or 100 times its size; raises a ValueError."""
    with ZipFile(path) as archive:
        size, limit = sum(entry.file_size for entry in archive.infolist()), _MAX_RATIO * path.stat().st_size
    if size > max(limit, _UNCHECKED_BYTES):
        raise ValueError(f"it has {size} bytes decompressed, more than {_MAX_RATIO} times its size")


def load_arrays(path: Path, *keys: str) -> tuple[Any, ...]:
    """Read what `save_arrays` wrote: ids, classes, and the arrays of `keys`; raises one of `ARRAY_ERRORS`."""
    check_unpacked_size(path)
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
        ids, classes = (tuple(str(name) for name in stored[key]) for key in ("ids", "classes"))
        return ids, classes, *(stored[key] for key in keys)


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """Probabilities of N samples over K classes, with ids and true labels."""

    ids: tuple[str, ...]
    """N unique sample names."""
    classes: tuple[str, ...]
    """K class names in column order."""
    probabilities: Floats
    """N K, rows sum to 1."""
    labels: Ints
    """N true class indices; -1 if unknown."""

    def __post_init__(self) -> None:
        probabilities = np.asarray(self.probabilities, dtype=np.float64)
        labels = np.asarray(self.labels)
        if labels.size and labels.dtype.kind not in "iu":
            raise DataError(f"labels are of type {labels.dtype}, expected class indices")
        labels = labels.astype(np.int64, copy=False)
        object.__setattr__(self, "probabilities", probabilities)
        object.__setattr__(self, "labels", labels)
        expected = (len(self.ids), len(self.classes))
        if probabilities.shape != expected:
            raise DataError(f"probabilities have shape {probabilities.shape}, expected {expected} (samples, classes)")
        if labels.shape != (len(self.ids),):
            raise DataError(f"labels have shape {labels.shape}, expected ({len(self.ids)},)")
        if len(set(self.ids)) != len(self.ids):
            raise DataError("sample ids are not unique, expected one row per sample")
        if len(set(self.classes)) != len(self.classes):
            raise DataError(f"class names are not unique: {', '.join(self.classes)}")
        if labels.size and not (labels.min() >= UNKNOWN and labels.max() < len(self.classes)):
            raise DataError(f"labels lie in {labels.min()}..{labels.max()}, expected -1..{len(self.classes) - 1}")
        if not np.isfinite(probabilities).all():
            row = int(np.argmax(~np.isfinite(probabilities).all(axis=1)))
            raise DataError(f"probabilities of sample '{self.ids[row]}' are not finite")
        if probabilities.size and (probabilities.min() < 0 or abs(probabilities.sum(1) - 1).max() > TOLERANCE):
            raise DataError("rows are not probabilities (negative, or not summing to 1): use Predictions.from_logits")

    @classmethod
    def from_logits(
        cls, logits: ArrayLike, *, ids: Sequence[str], classes: Sequence[str], labels: ArrayLike | None = None
    ) -> Predictions:
        """Convert logits (N K) to probabilities by softmax, in double precision.

        Raises:
            DataError: The logits have another shape, or contain NaN or infinity (minus infinity excludes a class).
        """
        values = np.asarray(logits, dtype=np.float64)
        if values.ndim != 2 or not values.shape[1]:
            raise DataError(f"logits have shape {values.shape}, expected (samples, classes)")
        finite = np.isfinite(values.max(axis=1))
        if not finite.all():
            raise DataError(f"the logits of sample '{ids[int(np.argmin(finite))]}' are not finite")
        exponentials = np.exp(values - values.max(axis=1, keepdims=True))
        return cls.of(exponentials / exponentials.sum(axis=1, keepdims=True), ids=ids, classes=classes, labels=labels)

    @classmethod
    def of(
        cls,
        probabilities: ArrayLike,
        *,
        ids: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        labels: ArrayLike | None = None,
    ) -> Predictions:
        """Create predictions from an array (N K); ids and classes default to 0, 1, ..., labels to unknown."""
        values = np.asarray(probabilities, dtype=np.float64)
        if values.ndim != 2:
            raise DataError(f"probabilities have shape {values.shape}, expected (samples, classes)")
        truth = np.full(len(values), UNKNOWN) if labels is None else np.asarray(labels)
        names = tuple(ids) if ids is not None else tuple(str(index) for index in range(values.shape[0]))
        columns = tuple(classes) if classes is not None else tuple(str(index) for index in range(values.shape[1]))
        return cls(names, columns, values, truth)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        known = self.known
        accuracy = (self.predicted == self.labels)[known].mean() if known.any() else 0
        scored = f", accuracy {accuracy:.4f} of {known.sum()} labelled" if known.any() else ""
        return f"<Predictions: {len(self)} samples, {len(self.classes)} classes{scored}>"

    @property
    def predicted(self) -> Ints:
        """Most probable class index of each sample (N); the lowest index wins a tie."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @property
    def predicted_names(self) -> list[str]:
        """Most probable class name of each sample (N)."""
        return [self.classes[index] for index in self.predicted]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether the true label of each sample is known (N)."""
        return np.not_equal(self.labels, UNKNOWN)

    @property
    def values(self) -> Floats:
        """The probabilities; of `MultilabelPredictions` the scores."""
        return self.probabilities

    def best(self, row: int, top: int) -> dict[str, float]:
        """Return the probabilities of the `top` most probable classes of a sample, highest first."""
        order = np.argsort(-self.probabilities[row], kind="stable")[:top]
        return {self.classes[index]: float(self.probabilities[row, index]) for index in order}

    def take(self, rows: ArrayLike) -> Predictions:
        """Return samples selected by indices or by a mask (N)."""
        selection = np.asarray(rows)
        index = np.arange(len(self))[selection if selection.size else selection.astype(np.int64)]
        ids = tuple(self.ids[row] for row in index)
        return Predictions(ids, self.classes, self.probabilities[index], self.labels[index])

    def with_labels(self, labels: ArrayLike) -> Predictions:
        """Return the same probabilities with other labels (N class indices)."""
        return replace(self, labels=np.asarray(labels))

    def aligned_to(self, other: Predictions) -> Predictions:
        """Return these predictions in the sample and class order of `other`.

        Raises:
            DataError: Samples or classes differ.
        """
        if self.ids == other.ids and self.classes == other.classes:
            return self
        for what, names, others in (("samples", self.ids, other.ids), ("classes", self.classes, other.classes)):
            if set(names) != set(others):
                different = sorted(set(names) ^ set(others))
                raise DataError(
                    f"predictions do not have the same {what}: {len(different)} differ, such as '{different[0]}'"
                )
        row_of = {name: row for row, name in enumerate(self.ids)}
        column_of = {name: column for column, name in enumerate(self.classes)}
        rows = np.array([row_of[name] for name in other.ids], dtype=np.int64)
        columns = np.array([column_of[name] for name in other.classes], dtype=np.int64)
        index_of = np.append(np.argsort(columns), UNKNOWN)  # old class index -> new one; -1 stays -1
        return Predictions(other.ids, other.classes, self.probabilities[rows][:, columns], index_of[self.labels[rows]])

    def to_frame(self) -> Any:
        """Return a pandas DataFrame: id, label, predicted, and one column per class, such as `probability.cat`."""
        names = np.array([*self.classes, None], dtype=object)  # -1, unknown, is the last one
        columns = {"id": self.ids, "label": names[self.labels], "predicted": self.predicted_names}
        return data_frame(columns | {f"probability.{k}": self.probabilities[:, i] for i, k in enumerate(self.classes)})

    def save(self, path: Path) -> None:
        """Write an `.npz` file without pickled objects."""
        save_arrays(path, self.ids, self.classes, probabilities=self.probabilities, labels=self.labels)

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing, damaged, or of another format.
        """
        try:
            return cls(*load_arrays(path, "probabilities", "labels"))
        except ARRAY_ERRORS as error:
            raise DataError(f"{path} is not a predictions file: {error}") from error


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Concatenate predictions of different samples.

    Raises:
        DataError: The classes or their order differ, or a sample occurs twice.
    """
    first = parts[0]
    if any(part.classes != first.classes for part in parts):
        raise DataError("predictions to concatenate have different classes, or another class order")
    return Predictions(
        tuple(name for part in parts for name in part.ids),
        first.classes,
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def aligned(members: Sequence[Predictions]) -> list[Predictions]:
    """Return the members in the sample and class order of the first; labels known to one are set in all.

    Raises:
        DataError: There are no members, or samples, classes or known labels differ.
    """
    if not members:
        raise DataError("an ensemble needs at least one member")
    matched = [member.aligned_to(members[0]) for member in members]
    labels = matched[0].labels.copy()
    for member in matched[1:]:
        conflict = (labels != member.labels) & (labels >= 0) & member.known
        if conflict.any():
            row = int(np.argmax(conflict))
            names = f"'{member.classes[labels[row]]}' and '{member.classes[member.labels[row]]}'"
            raise DataError(f"members disagree about the label of sample '{member.ids[row]}': {names}")
        labels = np.where(labels >= 0, labels, member.labels)
    return [replace(member, labels=labels) for member in matched]
