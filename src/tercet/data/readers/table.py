"""Read tables of images: CSV and TSV files, also from spreadsheets; every message has line numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.readers.columns import Columns, LabelFormat, detect_label_format, file_name, find_columns
from tercet.data.readers.folder import SPLIT_NAMES

SUFFIXES = frozenset({".csv", ".tsv"})
_SPLIT_VALUES = {**SPLIT_NAMES, "training": "train", "testing": "test"}
_MAX_EXAMPLES = 5  # items listed in a message

Record = tuple[int, list[str]]
"""First line of a record, and its fields."""


@dataclass
class TableRows:
    """Columns of the rows whose images exist; None if the table lacks the column."""

    ids: list[str] = field(default_factory=list)
    locations: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    """Class names, or label sets as text; empty if unlabelled."""
    label_sets: list[tuple[str, ...] | None] | None = None
    """Label sets of a multi-label table; None for an unlabelled row."""
    groups: list[str] | None = None
    splits: list[str] | None = None
    folds: list[int] | None = None
    weights: list[float] | None = None
    missing: list[str] = field(default_factory=list)
    """Listed image files that do not exist, with line numbers; they have no rows."""
    notes: list[str] = field(default_factory=list)


def require_files(missing: int, existing: int, what: str, notes: Sequence[str], config: DataConfig) -> None:
    """Raise a `DataError` if more than `max_bad_fraction` of the listed files, or all of them, are missing."""
    if missing > config.max_bad_fraction * (missing + existing) or not existing:
        raise DataError(
            f"{what}: {'; '.join(notes)}; paths are relative to the table; does the image column need "
            "--data.image-pattern '{id}.jpg'?"
        )


def read_table(content: bytes, *, name: str, config: DataConfig, find: Callable[[str], str | None]) -> TableRows:
    """Read a table of images.

    Args:
        content: The file's bytes: UTF-8, with or without BOM, separated by comma, semicolon or tab.
        name: The file's name, for messages; `.tsv` implies tabs.
        config: Names of the columns, if they are not the usual ones.
        find: Returns the location of a file name, or None if there is no such file.

    Raises:
        DataError: The file is not a table, or rows contradict each other.
        ConfigError: A configured column is missing, or several columns could be the label.
    """
    header, records = parse_table(content, name=name)
    columns = find_columns(header, config, name=name)
    values = [record[1][columns.image] for record in records]
    unique_ids = columns.id is not None and len({fields[columns.id] for _, fields in records}) == len(set(values))
    ids = [fields[columns.id] for _, fields in records] if unique_ids and columns.id is not None else values
    label_format = detect_label_format(
        header,
        columns.labels,
        [fields for _, fields in records],
        separator=config.label_separator,
        single_labels=config.task == "multi",
        name=name,
    )
    rows = TableRows(
        label_sets=[] if label_format.is_multilabel else None,
        groups=None if columns.group is None else [],
        splits=None if columns.split is None else [],
        folds=None if columns.fold is None else [],
        weights=None if columns.weight is None else [],
    )
    collector = _RowCollector(rows, columns, label_format, name)
    for (line, fields), sample_id in zip(records, ids, strict=True):
        file = file_name(config.image_pattern, fields, header=header, image=columns.image)
        collector.add(line, fields, sample_id, file, find)
    collector.finish(len(records))
    return rows


def parse_table(content: bytes, *, name: str) -> tuple[list[str], list[Record]]:
    """Return a table's header and its records.

    Raises:
        DataError: The content is not a table, or has no rows.
    """
    return _parse(_decode_text(content, name), name)


def _decode_text(content: bytes, name: str) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{name} is UTF-16: save it as UTF-8 (in spreadsheets: CSV UTF-8)")
    if (position := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, position) + 1
        raise DataError(f"{name}, line {line}: a NUL byte; the file is damaged or UTF-16: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}, line {line}: not UTF-8: save the table as UTF-8") from error


def _parse(text: str, name: str) -> tuple[list[str], list[Record]]:
    delimiter = "\t" if PurePosixPath(name).suffix.lower() == ".tsv" else _sniff(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    records: list[Record] = []
    line = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                if header is None:
                    header = [field.strip() for field in fields]
                elif len(fields) != len(header):
                    raise DataError(f"{name}, line {line}: {len(fields)} fields, but the header has {len(header)}")
                else:
                    records.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{name}, line {line}: not a valid table: {error}") from error
    if header is None or not records:
        raise DataError(f"{name} has no rows: expected a header such as 'image,label' and one line per image")
    return header, records


def _sniff(text: str) -> str:
    """Return the delimiter that yields the most header fields, by default a comma."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return max(",;\t", key=lambda delimiter: len(next(csv.reader([first], delimiter=delimiter), [])))


