"""Read tables of images: CSV and TSV files, also from spreadsheets; every message has line numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.output import join_few
from tercet.core.untrusted_files import Record, parse_table
from tercet.data.readers.columns import (
    Columns,
    LabelFormat,
    detect_label_format,
    file_name,
    find_columns,
    membership_of,
    placeholder_labels,
    sort_classes,
)
from tercet.data.readers.folder import SPLIT_NAMES
from tercet.data.sources import FolderSource, ZipSource
from tercet.data.table import UNLABELLED, SampleTable

SUFFIXES = frozenset({".csv", ".tsv"})
_SPLIT_VALUES = {**SPLIT_NAMES, "training": "train", "testing": "test"}


def require_files(missing: int, existing: int, what: str, notes: Sequence[str], config: DataConfig) -> None:
    """Raise a `DataError` if more listed files are missing than `max_bad` tolerates, or all of them."""
    if missing > config.max_bad(missing + existing) or not existing:
        raise DataError(
            f"{what}: {'; '.join(notes)}; paths are relative to the table; does the image column need "
            "--data.image-pattern '{id}.jpg'?"
        )


def read_table(
    location: str, source: FolderSource | ZipSource, config: DataConfig, *, name: str, what: str
) -> SampleTable:
    """Read a table of images, whose paths are relative to the table.

    Args:
        location: The table within the source: UTF-8, separated by comma, semicolon or tab; `.tsv` implies tabs.
        source: Folder or archive that also holds the images.
        config: Names of the columns, if they are not the usual ones.
        name: Name of the data.
        what: Name of the file, for messages.

    Raises:
        DataError: The file is not a table, rows contradict each other, or too many images do not exist.
        ConfigError: A configured column is missing, or several columns could be the label.
    """
    header, records = decode_table(source.content(location), name=what)
    columns = find_columns(header, config, name=what)
    values = [fields[columns.image] for _, fields in records]
    unique_ids = columns.id is not None and len({fields[columns.id] for _, fields in records}) == len(set(values))
    ids = [fields[columns.id] for _, fields in records] if unique_ids and columns.id is not None else values
    label_format = detect_label_format(
        header,
        columns.labels,
        [fields for _, fields in records],
        separator=config.label_separator,
        single_labels=config.task == "multi",
        name=what,
    )
    folder = location[: len(location) - len(PurePosixPath(location).name)]
    files = [file_name(config.image_pattern, fields, header=header, image=columns.image) for _, fields in records]
    rows, notes, missing = _collect(
        records, ids, files, columns, label_format, what, lambda file: source.find(folder + file)
    )
    require_files(len(missing), len(rows), what, notes, config)
    sets = [label_format.label_set(row.fields) for row in rows] if label_format.is_multilabel else None
    labels = [row.label for row in rows]
    classes = sort_classes(labels if sets is None else [label for labels in sets for label in labels or ()])
    if not classes:
        raise DataError(f"{what}: no row has a label{'' if sets is None else ': all label sets are empty'}")
    index_of = {class_name: index for index, class_name in enumerate(classes)}
    indices = [index_of.get(label, UNLABELLED) for label in labels] if sets is None else placeholder_labels(sets)
    return SampleTable(
        name=name,
        ids=tuple(row.id for row in rows),
        locations=tuple(row.location for row in rows),
        labels=np.array(indices, dtype=np.int64),
        classes=classes,
        source=source,
        groups=None if columns.group is None else tuple(row.group for row in rows),
        splits=None if columns.split is None else tuple(row.split for row in rows),
        folds=None if columns.fold is None else np.array([row.fold for row in rows], dtype=np.int64),
        weights=None if columns.weight is None else np.array([row.weight for row in rows], dtype=np.float64),
        notes=tuple(notes),
        membership=None if sets is None else membership_of(sets, classes),
        missing=tuple(missing),
    )


def decode_table(content: bytes, *, name: str) -> tuple[list[str], list[Record]]:
    """Return a table's header and its records.

    Raises:
        DataError: The content is not a table, or has no rows.
    """
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{name} is UTF-16: save it as UTF-8 (in spreadsheets: CSV UTF-8)")
    if (position := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, position) + 1
        raise DataError(f"{name}, line {line}: a NUL byte; the file is damaged or UTF-16: save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}, line {line}: not UTF-8: save the table as UTF-8") from error
    delimiter = "\t" if PurePosixPath(name).suffix.lower() == ".tsv" else None
    header, records = parse_table(text, name=name, delimiter=delimiter)
    return [cell.strip() for cell in header], records


@dataclass(slots=True)
class _Row:
    """One record; columns that the table lacks have the default."""

    line: int
    id: str
    location: str
    fields: list[str]
    label: str
    group: str = ""
    split: str = ""
    fold: int = 0
    weight: float = 0.0

    @property
    def values(self) -> tuple[object, ...]:
        """The values in which two rows of one image must agree."""
        return self.label, self.group, self.split, self.fold, self.weight


def _collect(
    records: Sequence[Record],
    ids: Sequence[str],
    files: Sequence[str],
    columns: Columns,
    label_format: LabelFormat,
    name: str,
    find: Callable[[str], str | None],
) -> tuple[list[_Row], list[str], list[str]]:
    """Return the rows of existing images, notes about dropped rows, and missing files; all conflicts are reported.

    Raises:
        DataError: Rows are invalid or contradict each other.
    """
    rows: dict[str, _Row] = {}  # by location
    id_lines: dict[str, int] = {}
    missing, duplicates, problems = [], [], []
    optional = {column: at for column in _PARSERS if (at := getattr(columns, column)) is not None}
    for (line, fields), sample_id, file in zip(records, ids, files, strict=True):
        try:
            if not file.strip():
                raise DataError("no file name")
            location = find(file)
            values: dict[str, Any] = {column: _PARSERS[column](fields[at].strip()) for column, at in optional.items()}
            row = _Row(line, sample_id, location or "", fields, label_format.text(fields), **values)
        except DataError as error:
            problems.append(f"line {line}: {error}")
            continue
        if location is None:
            missing.append(f"{file} (line {line})")
        elif location in rows:
            first = rows[location]
            differing = [pair for pair in zip(first.values, row.values, strict=True) if pair[0] != pair[1]]
            if differing:
                both = f"both '{differing[0][0]}' and '{differing[0][1]}'"
                problems.append(f"lines {first.line} and {line}: '{location}' is {both}")
            else:
                duplicates.append(f"{location} (lines {first.line} and {line})")
        elif sample_id in id_lines:
            problems.append(f"lines {id_lines[sample_id]} and {line}: two images have the id '{sample_id}'")
        else:
            rows[location] = row
            id_lines[sample_id] = line
    if problems:
        raise DataError(f"{name}: {len(problems)} rows are invalid: {join_few(problems, '; ')}")
    unlabelled = sum(not row.label for row in rows.values())
    notes = [f"{len(missing)} of {len(records)} listed images do not exist: {join_few(missing)}"] if missing else []
    notes += [f"{len(duplicates)} rows are duplicates: {join_few(duplicates)}"] if duplicates else []
    notes += [f"{unlabelled} rows have no label and are not used for training"] if unlabelled else []
    return list(rows.values()), notes, missing


def _split(value: str) -> str:
    if value.casefold() not in _SPLIT_VALUES:
        raise DataError(f"split '{value}' is not one of {', '.join(sorted(_SPLIT_VALUES))}")
    return _SPLIT_VALUES[value.casefold()]


def _fold(value: str) -> int:
    try:
        number = int(value)
    except ValueError:
        number = -1
    if number < 0:
        raise DataError(f"fold '{value}' is not a non-negative integer")
    return number


def _weight(value: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise DataError(f"weight '{value}' is not a positive number")
    return weight


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "group": str,
    "split": _split,
    "fold": _fold,
    "weight": _weight,
}
"""By optional column."""

_TABLE_OPTIONS = ("image_column", "label_columns", "label_separator", "group_column", "weight_column", "image_pattern")


def table_options(config: DataConfig) -> list[str]:
    """Return the options that are set and apply to tables only."""
    return [option for option in _TABLE_OPTIONS if getattr(config, option) is not None]


def refuse_table_options(config: DataConfig, what: str) -> None:
    """Raise a `ConfigError` if an option is set that applies to tables only."""
    if options := table_options(config):
        raise ConfigError(f"data.{options[0]} applies to tables only, and {what} is not and does not hold a table")
