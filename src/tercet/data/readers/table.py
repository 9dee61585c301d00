"""Tables of images: CSV and TSV files as people and spreadsheets write them, with line numbers in every message."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.readers.columns import Columns, LabelCells, file_name, find_columns, label_cells
from tercet.data.readers.folder import SPLIT_NAMES

SUFFIXES = frozenset({".csv", ".tsv"})
_SPLIT_VALUES = {**SPLIT_NAMES, "training": "train", "testing": "test"}
_EXAMPLES = 5

Record = tuple[int, list[str]]
"""The line a record begins on, and its fields."""


@dataclass
class TableRows:
    """The rows of a table whose images exist, column by column; None for a column that is not there."""

    ids: list[str] = field(default_factory=list)
    locations: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    """Class names; empty where the label is blank. Where the rows have sets, these as text."""
    sets: list[tuple[str, ...] | None] | None = None
    """Label sets; None for a row whose labels are all blank."""
    groups: list[str] | None = None
    splits: list[str] | None = None
    folds: list[int] | None = None
    weights: list[float] | None = None
    missing: list[str] = field(default_factory=list)
    """Image files that do not exist, with their lines; they are not among the rows."""
    notes: list[str] = field(default_factory=list)

    @property
    def num_missing(self) -> int:
        """Rows whose image file does not exist."""
        return len(self.missing)


def require_files(missing: int, found: int, what: str, notes: Sequence[str], config: DataConfig) -> None:
    """Refuse a table that names too many files in vain, or no other ones.

    Raises:
        DataError: More than `max_bad_fraction` are missing.
    """
    if missing > config.max_bad_fraction * (missing + found) or not found:
        raise DataError(
            f"{what}: {'; '.join(notes)}; paths are relative to the table; does the image column need "
            "--data.image-pattern '{id}.jpg'?"
        )


def read_table(content: bytes, *, name: str, config: DataConfig, find: Callable[[str], str | None]) -> TableRows:
    """Read a table of images.

    Args:
        content: The file's bytes: UTF-8 (a byte order mark is fine), separated by comma, semicolon or tab.
        name: The file's name, for messages; `.tsv` means tabs.
        config: Which columns mean what, where their names do not tell.
        find: Turns a file name into a location, or None where there is no such file.

    Raises:
        DataError: The file cannot be read as a table, or rows contradict each other; with line numbers.
        ConfigError: A column that was asked for is not there, or the label's column is not clear.
    """
    header, records = parse_table(content, name=name)
    columns = find_columns(header, config, name=name)
    values = [record[1][columns.image] for record in records]
    unique_ids = columns.id is not None and len({fields[columns.id] for _, fields in records}) == len(set(values))
    ids = [fields[columns.id] for _, fields in records] if unique_ids and columns.id is not None else values
    cells = label_cells(
        header,
        columns.labels,
        [fields for _, fields in records],
        separator=config.label_separator,
        single_labels=config.task == "multi",
        name=name,
    )
    rows = TableRows(
        sets=[] if cells.sets else None,
        groups=None if columns.group is None else [],
        splits=None if columns.split is None else [],
        folds=None if columns.fold is None else [],
        weights=None if columns.weight is None else [],
    )
    collect = _Collector(rows, columns, cells, name)
    for (line, fields), sample_id in zip(records, ids, strict=True):
        file = file_name(config.image_pattern, fields, header=header, image=columns.image)
        collect.add(line, fields, sample_id, file, find)
    collect.finish(len(records))
    return rows


def parse_table(content: bytes, *, name: str) -> tuple[list[str], list[Record]]:
    """Return a table's header and its records.

    Raises:
        DataError: It cannot be read as a table, or has no rows.
    """
    return _parse(_text(content, name), name)


def _text(content: bytes, name: str) -> str:
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
        raise DataError(f"{name} has no rows: expected a header such as 'image,label' and one line an image")
    return header, records


def _sniff(text: str) -> str:
    """Return the separator that gives the header the most fields; a comma where none does."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return max(",;\t", key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))


class _Collector:
    """Takes in rows one by one; doubles are counted, contradictions gathered, and told all at once."""

    def __init__(self, rows: TableRows, columns: Columns, cells: LabelCells, name: str) -> None:
        self.rows, self.columns, self.cells, self.name = rows, columns, cells, name
        self.first: dict[str, tuple[int, tuple[object, ...]]] = {}
        self.id_lines: dict[str, int] = {}
        self.doubles: list[str] = []
        self.problems: list[str] = []

    def add(
        self, line: int, fields: Sequence[str], sample_id: str, file: str, find: Callable[[str], str | None]
    ) -> None:
        """Take in one record."""
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
            self._double(line, location, values)
        elif sample_id in self.id_lines:
            self.problems.append(f"lines {self.id_lines[sample_id]} and {line}: id '{sample_id}' names two images")
        else:
            self.first[location] = (line, values)
            self.id_lines[sample_id] = line
            self._append(sample_id, location, values)
            if self.rows.sets is not None:
                self.rows.sets.append(self.cells.read(fields))

    def _values(self, fields: Sequence[str]) -> tuple[str, str | None, str | None, int | None, float | None]:
        columns = self.columns

        def text(position: int | None) -> str | None:
            return None if position is None else fields[position].strip()

        split, fold, weight = text(columns.split), text(columns.fold), text(columns.weight)
        return (
            self.cells.text(fields),
            text(columns.group),
            None if split is None else _split(split),
            None if fold is None else int(_number(fold, "fold", whole=True)),
            None if weight is None else _number(weight, "weight", whole=False),
        )

    def _double(self, line: int, location: str, values: tuple[object, ...]) -> None:
        before, known = self.first[location]
        if known == values:
            self.doubles.append(f"{location} (lines {before} and {line})")
            return
        here, there = next((a, b) for a, b in zip(values, known, strict=True) if a != b)
        self.problems.append(f"lines {before} and {line}: '{location}' is both '{there}' and '{here}'")

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
        """Raise what contradicts, note what was dropped."""
        if self.problems:
            raise DataError(f"{self.name}: {len(self.problems)} rows cannot be used: {_few(self.problems, '; ')}")
        if missing := self.rows.missing:
            self.rows.notes.append(f"{len(missing)} of {num_records} rows name no image: {_few(missing)}")
        if self.doubles:
            self.rows.notes.append(f"{len(self.doubles)} rows repeat another one: {_few(self.doubles)}")
        unlabelled = sum(not label for label in self.rows.labels)
        if unlabelled:
            self.rows.notes.append(f"{unlabelled} rows have no label and do not train")


def _few(items: Sequence[str], separator: str = ", ") -> str:
    return separator.join(items[:_EXAMPLES]) + (f"{separator}..." if len(items) > _EXAMPLES else "")


def _split(value: str) -> str:
    if value.casefold() not in _SPLIT_VALUES:
        raise DataError(f"split '{value}' is not one of {', '.join(sorted(_SPLIT_VALUES))}")
    return _SPLIT_VALUES[value.casefold()]


def _number(value: str, column: str, *, whole: bool) -> float:
    try:
        number = float(int(value) if whole else float(value))
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        kind = "a whole number" if whole else "a number"
        raise DataError(f"{column} '{value}' is not {kind} from 0 on")
    return number