class _RowCollector:
    """Collects rows, counts duplicates, and reports all conflicting rows together."""

    def __init__(self, rows: TableRows, columns: Columns, label_format: LabelFormat, name: str) -> None:
        self.rows, self.columns, self.label_format, self.name = rows, columns, label_format, name
        self.first: dict[str, tuple[int, tuple[object, ...]]] = {}
        """Line and values of the first row of each location."""
        self.id_lines: dict[str, int] = {}
        self.duplicates: list[str] = []
        self.problems: list[str] = []

    def add(
        self, line: int, fields: Sequence[str], sample_id: str, file: str, find: Callable[[str], str | None]
    ) -> None:
        """Add one record."""
        if not file.strip():
            self.problems.append(f"line {line}: no file name")
            return
        try:
            location = find(file)
            values = self._values(fields)
        except DataError as error:
            self.problems.append(f"line {line}: {error}")
            return
        if location is None:
            self.rows.missing.append(f"{file} (line {line})")
        elif location in self.first:
            self._add_duplicate(line, location, values)
        elif sample_id in self.id_lines:
            self.problems.append(f"lines {self.id_lines[sample_id]} and {line}: two images have the id '{sample_id}'")
        else:
            self.first[location] = (line, values)
            self.id_lines[sample_id] = line
            self._append(sample_id, location, values)
            if self.rows.label_sets is not None:
                self.rows.label_sets.append(self.label_format.label_set(fields))

    def _values(self, fields: Sequence[str]) -> tuple[str, str | None, str | None, int | None, float | None]:
        columns = self.columns

        def text(position: int | None) -> str | None:
            return None if position is None else fields[position].strip()

        split, fold, weight = text(columns.split), text(columns.fold), text(columns.weight)
        return (
            self.label_format.text(fields),
            text(columns.group),
            None if split is None else _split(split),
            None if fold is None else int(_number(fold, "fold", integer=True)),
            None if weight is None else _number(weight, "weight", integer=False),
        )

    def _add_duplicate(self, line: int, location: str, values: tuple[object, ...]) -> None:
        first_line, first_values = self.first[location]
        if first_values == values:
            self.duplicates.append(f"{location} (lines {first_line} and {line})")
            return
        first, second = next(pair for pair in zip(first_values, values, strict=True) if pair[0] != pair[1])
        self.problems.append(f"lines {first_line} and {line}: '{location}' is both '{first}' and '{second}'")

    def _append(
        self,
        sample_id: str,
        location: str,
        values: tuple[str, str | None, str | None, int | None, float | None],
    ) -> None:
        label, group, split, fold, weight = values
        rows = self.rows
        rows.ids.append(sample_id)
        rows.locations.append(location)
        rows.labels.append(label)
        if rows.groups is not None and group is not None:
            rows.groups.append(group)
        if rows.splits is not None and split is not None:
            rows.splits.append(split)
        if rows.folds is not None and fold is not None:
            rows.folds.append(fold)
        if rows.weights is not None and weight is not None:
            rows.weights.append(weight)

    def finish(self, num_records: int) -> None:
        """Raise if there are problems, and add notes about dropped rows."""
        if self.problems:
            raise DataError(f"{self.name}: {len(self.problems)} rows are invalid: {_examples(self.problems, '; ')}")
        notes = self.rows.notes
        if missing := self.rows.missing:
            notes.append(f"{len(missing)} of {num_records} listed images do not exist: {_examples(missing)}")
        if self.duplicates:
            notes.append(f"{len(self.duplicates)} rows are duplicates: {_examples(self.duplicates)}")
        unlabelled = sum(not label for label in self.rows.labels)
        if unlabelled:
            notes.append(f"{unlabelled} rows have no label and are not used for training")


def _examples(items: Sequence[str], separator: str = ", ") -> str:
    return separator.join(items[:_MAX_EXAMPLES]) + (f"{separator}..." if len(items) > _MAX_EXAMPLES else "")


def _split(value: str) -> str:
    if value.casefold() not in _SPLIT_VALUES:
        raise DataError(f"split '{value}' is not one of {', '.join(sorted(_SPLIT_VALUES))}")
    return _SPLIT_VALUES[value.casefold()]


def _number(value: str, column: str, *, integer: bool) -> float:
    try:
        number = float(int(value) if integer else float(value))
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        kind = "integer" if integer else "number"
        raise DataError(f"{column} '{value}' is not a non-negative {kind}")
    return number
