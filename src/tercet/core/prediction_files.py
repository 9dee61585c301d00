"""Reading of prediction files (.npz, .npy, CSV), and writing of prediction tables. N samples, K classes.

The format is detected from the content, not from the name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.core.errors import DataError
from tercet.core.files import csv_rows
from tercet.core.label_files import Labels, attach_labels, class_indices, read_labels
from tercet.core.predictions import ARRAY_ERRORS, TOLERANCE, UNKNOWN, Floats, Predictions, check_unpacked_size
from tercet.core.untrusted_files import (
    ID_COLUMNS,
    NPY_MAGIC,
    decode_text,
    escape_formula,
    parse_table,
    read_npy,
    read_start,
    table_column,
    unescape_formula,
)

__all__ = ["Labels", "attach_labels", "read_labels", "read_predictions", "write_csv"]

REJECTED, SET = "rejected", "set"
"""Optional columns between `predicted` and the classes, written for calibrated bundles."""
_NPZ_KEYS = {"ids", "classes", "probabilities", "labels"}


def read_predictions(
    path: str | Path,
    *,
    labels: ArrayLike | Sequence[str] | Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
) -> Predictions:
    """Read predictions: `.npz` (as saved by Tercet, or with a single N x K array of floats), `.npy`, or a text table.

    A table (CSV, TSV, semicolons) needs a header with an id column (id, image, file, path or filename) and one column
    per class. A `label` column with class names is optional. A `predicted` column is ignored, and so are the columns
    `rejected` and `set` right after it, unless they contain the numbers of a class of that name. Arrays without names
    get the ids 0, 1, ... and the same class names unless `classes` is given. A `'` before `= + - @`, tab or line break
    at the start of a cell is removed, since `write_csv` adds it.

    Args:
        path: The file.
        labels: True classes, see `attach_labels`.
        classes: K class names: those of an array's columns, or the column order of a file with class names.

    Raises:
        DataError: The file is missing or damaged, contains no probabilities, or does not match classes or labels.
    """
    source = Path(path)
    start = read_start(source)
    if start.startswith(NPY_MAGIC):
        predictions = _from_array(read_npy(source), source, classes)
    elif start.startswith(b"PK"):
        predictions = _read_npz(source, classes)
    else:
        predictions = _read_table(source)
    if classes is not None:
        uniform = np.full((len(predictions), len(classes)), 1 / max(1, len(classes)))
        predictions = predictions.aligned_to(Predictions.of(uniform, ids=predictions.ids, classes=classes))
    return predictions if labels is None else attach_labels(predictions, labels)


def write_csv(
    predictions: Predictions,
    path: str | Path,
    *,
    top: int | None = None,
    marks: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a CSV table, atomically: id, label (if any is known), predicted class, probabilities.

    Spreadsheets run cells that look like formulas, so a text cell that begins with `=`, `+`, `-`, `@`, a tab or a line
    break is prefixed with `'` (also if it has one already); `read_predictions` removes it. Without `top`, the table is
    read back exactly.

    Args:
        predictions: N predictions.
        path: The file; it is replaced if it exists.
        top: Write only the most probable classes, this many, as pairs of name and probability.
        marks: N texts per extra column after the predicted class: `rejected`, `set`, or both.

    Raises:
        DataError: `top` is not positive.
        StorageError: The file cannot be written.
    """
    if top is not None and top < 1:
        raise DataError(f"top {top} must be positive")
    columns: Sequence[str] = predictions.classes
    if top is not None:
        ranks = range(1, min(top, len(columns)) + 1)
        columns = [f"{what}_{rank}" for rank in ranks for what in ("class", "probability")]
    # The first column "label" is read as labels: write that column if a class has this name.
    labelled = bool(predictions.known.any()) or table_column(predictions.classes, ("label",)) is not None
    marks = dict(marks or {})
    # The same for a first class called "rejected" or "set".
    if predictions.classes and predictions.classes[0].strip().casefold() in (REJECTED, SET):
        marks = {name: marks.get(name, [""] * len(predictions)) for name in (REJECTED, SET)}
    names = [*predictions.classes, ""]  # index -1, an unknown label, is an empty cell
    with csv_rows(Path(path)) as write:
        write(["id", *(["label"] if labelled else []), "predicted", *marks, *map(escape_formula, columns)])
        truth, predicted = predictions.labels.tolist(), predictions.predicted.tolist()
        for row, name in enumerate(predictions.ids):
            texts = [name, *([names[truth[row]]] if labelled else []), names[predicted[row]]]
            texts += [cells[row] for cells in marks.values()]
            values = predictions.probabilities[row]
            numbers = values.tolist() if top is None else _top_cells(values, names, top)
            write([*map(escape_formula, texts), *numbers])


