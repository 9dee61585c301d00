"""True classes from anywhere, and their place beside predictions. N samples, K classes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from tercet.core.errors import DataError
from tercet.core.predictions import Ints, Predictions
from tercet.core.registry import did_you_mean
from tercet.core.untrusted_files import (
    ID_COLUMNS,
    NPY_MAGIC,
    decode_text,
    unescape_formula,
    read_npy,
    read_start,
    read_table,
    table_column,
)

Labels = Ints | tuple[str, ...] | dict[str, str]
"""Class indices by position, class names by position, or class names by sample id."""

_LABEL_COLUMNS = ("label", "class", "target")
_GZIP = b"\x1f\x8b"
_IDX = b"\0\0\x08\x01"  # unsigned bytes, one dimension
_MAX_LABELS = 100_000_000  # a small packed file may claim anything


def read_labels(path: str | Path) -> Labels:
    """Read true classes: `.npy` of integers, an IDX label file (plain or `.gz`), a table, or one label a line.

    A table needs a header with an id column (id, image, file, path or filename) and a label column (label, class or
    target). The kind is told by the content.

    Returns:
        Class indices by position (`.npy`, IDX), names by position (lines), or names by sample id (table).

    Raises:
        DataError: The file is absent, damaged, or of another kind; a label is blank, or a sample has two.
    """
    source = Path(path)
    start = read_start(source)
    if start.startswith(NPY_MAGIC):
        values = read_npy(source)
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise DataError(f"{source} holds {values.dtype} of shape {values.shape}, expected one integer a sample")
        return values.astype(np.int64)
    if start.startswith((_GZIP, _IDX[:2])):
        return _read_idx(source, packed=start.startswith(_GZIP))
    text = decode_text(source)
    header, rows = read_table(text)
    place, label = table_column(header, ID_COLUMNS), table_column(header, _LABEL_COLUMNS)
    if place is not None and label is not None:
        return _by_id(rows, place, label, source)
    if source.suffix.lower() in (".csv", ".tsv"):
        raise DataError(f"{source} has no id and label column: begin it with a line such as 'id,label'")
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines or not all(lines):
        raise DataError(f"{source} line {lines.index('') + 1 if lines else 1} is blank: one label a line is needed")
    return tuple(lines)


def attach_labels(predictions: Predictions, labels: ArrayLike | Sequence[str] | Mapping[str, str]) -> Predictions:
    """Return `predictions` with these true classes; labels known before must agree.

    Integers are class indices. Texts are class names; where not all of them are, all must be class indices.

    Args:
        predictions: N samples.
        labels: N integers or N names in the order of the samples, or names by sample id (which may name others too).

    Raises:
        DataError: The numbers of samples differ, a sample has no label, a label is no class, or labels disagree.
    """
    if isinstance(labels, Mapping):
        missing = [name for name in predictions.ids if name not in labels]
        if missing:
            raise DataError(f"{len(missing)} of {len(predictions)} samples have no label, such as '{missing[0]}'")
        found = class_indices([labels[name] for name in predictions.ids], predictions.classes)
    else:
        values = np.asarray(labels)
        if values.shape != (len(predictions),):
            raise DataError(f"labels have shape {values.shape} for {len(predictions)} samples: one each is needed")
        if values.dtype.kind not in "iuU":
            raise DataError(f"labels are of type {values.dtype}, expected integers or names")
        texts = values.dtype.kind == "U"
        found = class_indices(values.tolist(), predictions.classes) if texts else values.astype(np.int64)
    clash = predictions.known & (predictions.labels != found)
    if clash.any():
        row = int(np.argmax(clash))
        raise DataError(f"the label given for sample '{predictions.ids[row]}' is not the one in its predictions file")
    return predictions.with_labels(found)


def class_indices(texts: Sequence[str], classes: Sequence[str]) -> Ints:
    """Return the class index of each text: by name, or, where not all are names, by number.

    Raises:
        DataError: A text is neither.
    """
    index_of = {name: index for index, name in enumerate(classes)}
    unknown = next((text for text in texts if text not in index_of), None)
    if unknown is not None:
        index_of = {str(index): index for index in range(len(classes))}
        if any(text not in index_of for text in texts):
            raise DataError(f"label '{unknown}' is none of the {len(classes)} classes{did_you_mean(unknown, classes)}")
    return np.array([index_of[text] for text in texts], dtype=np.int64)


def _by_id(rows: list[tuple[int, list[str]]], place: int, label: int, source: Path) -> dict[str, str]:
    labels: dict[str, str] = {}
    for line, row in rows:
        if len(row) <= max(place, label) or not row[label].strip():
            raise DataError(f"{source} line {line} has no label")
        name, value = unescape_formula(row[place]), unescape_formula(row[label])
        if labels.setdefault(name, value) != value:
            raise DataError(f"{source} line {line} calls '{name}' '{value}', an earlier line '{labels[name]}'")
    return labels


def _read_idx(source: Path, *, packed: bool) -> Ints:
    """Read 4 bytes of kind, 4 bytes of count (big-endian), then one byte a label."""
    try:
        with gzip.open(source) if packed else open(source, "rb") as stream:
            header = stream.read(8)
            count = int.from_bytes(header[4:], "big")
            if len(header) < 8 or not header.startswith(_IDX) or count > _MAX_LABELS:
                raise DataError(f"{source} is not an IDX label file: it begins with {header.hex() or 'nothing'}")
            content = stream.read(count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source} is damaged: {error}") from error
    if len(content) != count:
        held = "more" if len(content) > count else str(len(content))
        raise DataError(f"{source} announces {count} labels and holds {held}")
    return np.frombuffer(content, dtype=np.uint8).astype(np.int64)
