"""Which column of a table holds what, and how label cells are read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.registry import did_you_mean

IMAGE_COLUMNS = ("image", "file", "path", "filename", "id")
LABEL_COLUMNS = ("label", "class", "target")


@dataclass(frozen=True)
class Columns:
    """Positions of the columns that mean something; None where there is none."""

    image: int
    labels: tuple[int, ...]
    id: int | None
    group: int | None
    split: int | None
    fold: int | None
    weight: int | None


def find_columns(header: Sequence[str], config: DataConfig, *, name: str) -> Columns:
    """Tell which column is which: by the configuration first, else by the usual names (case ignored).

    Raises:
        DataError: There is no column for the image or the label.
        ConfigError: A column that was asked for is not there, or the label's column is not clear.
    """
    doubled = sorted({column for column in header if column and header.count(column) > 1})
    if doubled:
        raise DataError(f"{name} has two columns named '{doubled[0]}': rename one")
    known = {column.casefold(): position for position, column in enumerate(header)}

    def asked(option: str, column: str) -> int:
        if column not in header:
            raise ConfigError(
                f"data.{option}: {name} has no column '{column}'{did_you_mean(column, header)} "
                f"(columns: {', '.join(header)})"
            )
        return header.index(column)

    def usual(names: Sequence[str]) -> int | None:
        return next((known[alias] for alias in names if alias in known), None)

    image = asked("image_column", config.image_column) if config.image_column else usual(IMAGE_COLUMNS)
    if image is None:
        raise DataError(
            f"{name} has no column {', '.join(IMAGE_COLUMNS)}: name the one with the file with --data.image-column "
            f"(it has: {', '.join(header)})"
        )
    return Columns(
        image=image,
        labels=_label_columns(header, known, config, name, asked),
        id=known.get("id"),
        group=asked("group_column", config.group_column) if config.group_column else None,
        split=known.get("split"),
        fold=known.get("fold"),
        weight=known.get("weight"),
    )


def _label_columns(
    header: Sequence[str], known: dict[str, int], config: DataConfig, name: str, asked: Callable[[str, str], int]
) -> tuple[int, ...]:
    named = config.label_columns or ()
    if len(set(named)) < len(named):
        raise ConfigError(f"data.label_columns names a column twice: {', '.join(named)}")
    if named:
        return tuple(asked("label_columns", column) for column in named)
    found = [known[alias] for alias in LABEL_COLUMNS if alias in known]
    if len(found) == 1:
        return (found[0],)
    if found:
        several = ", ".join(header[position] for position in found)
        raise ConfigError(f"{name}: the columns {several} could all be the label: choose with --data.label-columns")
    raise DataError(
        f"{name} has no column {', '.join(LABEL_COLUMNS)}: name the one with the class with --data.label-columns "
        f"(it has: {', '.join(header)})"
    )


def file_name(pattern: str | None, fields: Sequence[str], *, header: Sequence[str], image: int) -> str:
    """Return the file that a row names: the image column, put into the pattern where there is one.

    Raises:
        ConfigError: The pattern names no column, or one that is not there.
    """
    if pattern is None:
        return fields[image]

    def value(match: re.Match[str]) -> str:
        if match[1] in header:
            return fields[header.index(match[1])]
        if match[1] in ("id", "image"):
            return fields[image]
        raise ConfigError(f"data.image_pattern: no column '{match[1]}' (there are: {', '.join(header)})")

    name, used = re.subn(r"\{([^{}]*)\}", value, pattern)
    if not used:
        raise ConfigError(f"data.image_pattern '{pattern}' names no column: write it like '{{id}}.jpg'")
    return name


_ABSENT, _PRESENT = frozenset({"0", "0.0", "false"}), frozenset({"1", "1.0", "true"})


@dataclass(frozen=True)
class LabelCells:
    """Where the labels of a record stand, and how they are spelled."""

    positions: tuple[int, ...]
    """Columns of the labels."""
    names: tuple[str, ...] = ()
    """What each of several columns is called; nothing where there is one."""
    indicators: frozenset[int] = frozenset()
    """Those of the columns that hold only 0 and 1."""
    separator: str | None = None
    """What stands between the labels of a cell."""

    @property
    def sets(self) -> bool:
        """Whether a row has a set of labels, not one class."""
        return self.separator is not None or len(self.positions) > 1

    def text(self, fields: Sequence[str]) -> str:
        """Return what the row says as text; empty where it says nothing."""
        if not self.sets:
            return fields[self.positions[0]].strip()
        labels = self.read(fields)
        return "" if labels is None else f"{{{', '.join(labels)}}}"

    def read(self, fields: Sequence[str]) -> tuple[str, ...] | None:
        """Return the labels of the row, each once, in their order; None where it is unlabelled."""
        labels: dict[str, None] = {}
        known = False
        for place, position in enumerate(self.positions):
            cell = fields[position].strip()
            known |= bool(cell)
            if position in self.indicators:
                labels |= {self.names[place]: None} if cell.casefold() in _PRESENT else {}
            else:
                prefix = f"{self.names[place]}=" if self.names else ""
                labels |= {prefix + part: None for part in self._parts(cell)}
        return tuple(labels) if known else None

    def _parts(self, cell: str) -> list[str]:
        if self.separator is None:
            return [cell] if cell else []
        parts = cell.split() if self.separator.isspace() else cell.split(self.separator)
        return [part.strip() for part in parts if part.strip()]


def label_cells(
    header: Sequence[str],
    positions: tuple[int, ...],
    records: Sequence[Sequence[str]],
    *,
    separator: str | None,
    single_labels: bool,
    name: str,
) -> LabelCells:
    """Find out how a table spells its labels.

    Args:
        header: Names of the columns.
        positions: The label columns.
        records: The fields of every row.
        separator: What stands between the labels of a cell, where one was given.
        single_labels: Accept that no cell holds the separator.
        name: The file's name, for messages.

    Raises:
        DataError: No cell holds the separator.
    """
    if separator is not None and not single_labels:
        mark = separator.strip() or " "
        cells = [fields[position].strip() for fields in records for position in positions]
        if any(cells) and not any(mark in cell for cell in cells):
            searched = ", ".join(header[position] for position in positions)
            raise DataError(
                f"{name}: no cell of {searched} holds the separator '{separator}': give another --data.label-separator "
                "(or --data.task multi beside it, if every image has one label)"
            )
    if len(positions) == 1:
        return LabelCells(positions, separator=separator)
    indicators = {position for position in positions if _is_indicator([fields[position] for fields in records])}
    return LabelCells(positions, tuple(header[position] for position in positions), frozenset(indicators), separator)


def _is_indicator(cells: Sequence[str]) -> bool:
    values = {cell.strip().casefold() for cell in cells} - {""}
    return bool(values) and values <= _ABSENT | _PRESENT


LabelNames = Sequence[str] | None
"""The labels of one row; None where they are unknown."""


def membership_of(sets: Sequence[LabelNames], classes: Sequence[str]) -> NDArray[np.bool_]:
    """Return which labels each row has (N K); unknown sets as empty rows.

    Raises:
        KeyError: A label is none of the K names.
    """
    index_of = {name: index for index, name in enumerate(classes)}
    membership = np.zeros((len(sets), len(classes)), dtype=np.bool_)
    for row, labels in enumerate(sets):
        membership[row, [index_of[label] for label in labels or ()]] = True
    return membership


def known_sets(sets: Sequence[LabelNames]) -> list[int]:
    """Return what stands for class indices where rows have sets: 0, or -1 where the set is unknown (N)."""
    return [-1 if labels is None else 0 for labels in sets]


def write_sets(membership: NDArray[np.bool_], known: NDArray[np.bool_], classes: Sequence[str]) -> list[str]:
    """Return each set as a JSON list of names (N); empty text where it is unknown."""
    return [
        json.dumps([classes[label] for label in np.flatnonzero(row).tolist()], ensure_ascii=False) if told else ""
        for row, told in zip(membership, known, strict=True)
    ]


def read_sets(cells: Sequence[str]) -> list[list[str] | None]:
    """Return what `write_sets` wrote.

    Raises:
        ValueError: A cell is no JSON list of texts.
    """
    sets: list[list[str] | None] = []
    for cell in cells:
        labels = json.loads(cell) if cell else None
        if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
            raise ValueError(f"'{cell}' is no list of labels")
        sets.append(labels)
    return sets
