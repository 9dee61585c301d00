"""Prediction files from anywhere, and a table of predictions for people.

The kind of a file is told by its content, not by its name; nothing in it is ever run. N samples, K classes.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.core.errors import DataError
from tercet.core.files import atomic_path
from tercet.core.label_files import Labels, attach_labels, class_indices, read_labels
from tercet.core.predictions import DAMAGED, TOLERANCE, UNKNOWN, Floats, Predictions
from tercet.core.untrusted_files import (
    ID_COLUMNS,
    NPY_MAGIC,
    decode_text,
    unescape_formula,
    read_npy,
    read_start,
    read_table,
    table_column,
    escape_formula,
)

__all__ = ["Labels", "attach_labels", "read_labels", "read_predictions", "write_csv"]

REJECTED, SET = "rejected", "set"
"""Columns that may stand between `predicted` and the classes: what a calibrated bundle tells of each image."""
_OURS = {"ids", "classes", "probabilities", "labels"}
_MAX_UNPACKED = 8_000_000_000  # bytes; a small archive may claim anything


def read_predictions(
    path: str | Path,
    *,
    labels: ArrayLike | Sequence[str] | Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
) -> Predictions:
    """Read predictions: `.npz` (ours, or with a single table of floats), `.npy`, or a table of text.

    A table (CSV, TSV, semicolons) needs a header with an id column (id, image, file, path or filename) and one column
    a class; a `label` column with class names is optional; a `predicted` column is ignored, and so are the columns
    `rejected` and `set` right after it, unless they hold the numbers of a class of that name. Arrays without names
    get the numbers 0, 1, ... as ids and, unless `classes` names them, as classes. A `'` before `= + - @`, tab or line
    end at the start of a text cell is taken off, as `write_csv` puts it on.

    Args:
        path: The file.
        labels: True classes, as `attach_labels` takes them.
        classes: The K class names: of an array's columns in order; of a file that has names, the order to bring it to.

    Raises:
        DataError: The file is absent, damaged, or holds no probabilities; names, samples or labels do not fit.
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
        share = np.full((len(predictions), len(classes)), 1 / max(1, len(classes)))
        predictions = predictions.aligned_to(Predictions.of(share, ids=predictions.ids, classes=classes))
    return predictions if labels is None else attach_labels(predictions, labels)


