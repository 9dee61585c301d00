"""Columns of a table, and its classes and label sets."""

from __future__ import annotations

import json
import re
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.files import natural_key
from tercet.core.output import join_few
from tercet.core.registry import did_you_mean
from tercet.core.untrusted_files import IMAGE_COLUMNS, LABEL_COLUMNS, column_key, table_column
from tercet.data.readers.label_cells import indicator_value

FURTHER_LABEL_COLUMNS = tuple(
    ["labels", "category", "species", "breed", "diagnosis", "dx", "classname", "labelname", "categoryname"]
)
"""Usual names that are used if no column has one of `LABEL_COLUMNS`; as `column_key`."""
SPLIT_COLUMNS = tuple(
    ["split", "subset", "partition", "dataset", "set", "phase", "usage", "isvalid", "isval", "istest"]
)
NO_COLUMN = "none"


@dataclass(frozen=True)
class Columns:
    """Positions of the known columns; None if absent."""

    image: int
    labels: tuple[int, ...]
    id: int | None
    group: int | None
    split: int | None
    fold: int | None
    weight: int | None


def find_columns(header: Sequence[str], rows: Sequence[Sequence[str]], config: DataConfig, *, name: str) -> Columns:
    """Find the columns by the configuration, else by their usual names, ignoring case and separators.

    Without a label column, all other columns are if they are one-hot.

    Raises:
        DataError: There is no image or label column.
        ConfigError: A configured column is missing, or several columns could be the label.
    """
    duplicates = sorted({column for column in header if column and header.count(column) > 1})
    if duplicates:
        raise DataError(f"{name} has two columns named '{duplicates[0]}': rename one")
    columns = ", ".join(header)

    def configured(option: str, column: str | None) -> int | None:
        if column is None or column in header:
            return None if column is None else header.index(column)
        key = option.replace("_", "-")
        hint = did_you_mean(column, header)
        raise ConfigError(f"--data.{key}: {name} has no column '{column}'{hint} (columns: {columns})")

    image = configured("image_column", config.image_column)
    image = table_column(header, IMAGE_COLUMNS) if image is None else image
    if image is None:
        raise DataError(
            f"{name} has no column {join_few(IMAGE_COLUMNS)}: give the column of the file names with "
            f"--data.image-column (columns: {columns})"
        )
    ignores_split = config.split_column == NO_COLUMN and NO_COLUMN not in header
    split = None if ignores_split else configured("split_column", config.split_column)
    if split is None and not ignores_split:
        split = table_column(header, SPLIT_COLUMNS)
    side = {
        "id": table_column(header, ("id",)),
        "group": configured("group_column", config.group_column),
        "split": split,
        "fold": table_column(header, ("fold",)),
        "weight": configured("weight_column", config.weight_column),
    }
    chosen = config.label_columns or ()
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"--data.label-columns contains a column twice: {', '.join(chosen)}")
    labels = [position for column in chosen if (position := configured("label_columns", column)) is not None]
    labels = labels or _label_columns(header, name) or _one_hot_columns(header, rows, {image, *side.values()})
    if not labels:
        raise DataError(
            f"{name} has no column {', '.join(LABEL_COLUMNS)}: give the column of the classes with "
            f"--data.label-columns (columns: {columns})"
        )
    side = {column: None if position in labels else position for column, position in side.items()}
    return Columns(image, tuple(labels), **side)


def _label_columns(header: Sequence[str], name: str) -> list[int]:
    """Return the position of the column with a usual name of labels, if there is one."""
    keys = [column_key(column) for column in header]
    for names in (LABEL_COLUMNS, FURTHER_LABEL_COLUMNS):
        positions = [position for position, key in enumerate(keys) if key in names]
        if len(positions) > 1:
            choices = ", ".join(header[position] for position in positions)
            raise ConfigError(f"{name}: the columns {choices} could all be the label: choose with --data.label-columns")
        if positions:
            return positions
    return []


def _one_hot_columns(header: Sequence[str], rows: Sequence[Sequence[str]], others: set[int | None]) -> list[int]:
    """Return all columns but `others`, if each of them has only 0 and 1, with a single 1 in every row."""
    positions = [position for position in range(len(header)) if position not in others]
    for fields in rows:
        values = [indicator_value(fields[position].strip()) for position in positions]
        if values.count(1) != 1 or values.count(0) != len(values) - 1:
            return []
    return positions if len(positions) > 1 else []


def file_name(pattern: str | None, fields: Sequence[str], *, header: Sequence[str], image: int) -> str:
    """Return a row's file name: the image column, or the pattern with columns filled in.

    Raises:
        ConfigError: The pattern has no placeholder, or one that is not a column.
    """
    if pattern is None:
        return fields[image]

    def value(match: re.Match[str]) -> str:
        if match[1] in header:
            return fields[header.index(match[1])]
        if match[1] in ("id", "image"):
            return fields[image]
        raise ConfigError(f"data.image_pattern: no column '{match[1]}' (columns: {', '.join(header)})")

    name, count = re.subn(r"\{([^{}]*)\}", value, pattern)
    if not count:
        raise ConfigError(f"data.image_pattern '{pattern}' contains no column: write it like '{{id}}.jpg'")
    return name


def sort_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Return the unique names in natural order (`class10` after `class9`); warn of names that look alike."""
    unique = sorted({name for name in names if name}, key=lambda name: (natural_key(name), name))
    alike: dict[str, str] = {}
    for name in unique:
        twin = alike.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if twin != name:
            warnings.warn(
                f"classes '{twin}' and '{name}' differ only in case or Unicode form", UserWarning, stacklevel=2
            )
    return tuple(unique)


LabelSet = Sequence[str] | None
"""The labels of one row; None if unknown."""


def membership_of(label_sets: Sequence[LabelSet], classes: Sequence[str]) -> NDArray[np.bool_]:
    """Return multi-hot labels (N K); unknown label sets become empty rows.

    Raises:
        KeyError: A label is not a class.
    """
    index_of = {name: index for index, name in enumerate(classes)}
    membership = np.zeros((len(label_sets), len(classes)), dtype=np.bool_)
    for row, labels in enumerate(label_sets):
        membership[row, [index_of[label] for label in labels or ()]] = True
    return membership


def placeholder_labels(label_sets: Sequence[LabelSet]) -> list[int]:
    """Return the class indices of multi-label rows (N): 0, or -1 if the label set is unknown."""
    return [-1 if labels is None else 0 for labels in label_sets]


def format_label_sets(membership: NDArray[np.bool_], known: NDArray[np.bool_], classes: Sequence[str]) -> list[str]:
    """Return each label set as a JSON list of names (N); empty if unknown."""
    return [
        json.dumps([classes[label] for label in np.flatnonzero(row).tolist()], ensure_ascii=False) if is_known else ""
        for row, is_known in zip(membership, known, strict=True)
    ]


def parse_label_sets(cells: Sequence[str]) -> list[list[str] | None]:
    """Invert `format_label_sets`.

    Raises:
        ValueError: A cell is not a JSON list of strings.
    """
    label_sets: list[list[str] | None] = []
    for cell in cells:
        labels = json.loads(cell) if cell else None
        if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
            raise ValueError(f"'{cell}' is not a list of labels")
        label_sets.append(labels)
    return label_sets