def _top_cells(values: Floats, names: Sequence[str], top: int) -> list[str | float]:
    order = np.argsort(-values, kind="stable")[:top]
    return [cell for index in order for cell in (escape_formula(names[index]), float(values[index]))]


def _read_npz(source: Path, classes: Sequence[str] | None) -> Predictions:
    try:
        check_unpacked_size(source)
        with open(source, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            saved_by_tercet = set(stored.files) >= _NPZ_KEYS
            arrays = {} if saved_by_tercet else {name: stored[name] for name in stored.files}
    except ARRAY_ERRORS as error:
        raise DataError(f"{source} is not a predictions file: {error}") from error
    if saved_by_tercet:
        return Predictions.load(source)
    names = [name for name, values in arrays.items() if isinstance(values, np.ndarray) and _is_float_table(values)]
    if len(names) != 1:
        listed = ", ".join(names) or "none"
        raise DataError(f"{source} must contain exactly one array of floats (samples, classes), found: {listed}")
    return _from_array(arrays[names[0]], source, classes)


def _is_float_table(values: NDArray[np.generic]) -> bool:
    return values.ndim == 2 and values.dtype.kind == "f" and values.size > 0


def _from_array(values: NDArray[np.generic], source: Path, classes: Sequence[str] | None) -> Predictions:
    if not _is_float_table(values):
        raise DataError(f"{source} contains {values.dtype} of shape {values.shape}, expected floats (samples, classes)")
    if classes is not None and len(classes) != values.shape[1]:
        raise DataError(f"{source} has {values.shape[1]} columns for {len(classes)} class names")
    return Predictions.of(_check_probabilities(values.astype(np.float64), source), classes=classes)


def _check_probabilities(values: Floats, source: Path) -> Floats:
    """Return `values` (N K) if they are probabilities; the error describes the first row that is not."""
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise DataError(f"{source}: sample {int(np.argmin(finite)) + 1} has a value that is not finite")
    totals = values.sum(axis=1)
    invalid = (values.min(axis=1) < 0) | (abs(totals - 1) > TOLERANCE)
    if invalid.any():
        row = int(np.argmax(invalid))
        raise DataError(
            f"{source}: sample {row + 1} has sum {totals[row]:.4g} and minimum {values[row].min():.4g}; these are not "
            "probabilities: if they are logits, apply softmax first (Predictions.from_logits in Python)"
        )
    return values


def _read_table(source: Path) -> Predictions:
    header, rows = parse_table(decode_text(source), name=source)
    id_column = table_column(header, ID_COLUMNS)
    if id_column is None:
        names = ", ".join(ID_COLUMNS)
        raise DataError(f"{source} is not a predictions file: its first line has no id column ({names})")
    label, predicted = table_column(header, ("label",)), table_column(header, ("predicted",))
    ignored = {id_column, label, predicted, *_mark_columns(header, rows, predicted)}
    columns = [index for index in range(len(header)) if index not in ignored]
    if not columns:
        raise DataError(f"{source} has no class columns")
    values = np.empty((len(rows), len(columns)))
    for number, (line, row) in enumerate(rows):
        values[number] = [_number(row[index], line, header[index], source) for index in columns]
    classes = tuple(unescape_formula(header[index]) for index in columns)
    texts = [unescape_formula(row[label]) if label is not None else "" for _, row in rows]
    truth = np.full(len(rows), UNKNOWN)
    probabilities = _check_probabilities(values, source)
    try:
        truth[[text != "" for text in texts]] = class_indices([text for text in texts if text], classes)
        ids = tuple(unescape_formula(row[id_column]) for _, row in rows)
        return Predictions(ids, classes, probabilities, truth)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def _mark_columns(header: Sequence[str], rows: Sequence[tuple[int, list[str]]], predicted: int | None) -> list[int]:
    """Return the columns `rejected` and `set` after `predicted`; a column of numbers is that of a class instead."""
    if predicted is None:
        return []
    columns: list[int] = []
    names = {unescape_formula(name) for name in header}
    for name in (REJECTED, SET):
        index = predicted + 1 + len(columns)
        if index < len(header) and header[index].strip().casefold() == name:
            cells = [unescape_formula(row[index]) for _, row in rows if index < len(row)]
            if not all(_is_number(cell) and cell not in names for cell in cells):
                columns.append(index)
    return columns


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, line: int, header: str, source: Path) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise DataError(f"{source} line {line}, column '{header}': '{cell[:40]}' is not a number") from error
