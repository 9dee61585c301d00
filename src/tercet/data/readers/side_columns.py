"""Columns of a table beside image and label: group, split, fold and weight. N records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from tercet.core.output import join_few
from tercet.core.untrusted_files import column_key
from tercet.data.readers.columns import Columns
from tercet.data.readers.label_cells import MissingLabels, as_number, indicator_value
from tercet.data.readers.label_format import Line
from tercet.data.readers.split_names import split_of

NO_FOLD = -1
"""Fold of a record whose cell is not a whole number from 0 on: only `tercet crossval` needs one."""
_FLAGS = {"isvalid": "val", "isval": "val", "istest": "test"}
"""Split of the rows with 1 in a column of 0 and 1; the other rows are for training."""


@dataclass(frozen=True)
class SideColumns:
    """Values of N records; None if the table lacks the column, or its values are not used."""

    groups: tuple[str, ...] | None
    splits: tuple[str, ...] | None
    folds: tuple[int, ...] | None
    weights: tuple[float, ...] | None
    notes: tuple[str, ...]

    def values(self, index: int) -> tuple[object, ...]:
        """Return group, split, fold and weight of a record, as far as they are known."""
        columns = (self.groups, self.splits, self.folds, self.weights)
        return tuple(None if column is None else column[index] for column in columns)


def own_group(sample_id: str) -> str:
    """Return the name of the group of a sample without a group, which has no other sample."""
    return f"={sample_id}"


def fill_groups(names: Sequence[str | None], ids: Sequence[str]) -> tuple[str, ...]:
    """Return N group names; a sample without one, or with a word for a missing value, gets a group of its own."""
    missing = MissingLabels()
    texts = ["" if name is None else missing.text(str(name)) for name in names]
    return tuple(text or own_group(sample) for text, sample in zip(texts, ids, strict=True))


def read_side_columns(
    header: Sequence[str],
    columns: Columns,
    records: Sequence[Line],
    ids: Sequence[str],
    *,
    split_required: bool,
    problems: list[str],
) -> SideColumns:
    """Read the columns of N records; invalid values are added to `problems`, with their lines.

    A split column without any name of a split is ignored, unless `split_required`.
    """
    notes: list[str] = []

    def cells(position: int | None) -> list[str] | None:
        return None if position is None else [fields[position].strip() for _, fields in records]

    lines = [line for line, _ in records]
    group, fold, weight, split = map(cells, (columns.group, columns.fold, columns.weight, columns.split))
    split_name = "" if columns.split is None else header[columns.split]
    return SideColumns(
        groups=None if group is None else _groups(group, ids, notes),
        splits=None if split is None else _splits(split, split_name, lines, split_required, notes, problems),
        folds=None if fold is None else tuple(map(_fold, fold)),
        weights=None if weight is None else _weights(weight, lines, problems),
        notes=tuple(notes),
    )


def _groups(cells: Sequence[str], ids: Sequence[str], notes: list[str]) -> tuple[str, ...]:
    groups = fill_groups(cells, ids)
    blank = sum(group == own_group(sample) for group, sample in zip(groups, ids, strict=True))
    notes += [f"{blank} rows have no group: each is a group of its own"] * bool(blank)
    return groups


def _splits(
    cells: Sequence[str], column: str, lines: Sequence[str], required: bool, notes: list[str], problems: list[str]
) -> tuple[str, ...] | None:
    """Return the splits; None, with a note, if the column does not hold splits at all."""
    flag = _FLAGS.get(column_key(column))
    known = split_of if flag is None else partial(_split_of_flag, flag)
    values = {cell: known(cell) for cell in cells}
    unknown = {cell for cell, split in values.items() if split is None}
    if unknown == set(values) and not required:
        notes.append(f"the column '{column}' is ignored: it has no names of splits, but {_quoted(unknown)}")
        return None
    expected = "train, val or test" if flag is None else "0 or 1"
    for line, cell in zip(lines, cells, strict=True):
        if cell in unknown:
            problems.append(
                f"line {line}: {column} '{cell}' is not {expected}: correct it, or ignore the column with "
                "--data.split-column none"
            )
    if column != "split":
        notes.append(f"the column '{column}' gives the splits")
    return tuple(values[cell] or "" for cell in cells)


def _split_of_flag(split: str, cell: str) -> str | None:
    value = indicator_value(cell)
    return None if value not in (0, 1) else split if value else "train"


def _quoted(names: set[str]) -> str:
    return join_few([f"'{name}'" for name in sorted(names)])


def _fold(cell: str) -> int:
    number = as_number(cell)
    return int(number) if number is not None and 0 <= number < 1e9 and number.is_integer() else NO_FOLD


def _weights(cells: Sequence[str], lines: Sequence[str], problems: list[str]) -> tuple[float, ...]:
    weights = []
    for line, cell in zip(lines, cells, strict=True):
        weight = as_number(cell)
        if weight is None or not 0 < weight < float("inf"):
            problems.append(f"line {line}: weight '{cell}' is not a positive number")
        weights.append(weight or 0.0)
    return tuple(weights)