def write_csv(
    predictions: Predictions,
    path: str | Path,
    *,
    top: int | None = None,
    marks: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a table for people, atomically: id, label (where any is known), predicted class, probabilities.

    Spreadsheets run cells that look like formulas, so a text cell that begins with `=`, `+`, `-`, `@`, a tab or a
    line end gets a `'` in front (one more where it has some already); `read_predictions` takes it off again. The
    whole table is read back exactly; one with `top` is for people only.

    Args:
        predictions: What to write.
        path: Where to; a file there is replaced.
        top: Write only this many most probable classes, as pairs of name and probability.
        marks: Texts a row in columns after the predicted class: `rejected`, `set`, or both.

    Raises:
        DataError: `top` is not positive.
        StorageError: The file cannot be written.
    """
    if top is not None and top < 1:
        raise DataError(f"top {top} must be positive")
    columns: Sequence[str] = predictions.classes
    if top is not None:
        shown = range(1, min(top, len(columns)) + 1)
        columns = [f"{what}_{place}" for place in shown for what in ("class", "probability")]
    # A class called "label" must not be taken for the label column: the first one of that name is.
    labelled = bool(predictions.known.any()) or table_column(predictions.classes, ("label",)) is not None
    marks = dict(marks or {})
    if predictions.classes and _is_mark(predictions.classes[0]):  # likewise a first class called "set"
        marks = {name: marks.get(name, [""] * len(predictions)) for name in (REJECTED, SET)}
    names = [*predictions.classes, ""]  # the last one stands for an unknown label, -1
    with (
        atomic_path(Path(path)) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(["id", *(["label"] if labelled else []), "predicted", *marks, *map(escape_formula, columns)])
        truth, said = predictions.labels.tolist(), predictions.predicted.tolist()
        for row, name in enumerate(predictions.ids):
            texts = [name, *([names[truth[row]]] if labelled else []), names[said[row]]]
            texts += [cells[row] for cells in marks.values()]
            values = predictions.probabilities[row]
            writer.writerow(
                [*map(escape_formula, texts), *(values.tolist() if top is None else _best(values, names, top))]
            )


def _best(values: Floats, names: Sequence[str], top: int) -> list[str | float]:
    order = np.argsort(-values, kind="stable")[:top]
    return [cell for index in order for cell in (escape_formula(names[index]), float(values[index]))]


def _read_npz(source: Path, classes: Sequence[str] | None) -> Predictions:
    try:
        with zipfile.ZipFile(source) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MAX_UNPACKED:
            raise DataError(f"it would unpack to {size} bytes, more than {_MAX_UNPACKED}")
        with open(source, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            ours = set(stored.files) >= _OURS
            tables = {} if ours else {name: stored[name] for name in stored.files}
    except DAMAGED as error:
        raise DataError(f"{source} is not a predictions file: {error}") from error
    if ours:
        return Predictions.load(source)
    floats = [name for name, values in tables.items() if isinstance(values, np.ndarray) and _is_table(values)]
    if len(floats) != 1:
        held = ", ".join(floats) or "none"
        raise DataError(f"{source} must hold exactly one table of floats (samples x classes), found: {held}")
    return _from_array(tables[floats[0]], source, classes)


def _is_table(values: NDArray[np.generic]) -> bool:
    return values.ndim == 2 and values.dtype.kind == "f" and values.size > 0


def _from_array(values: NDArray[np.generic], source: Path, classes: Sequence[str] | None) -> Predictions:
    if not _is_table(values):
        raise DataError(f"{source} holds {values.dtype} of shape {values.shape}, expected floats (samples, classes)")
    if classes is not None and len(classes) != values.shape[1]:
        raise DataError(f"{source} has {values.shape[1]} columns for {len(classes)} class names")
    return Predictions.of(_proper(values.astype(np.float64), source), classes=classes)


def _proper(values: Floats, source: Path) -> Floats:
    """Return `values` (N K) if they are probabilities, else say what they look like."""
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise DataError(f"{source}: sample {int(np.argmin(finite)) + 1} has a value that is not finite")
    totals = values.sum(axis=1)
    odd = (values.min(axis=1) < 0) | (abs(totals - 1) > TOLERANCE)
    if odd.any():
        row = int(np.argmax(odd))
        raise DataError(
            f"{source}: sample {row + 1} sums to {totals[row]:.4g} with least value {values[row].min():.4g}, so these "
            "are no probabilities: if they are logits, apply softmax first (Predictions.from_logits in Python)"
        )
    return values


def _read_table(source: Path) -> Predictions:
    header, rows = read_table(decode_text(source))
    place = table_column(header, ID_COLUMNS)
    if place is None:
        raise DataError(f"{source} is no predictions file: its first line names no id column ({', '.join(ID_COLUMNS)})")
    label, said = table_column(header, ("label",)), table_column(header, ("predicted",))
    ignored = {place, label, said, *_marks(header, rows, said)}
    columns = [index for index in range(len(header)) if index not in ignored]
    if not rows or not columns:
        raise DataError(f"{source} holds no {'sample' if columns else 'column of a class'}")
    values = np.empty((len(rows), len(columns)))
    for number, (line, row) in enumerate(rows):
        if len(row) != len(header):
            raise DataError(f"{source} line {line} has {len(row)} cells, the header has {len(header)}")
        values[number] = [_number(row[index], line, header[index], source) for index in columns]
    names = tuple(unescape_formula(header[index]) for index in columns)
    texts = [unescape_formula(row[label]) if label is not None else "" for _, row in rows]
    truth = np.full(len(rows), UNKNOWN)
    proper = _proper(values, source)
    try:
        truth[[text != "" for text in texts]] = class_indices([text for text in texts if text], names)
        return Predictions(tuple(unescape_formula(row[place]) for _, row in rows), names, proper, truth)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def _marks(header: Sequence[str], rows: Sequence[tuple[int, list[str]]], said: int | None) -> list[int]:
    """Return the columns after `predicted` that tell of rejection and sets; one of numbers only is a class's."""
    if said is None:
        return []
    found: list[int] = []
    names = {unescape_formula(name) for name in header}
    for name in (REJECTED, SET):
        index = said + 1 + len(found)
        if index < len(header) and header[index].strip().casefold() == name:
            cells = [unescape_formula(row[index]) for _, row in rows if index < len(row)]
            if not all(_reads_as_number(cell) and cell not in names for cell in cells):
                found.append(index)
    return found


def _is_mark(name: str) -> bool:
    return name.strip().casefold() in (REJECTED, SET)


def _reads_as_number(cell: str) -> bool:
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
