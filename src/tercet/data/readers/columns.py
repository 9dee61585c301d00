"""Columns of a table: their meaning, and the format of label cells."""

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
from tercet.core.registry import did_you_mean

IMAGE_COLUMNS = ("image", "file", "path", "filename", "id")
LABEL_COLUMNS = ("label", "class", "target")


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


def find_columns(header: Sequence[str], config: DataConfig, *, name: str) -> Columns:
    """Find the columns by the configuration, else by their usual names (case-insensitive).

    Raises:
        DataError: There is no image or label column.
        ConfigError: A configured column is missing, or several columns could be the label.
    """
    duplicates = sorted({column for column in header if column and header.count(column) > 1})
    if duplicates:
        raise DataError(f"{name} has two columns named '{duplicates[0]}': rename one")
    positions = {column.casefold(): position for position, column in enumerate(header)}

    def configured(option: str, column: str) -> int:
        if column not in header:
            raise ConfigError(
                f"data.{option}: {name} has no column '{column}'{did_you_mean(column, header)} "
                f"(columns: {', '.join(header)})"
            )
        return header.index(column)

    def usual(aliases: Sequence[str]) -> list[int]:
        return [positions[alias] for alias in aliases if alias in positions]

    columns = ", ".join(header)
    image = [configured("image_column", config.image_column)] if config.image_column else usual(IMAGE_COLUMNS)
    if not image:
        raise DataError(
            f"{name} has no column {', '.join(IMAGE_COLUMNS)}: give the column of the file names with "
            f"--data.image-column (columns: {columns})"
        )
    chosen = config.label_columns or ()
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"data.label_columns contains a column twice: {', '.join(chosen)}")
    labels = [configured("label_columns", column) for column in chosen] or usual(LABEL_COLUMNS)
    if not labels:
        raise DataError(
            f"{name} has no column {', '.join(LABEL_COLUMNS)}: give the column of the classes with "
            f"--data.label-columns (columns: {columns})"
        )
    if len(labels) > 1 and not chosen:
        names = ", ".join(header[position] for position in labels)
        raise ConfigError(f"{name}: the columns {names} could all be the label: choose with --data.label-columns")
    return Columns(
        image=image[0],
        labels=tuple(labels),
        id=positions.get("id"),
        group=configured("group_column", config.group_column) if config.group_column else None,
        split=positions.get("split"),
        fold=positions.get("fold"),
        weight=configured("weight_column", config.weight_column) if config.weight_column else None,
    )


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


_ABSENT, _PRESENT = frozenset({"0", "0.0", "false"}), frozenset({"1", "1.0", "true"})


@dataclass(frozen=True)
class LabelFormat:
    """Columns of the labels, and the format of their cells."""

    positions: tuple[int, ...]
    """Label columns."""
    names: tuple[str, ...] = ()
    """Names of the label columns; empty if there is only one."""
    indicators: frozenset[int] = frozenset()
    """Label columns that contain only 0 and 1."""
    separator: str | None = None
    """Separator of several labels in a cell."""

    @property
    def is_multilabel(self) -> bool:
        """Whether a row has a label set instead of one class."""
        return self.separator is not None or len(self.positions) > 1

    def text(self, fields: Sequence[str]) -> str:
        """Return the class or the label set of a row as text; empty if unlabelled."""
        if not self.is_multilabel:
            return fields[self.positions[0]].strip()
        labels = self.label_set(fields)
        return "" if labels is None else f"{{{', '.join(labels)}}}"

    def label_set(self, fields: Sequence[str]) -> tuple[str, ...] | None:
        """Return the unique labels of a row in their order; None if all cells are blank."""
        labels: dict[str, None] = {}
        labelled = False
        for index, position in enumerate(self.positions):
            cell = fields[position].strip()
            labelled |= bool(cell)
            if position in self.indicators:
                labels |= {self.names[index]: None} if cell.casefold() in _PRESENT else {}
            else:
                prefix = f"{self.names[index]}=" if self.names else ""
                labels |= {prefix + label: None for label in self._split(cell)}
        return tuple(labels) if labelled else None

    def _split(self, cell: str) -> list[str]:
        if self.separator is None:
            return [cell] if cell else []
        labels = cell.split() if self.separator.isspace() else cell.split(self.separator)
        return [label.strip() for label in labels if label.strip()]


def detect_label_format(
    header: Sequence[str],
    positions: tuple[int, ...],
    records: Sequence[Sequence[str]],
    *,
    separator: str | None,
    single_labels: bool,
    name: str,
) -> LabelFormat:
    """Detect the format of the labels at some positions of the records.

    Raises:
        DataError: No cell contains the configured separator, unless `single_labels` accepts that.
    """
    if separator is not None and not single_labels:
        mark = separator.strip() or " "
        cells = [fields[position].strip() for fields in records for position in positions]
        if any(cells) and not any(mark in cell for cell in cells):
            columns = ", ".join(header[position] for position in positions)
            raise DataError(
                f"{name}: no cell of {columns} contains the separator '{separator}': give another "
                "--data.label-separator (or add --data.task multi if every image has one label)"
            )
    if len(positions) == 1:
        return LabelFormat(positions, separator=separator)
    indicators = {position for position in positions if _is_indicator([fields[position] for fields in records])}
    return LabelFormat(positions, tuple(header[position] for position in positions), frozenset(indicators), separator)


def _is_indicator(cells: Sequence[str]) -> bool:
    values = {cell.strip().casefold() for cell in cells} - {""}
    return bool(values) and values <= _ABSENT | _PRESENT


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
