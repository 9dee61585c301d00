"""What the label cells of a row say: one class, or a set of labels in one of three spellings.

- One column and a separator: `red|striped` names two labels.
- Several columns: a cell `Men` under `gender` is the label `gender=Men`.
- Columns that hold only 0 and 1 (or true and false): the column's name is the label of the rows with a 1.

A row whose label cells are all blank is unlabelled. A row of zeros has the empty set, which is an answer like others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tercet.ground.errors import DataError

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
