"""`SampleTable`: one row per image, and its CSV form, from which a resumed run restores the same rows and splits.

N samples, K classes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.core.errors import DataError
from tercet.core.files import csv_text, write_text
from tercet.core.untrusted_files import decode_text, parse_table
from tercet.data.memory_sources import DigestSource
from tercet.data.readers.columns import format_label_sets, membership_of, parse_label_sets, placeholder_labels
from tercet.data.readers.scan import SkippedFile
from tercet.data.sources import ImageSource

Ints = NDArray[np.int64]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
LEFT_OUT = ""
"""Split of rows that are not used: unlabelled, or beyond `data.limit`."""
UNLABELLED = -1
IN_MEMORY = re.compile(r"<.*>")
"""Form of the name of data that were given as Python objects, in place of a path."""
PIXEL_BYTES = 8
"""Bytes of a pixel digest in tables, bundles and exported files; two of ten million images collide with 3e-6."""
_COLUMNS = ("id", "location", "label", "split", "group", "fold", "weight", "checksum", "pixels", "copies")


@dataclass(frozen=True, eq=False)
class SampleTable:
    """Image ids, locations, labels, and optional groups, splits, folds and weights.

    Raises:
        DataError: Ids are not unique, columns differ in length, or a label or split is invalid.
    """

    name: str
    """Name of the data, for run folders and reports."""
    ids: tuple[str, ...]
    """N unique sample names."""
    locations: tuple[str, ...]
    """N locations within the source: relative path, archive member, or array index as text."""
    labels: Ints
    """N class indices, -1 if unlabelled. For multi-label data: 0, or -1 if the label set is unknown."""
    classes: tuple[str, ...]
    """K class names, in the order of the indices."""
    source: ImageSource
    groups: tuple[str, ...] | None = None
    """N group names; all rows of a group are in the same split."""
    splits: tuple[str, ...] | None = None
    """N times train, val, test, or `LEFT_OUT`."""
    folds: Ints | None = None
    """N fold numbers given with the data."""
    weights: NDArray[np.float64] | None = None
    """N sample weights given with the data."""
    notes: tuple[str, ...] = ()
    """Sentences for the report about skipped or dropped data."""
    membership: NDArray[np.bool_] | None = None
    """N K multi-hot labels, for multi-label data; a row may be empty."""
    missing: tuple[str, ...] = ()
    """Files that a table lists but that do not exist, with line numbers; they have no rows."""
    empty: tuple[str, ...] = ()
    """Class folders without an image."""
    layout: str = ""
    """How the folders were read, in one line."""
    unlabelled: tuple[str, ...] = ()
    """Locations of the images of a test folder without class folders; they have no rows."""
    skipped: tuple[SkippedFile, ...] = ()
    """Files that are not images of the table, with the reason; a table of files does not list others."""
    pixels: tuple[bytes, ...] | None = None
    """N digests of the decoded pixels (`PIXEL_BYTES`); None before images are decoded."""
    copies: Ints | None = None
    """N numbers of groups of copies, from 1; 0 for an image without a copy. None if they were not searched."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", np.asarray(self.labels, dtype=np.int64))
        columns = {
            "locations": self.locations,
            "labels": self.labels,
            "groups": self.groups,
            "splits": self.splits,
            "folds": self.folds,
            "weights": self.weights,
            "label sets": self.membership,
            "pixel digests": self.pixels,
            "groups of copies": self.copies,
        }
        for column, values in columns.items():
            if values is not None and len(values) != len(self.ids):
                raise DataError(f"{self.name}: {len(values)} {column} for {len(self.ids)} samples")
        if self.membership is not None and self.membership.shape[1:] != (len(self.classes),):
            raise DataError(f"{self.name}: label sets of shape {self.membership.shape} for {len(self.classes)} labels")
        if len(set(self.ids)) != len(self.ids):
            raise DataError(f"{self.name}: sample id '{_first_duplicate(self.ids)}' occurs twice: ids must be unique")
        if len(set(self.classes)) != len(self.classes):
            raise DataError(f"{self.name}: class '{_first_duplicate(self.classes)}' occurs twice")
        if len(self) and not (self.labels.min() >= UNLABELLED and self.labels.max() < len(self.classes)):
            interval = f"{self.labels.min()}..{self.labels.max()}"
            raise DataError(f"{self.name}: labels lie in {interval}, expected -1..{len(self.classes) - 1}")
        if self.splits is not None and (unknown := set(self.splits) - {*SPLITS, LEFT_OUT}):
            raise DataError(f"{self.name}: split '{min(unknown)}' is not one of {', '.join(SPLITS)}")

    def __len__(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        return f"<{self.name}>"  # the name of data without a path, in messages and files; see IN_MEMORY

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    def take(self, rows: ArrayLike) -> SampleTable:
        """Return some rows in the given order: positions, or a mask over N."""
        index: Ints = np.arange(len(self))[np.asarray(rows)]

        def pick(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[row] for row in index)

        return replace(
            self,
            ids=pick(self.ids),
            locations=pick(self.locations),
            labels=self.labels[index],
            groups=None if self.groups is None else pick(self.groups),
            splits=None if self.splits is None else pick(self.splits),
            folds=None if self.folds is None else self.folds[index],
            weights=None if self.weights is None else self.weights[index],
            membership=None if self.membership is None else self.membership[index],
            pixels=None if self.pixels is None else tuple(self.pixels[row] for row in index),
            copies=None if self.copies is None else self.copies[index],
        )

    def rows_of(self, split: Split) -> Ints:
        """Return the positions of a split's rows; without splits every row is a training row."""
        if split not in SPLITS:
            raise ValueError(f"split '{split}' is not one of {', '.join(SPLITS)}")
        if self.splits is None:
            return np.arange(len(self) if split == "train" else 0, dtype=np.int64)
        return np.flatnonzero(np.array(self.splits, dtype=np.str_) == split).astype(np.int64)

    def targets(self, rows: ArrayLike) -> Ints:
        """Return training targets: class indices, or multi-hot rows (rows K) of 0 and 1; -1 if unknown."""
        index = np.asarray(rows)
        if self.membership is None:
            return np.asarray(self.labels[index])
        unknown = self.labels[index] == UNLABELLED
        return np.where(unknown[:, None], UNLABELLED, self.membership[index].astype(np.int64))

    def normalized_weights(self) -> NDArray[np.float32] | None:
        """Return the sample weights (N), divided by their mean; None if there are none."""
        return None if self.weights is None else (self.weights / self.weights.mean()).astype(np.float32)

    def classes_in(self, rows: ArrayLike) -> set[int]:
        """Return the class indices that occur in some rows."""
        index = np.asarray(rows)
        if self.membership is not None:
            return set(np.flatnonzero(self.membership[index].any(axis=0)).tolist())
        return set(self.labels[index].tolist()) - {UNLABELLED}

    def class_counts(self) -> Ints:
        """Return the number of labelled rows of each class (K)."""
        if self.membership is not None:
            return np.asarray(self.membership.sum(axis=0, dtype=np.int64))
        return np.bincount(self.labels[self.labels != UNLABELLED], minlength=self.num_classes).astype(np.int64)

    def with_splits(self, splits: Sequence[str]) -> SampleTable:
        """Return the same rows with other splits (N names)."""
        return replace(self, splits=tuple(splits))

    def with_notes(self, *notes: str) -> SampleTable:
        """Return the same rows with additional notes."""
        return replace(self, notes=(*self.notes, *notes))

    def checksums(self) -> list[int]:
        """Return the CRC-32 of every image's stored bytes (N)."""
        return [self.source.checksum(location) for location in self.locations]

    def digests(self, rows: ArrayLike) -> list[bytes]:
        """Return content digests of some rows; a file has the same digest in every data set."""
        return [self.source.digest(self.locations[row]) for row in np.asarray(rows)]

    def fingerprint(self) -> str:
        """Return a SHA-256 over ids, labels, class names and image contents, the key of prediction caches."""
        digest = hashlib.sha256(repr((self.ids, self.classes)).encode("utf-8", "surrogatepass"))
        digest.update(self.labels.tobytes())
        if self.membership is not None:
            digest.update(self.membership.tobytes())
        digest.update(np.array(self.checksums(), dtype=np.uint32).tobytes())
        return digest.hexdigest()

    def label_names(self) -> list[str]:
        """Return the class name of every row, or its label set as JSON (N); empty if unlabelled."""
        if self.membership is None:
            return [self.classes[label] if label != UNLABELLED else "" for label in self.labels]
        return format_label_sets(self.membership, self.labels != UNLABELLED, self.classes)

    def save(self, path: Path) -> None:
        """Write one CSV row per sample, atomically, for `load_samples`."""
        blank = [""] * len(self)
        rows = zip(
            self.ids,
            self.locations,
            self.label_names(),
            self.splits or blank,
            self.groups or blank,
            blank if self.folds is None else self.folds.tolist(),
            blank if self.weights is None else map(repr, self.weights.tolist()),
            (digest.hex() for digest in self.digests(range(len(self)))),
            blank if self.pixels is None else (digest.hex() for digest in self.pixels),
            blank if self.copies is None else self.copies.tolist(),
            strict=True,
        )
        write_text(path, csv_text([_COLUMNS, *rows]))


def _first_duplicate(names: Iterable[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def load_samples(
    path: Path, *, name: str, classes: Sequence[str], multilabel: bool = False, weighted: bool = False
) -> SampleTable:
    """Read a table that `SampleTable.save` wrote; its source cannot read pixels, which are in the run's image cache.

    Args:
        path: The file.
        name: Name of the data.
        classes: The classes of the run.
        multilabel: Whether an image has a set of labels.
        weighted: Whether to read the weights of the samples.

    Raises:
        DataError: The file cannot be read, or contains unknown classes.
    """
    rows = _read_csv(path)
    index_of = {label: index for index, label in enumerate(classes)} | {"": UNLABELLED}
    cells = [row["label"] for row in rows.values()]
    try:
        label_sets = parse_label_sets(cells) if multilabel else None
        membership = None if label_sets is None else membership_of(label_sets, classes)
        labels = [index_of[cell] for cell in cells] if label_sets is None else placeholder_labels(label_sets)
    except KeyError as error:
        raise DataError(f"the samples {path} contain {error}, which is not a class of the run") from error
    except ValueError as error:
        raise DataError(f"the samples {path} contain an invalid label set: {error}") from error
    try:
        digests = {row["location"]: bytes.fromhex(row["checksum"]) for row in rows.values()}
        weights = np.array([float(row["weight"]) for row in rows.values()]) if weighted else None
        pixels = tuple(bytes.fromhex(row.get("pixels", "")) for row in rows.values())
        copies, folds = ([int(row.get(column) or -1) for row in rows.values()] for column in ("copies", "fold"))
    except ValueError as error:
        raise DataError(f"the samples {path} contain an invalid digest, weight or number: {error}") from error
    columns = {column: tuple(row[column] for row in rows.values()) for column in _COLUMNS[1:5]}
    return SampleTable(
        name=name,
        ids=tuple(rows),
        locations=columns["location"],
        labels=np.array(labels, dtype=np.int64),
        classes=tuple(classes),
        source=DigestSource(digests),
        groups=columns["group"] if any(columns["group"]) else None,
        splits=columns["split"],
        folds=np.array(folds, dtype=np.int64) if max(folds, default=-1) >= 0 else None,
        weights=weights,
        membership=membership,
        pixels=pixels if all(pixels) else None,
        copies=np.array(copies, dtype=np.int64) if min(copies, default=-1) >= 0 else None,
    )


def _read_csv(path: Path) -> dict[str, dict[str, str]]:
    header, records = parse_table(decode_text(path), name=path, delimiter=",")
    if tuple(header) not in (_COLUMNS, _COLUMNS[:-2]):  # the last two are new
        raise DataError(f"{path} is not a sample table: expected the columns {', '.join(_COLUMNS)}")
    rows = [dict(zip(header, cells, strict=True)) for _, cells in records]
    return {row["id"]: row for row in rows}
