"""Labels of the rows of a table: one class, several labels in a cell or in columns, or one-hot columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.output import join_few
from tercet.data.readers.label_cells import MissingLabels, indicator_value, is_category

Line = tuple[str, Sequence[str]]
"""Line of a record, as text, and its cells."""


@dataclass(frozen=True)
class RowLabels:
    """The labels of N records."""

    sets: tuple[tuple[str, ...] | None, ...]
    """N times the unique labels in their order, at most one if the rows have one class; None if unlabelled."""
    is_multilabel: bool
    """Whether a row has a label set instead of one class."""
    notes: tuple[str, ...] = ()

    def text(self, index: int) -> str:
        """Return the class or the label set of a record as text; empty if unlabelled."""
        labels = self.sets[index]
        if labels is None or not self.is_multilabel:
            return labels[0] if labels else ""
        return f"{{{', '.join(labels)}}}"


def read_labels(
    header: Sequence[str], positions: Sequence[int], records: Sequence[Line], config: DataConfig, *, name: str
) -> RowLabels:
    """Read the labels at some positions of the records.

    Raises:
        DataError: No cell contains the configured separator, or values of an indicator column are not understood.
        ConfigError: An indicator column has -1, and `data.uncertain` is not given.
    """
    missing = MissingLabels(config.missing_labels)
    separator = config.label_separator
    if separator is not None and config.task != "multi":
        _require_separator(header, positions, records, separator, name)
    if len(positions) > 1:
        return _ColumnLabels(header, positions, records, config, missing, name).read()
    cells = [fields[positions[0]] for _, fields in records]
    if separator is None:
        missing.keep_signs(cells)
        _refuse_lists(cells, header[positions[0]], name)
        labels = [missing.text(cell) for cell in cells]
        notes = missing.notes(label for label in labels if label)
        return RowLabels(tuple((label,) if label else None for label in labels), False, notes)
    sets = tuple(_unique(_split(cell, separator, missing)) or None for cell in cells)
    return RowLabels(sets, True, missing.notes(label for labels in sets for label in labels or ()))


def _require_separator(
    header: Sequence[str], positions: Sequence[int], records: Sequence[Line], separator: str, name: str
) -> None:
    mark = separator.strip() or " "
    cells = [fields[position].strip() for _, fields in records for position in positions]
    if any(cells) and not any(mark in cell for cell in cells):
        columns = ", ".join(header[position] for position in positions)
        raise DataError(
            f"{name}: no cell of {columns} contains the separator '{separator}': give another "
            "--data.label-separator (or add --data.task multi if every image has one label)"
        )


def _refuse_lists(cells: Sequence[str], column: str, name: str) -> None:
    """Raise a `DataError` if all labels are lists, such as ["cat", "dog"], which would each be a class."""
    labels = [cell.strip() for cell in cells if cell.strip()]
    if labels and all(label[0] == "[" and label[-1] == "]" for label in labels):
        raise DataError(
            f"{name}: the cells of '{column}' are lists, such as {labels[0]}: write several labels as text with a "
            "separator and give --data.label-separator (with it, lists of JSON lines and Parquet files are read)"
        )


def _split(cell: str, separator: str | None, missing: MissingLabels) -> list[str]:
    parts = [cell] if separator is None else cell.split(None if separator.isspace() else separator)
    return [label for label in map(missing.text, parts) if label]


def _unique(labels: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(labels))


class _ColumnLabels:
    """Several label columns, each of which has the values of an indicator or of a category."""

    def __init__(
        self,
        header: Sequence[str],
        positions: Sequence[int],
        records: Sequence[Line],
        config: DataConfig,
        missing: MissingLabels,
        name: str,
    ) -> None:
        self.config, self.missing, self.name = config, missing, name
        self.lines = [line for line, _ in records]
        self.columns = {
            header[position]: [_split(fields[position], config.label_separator, missing) for _, fields in records]
            for position in positions
        }
        self.indicators = [column for column, cells in self.columns.items() if self._is_indicator(column, cells)]
        self.notes: list[str] = []

    def read(self) -> RowLabels:
        """Return the labels: a class per row if the columns are one-hot, else label sets."""
        values = self._indicator_values()
        labelled = [any(cells) for cells in zip(*self.columns.values(), strict=True)]
        ignored = {row for cells in values.values() for row, value in enumerate(cells) if value == -1}
        sets: list[tuple[str, ...] | None] = []
        for row, is_labelled in enumerate(labelled):
            labels = []
            for column, cells in self.columns.items():
                if column in values:
                    labels += [column] if values[column][row] == 1 else []
                else:
                    labels += [f"{column}={label}" for label in cells[row]]
            sets.append(_unique(labels) if is_labelled and row not in ignored else None)
        self._describe_blanks(labelled)
        one_hot = len(values) == len(self.columns) and all(len(labels) == 1 for labels in sets if labels is not None)
        if self.config.task == "single" and not one_hot:
            self._refuse_label_sets(sets)
        is_multilabel = not one_hot or self.config.task == "multi" or not any(sets)
        if not is_multilabel:
            self.notes.append(
                f"the columns {join_few(list(values))} have exactly one 1 in every row and are read as one class; "
                "--data.task multi reads them as labels"
            )
        return RowLabels(tuple(sets), is_multilabel, (*self.missing.notes((), "blank"), *self.notes))

    def _is_indicator(self, column: str, cells: Sequence[Sequence[str]]) -> bool:
        """Return whether all values of a column are those of an indicator.

        Raises:
            DataError: Some are, or the column has other numbers that are not categories.
        """
        lines: dict[str, str] = {}
        for line, labels in zip(self.lines, cells, strict=True):
            for label in labels:
                lines.setdefault(label, line)
        unknown = [label for label in lines if indicator_value(label) is None]
        if not unknown:
            return bool(lines)
        if all(map(is_category, lines)):
            return False
        invalid = [label for label in unknown if not is_category(label)] or unknown
        examples = join_few([f"'{label}' (line {lines[label]})" for label in invalid])
        raise DataError(
            f"{self.name}: the column '{column}' has values other than yes and no, which are 1, 0, true, false, yes, "
            f"no, t, f or blank: {examples}; correct them, name missing ones with --data.missing-labels, or leave the "
            "column out of --data.label-columns"
        )

    def _indicator_values(self) -> dict[str, list[int | None]]:
        """Return 1, 0, -1 (ignored) or None (blank) of every row, by indicator column."""
        values = {
            column: [indicator_value(cells[-1]) if cells else None for cells in self.columns[column]]
            for column in self.indicators
        }
        if self.config.uncertain is None:
            for column, cells in values.items():
                if -1 in cells and set(cells) <= {1, -1}:
                    values[column] = [max(value or 0, 0) for value in cells]
                    self.notes.append(f"the column '{column}' has only 1 and -1: -1 is read as 0")
        uncertain = [
            f"'{column}' (line {self.lines[row]})"
            for column, cells in values.items()
            for row, value in enumerate(cells)
            if value == -1
        ]
        if not uncertain:
            return values
        if self.config.uncertain is None:
            raise ConfigError(
                f"{self.name}: {len(uncertain)} cells of indicator columns are -1, in {join_few(uncertain)}: give "
                "--data.uncertain negative (read as 0), positive (as 1) or ignore (the image is unlabelled)"
            )
        meaning = {"negative": 0, "positive": 1, "ignore": -1}[self.config.uncertain]
        reading = {0: "0", 1: "1", -1: "unlabelled images"}[meaning]
        self.notes.append(f"{len(uncertain)} cells with -1 are read as {reading} (--data.uncertain)")
        return {column: [meaning if value == -1 else value for value in cells] for column, cells in values.items()}

    def _describe_blanks(self, labelled: Sequence[bool]) -> None:
        blanks = sum(
            known and not self.columns[column][row] for column in self.indicators for row, known in enumerate(labelled)
        )
        if blanks:
            self.notes.append(f"{blanks} blank cells of indicator columns are read as 0")

    def _refuse_label_sets(self, sets: Sequence[tuple[str, ...] | None]) -> None:
        other = [index for index, labels in enumerate(sets) if labels is not None and len(labels) != 1]
        where = f": line {self.lines[other[0]]} has {len(sets[other[0]] or ())}" if other else ""
        raise DataError(
            f"{self.name}: --data.task single needs exactly one 1 in the label columns of every row{where}; give one "
            "of --data.label-columns, or omit --data.task"
        )
