"""Label files, and attaching labels to predictions. N samples, K classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from tercet.core.errors import DataError
from tercet.core.predictions import Ints, Predictions
from tercet.core.registry import did_you_mean
from tercet.core.untrusted_files import (
    GZIP_MAGIC,
    ID_COLUMNS,
    LABEL_COLUMNS,
    NPY_MAGIC,
    Record,
    decode_text,
    parse_table,
    read_idx,
    read_npy,
    read_start,
    table_column,
    table_header,
    unescape_formula,
)

Labels = Ints | tuple[str, ...] | dict[str, str]
"""Class indices by row, class names by row, or class names by sample id."""


def read_labels(path: str | Path) -> Labels:
    """Read labels: `.npy` of integers, an IDX label file (plain or gzip), a table, or one label per line.

    A table needs a header with an id column (id, image, file, path or filename) and a label column (label, class or
    target). The format is detected from the content.

    Returns:
        Class indices by row (`.npy`, IDX), names by row (lines), or names by sample id (table).

    Raises:
        DataError: The file is missing, damaged, or of another format; a label is blank, or a sample has two labels.
    """
    source = Path(path)
    start = read_start(source)
    if start.startswith((NPY_MAGIC, GZIP_MAGIC, b"\0\0")):  # IDX files begin with two zero bytes
        values = read_npy(source) if start.startswith(NPY_MAGIC) else read_idx(source)
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise DataError(
                f"{source} contains {values.dtype} of shape {values.shape}, expected one integer per sample"
            )
        return values.astype(np.int64)
    text = decode_text(source)
    header, delimiter = table_header(text)
    id_column, label_column = table_column(header, ID_COLUMNS), table_column(header, LABEL_COLUMNS)
    if len(header) > 1 and id_column is not None and label_column is not None:
        rows = parse_table(text, name=source, delimiter=delimiter)[1]
        return _labels_by_id(rows, id_column, label_column, source)
    if source.suffix.lower() in (".csv", ".tsv"):
        raise DataError(f"{source} has no id or label column: add a header such as 'id,label'")
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines or not all(lines):
        raise DataError(f"{source} line {lines.index('') + 1 if lines else 1} is blank, expected one label per line")
    return tuple(lines)


def attach_labels(predictions: Predictions, labels: ArrayLike | Sequence[str] | Mapping[str, str]) -> Predictions:
    """Return `predictions` with true classes; existing labels must agree.

    Integers are class indices. Texts are class names, or, if at least one is not a class name, class indices.

    Args:
        predictions: N samples.
        labels: N integers or N names in the order of the samples, or names by sample id (which may have further ids).

    Raises:
        DataError: The numbers of samples differ, a sample has no label, a label is not a class, or labels disagree.
    """
    if isinstance(labels, Mapping):
        missing = [name for name in predictions.ids if name not in labels]
        if missing:
            raise DataError(f"{len(missing)} of {len(predictions)} samples have no label, such as '{missing[0]}'")
        indices = class_indices([labels[name] for name in predictions.ids], predictions.classes)
    else:
        values = np.asarray(labels)
        if values.shape != (len(predictions),):
            raise DataError(f"labels have shape {values.shape}, expected one per sample ({len(predictions)})")
        if values.dtype.kind not in "iuU":
            raise DataError(f"labels are of type {values.dtype}, expected integers or names")
        is_text = values.dtype.kind == "U"
        indices = class_indices(values.tolist(), predictions.classes) if is_text else values.astype(np.int64)
    conflict = predictions.known & (predictions.labels != indices)
    if conflict.any():
        row = int(np.argmax(conflict))
        raise DataError(f"the label of sample '{predictions.ids[row]}' differs from the one in its predictions file")
    return predictions.with_labels(indices)


def class_indices(texts: Sequence[str], classes: Sequence[str]) -> Ints:
    """Return the class index of each text: by name, or by number if at least one is not a name.

    Raises:
        DataError: A text is neither a name nor a number of a class.
    """
    index_of = {name: index for index, name in enumerate(classes)}
    unknown = next((text for text in texts if text not in index_of), None)
    if unknown is not None:
        index_of = {str(index): index for index in range(len(classes))}
        if any(text not in index_of for text in texts):
            raise DataError(f"label '{unknown}' is none of the {len(classes)} classes{did_you_mean(unknown, classes)}")
    return np.array([index_of[text] for text in texts], dtype=np.int64)


def _labels_by_id(rows: list[Record], id_column: int, label_column: int, source: Path) -> dict[str, str]:
    labels: dict[str, str] = {}
    for line, row in rows:
        if not row[label_column].strip():
            raise DataError(f"{source} line {line} has no label")
        name, label = unescape_formula(row[id_column]), unescape_formula(row[label_column])
        if labels.setdefault(name, label) != label:
            raise DataError(
                f"{source} line {line}: '{name}' has label '{label}', but '{labels[name]}' in an earlier line"
            )
    return labels
