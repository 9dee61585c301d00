"""Read tables of images: CSV and TSV files, also from spreadsheets, JSON lines and lists of paths.

Every message has line numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.output import join_few
from tercet.data.readers.columns import (
    file_name,
    find_columns,
    membership_of,
    placeholder_labels,
    sort_classes,
)
from tercet.data.readers.file_names import FileFinder
from tercet.data.readers.label_format import Line, RowLabels, read_labels
from tercet.data.readers.records import read_records
from tercet.data.readers.side_columns import SideColumns, read_side_columns
from tercet.data.sources import FolderSource, ZipSource
from tercet.data.table import UNLABELLED, SampleTable


def require_files(missing: int, existing: int, what: str, notes: Sequence[str], config: DataConfig) -> None:
    """Raise a `DataError` if more listed files are missing than `max_bad` tolerates, or all of them."""
    if missing > config.max_bad(missing + existing) or not existing:
        raise DataError(
            f"{what}: {'; '.join(notes)}; paths are relative to the table; does the image column need "
            "--data.image-pattern '{id}.jpg'?"
        )


def read_table(
    location: str,
    source: FolderSource | ZipSource,
    config: DataConfig,
    *,
    name: str,
    what: str,
    find: Callable[[str], str | None] | None = None,
) -> SampleTable:
    """Read a table of images, whose paths are relative to the table.

    Args:
        location: The table within the source: UTF-8, separated by comma, semicolon or tab; `.tsv` implies tabs,
            `.jsonl` JSON lines, and `.txt` a list of paths and labels.
        source: Folder or archive that also holds the images.
        config: Names of the columns, if they are not the usual ones.
        name: Name of the data.
        what: Name of the file, for messages.
        find: Returns the location of a listed file that does not exist at its path.

    Raises:
        DataError: The file is not a table, rows contradict each other, or too many images do not exist.
        ConfigError: A configured column is missing, several columns could be the label, or -1 has no meaning.
    """
    header, records = read_records(source.content(location), name=what, separator=config.label_separator)
    folder = location[: len(location) - len(PurePosixPath(location).name)]
    lines = [(str(line), fields) for line, fields in records]
    return table_of_records(header, lines, FileFinder(source, folder, find=find), config, name=name, what=what)


def table_of_records(
    header: Sequence[str],
    records: Sequence[Line],
    finder: FileFinder,
    config: DataConfig,
    *,
    name: str,
    what: str,
    notes: Sequence[str] = (),
) -> SampleTable:
    """Return the samples of the records of a table, whose files the finder finds.

    Raises:
        DataError: Rows contradict each other, or too many images do not exist.
        ConfigError: A configured column is missing, several columns could be the label, or -1 has no meaning.
    """
    columns = find_columns(header, [fields for _, fields in records], config, name=what)
    values = [fields[columns.image] for _, fields in records]
    unique_ids = columns.id is not None and len({fields[columns.id] for _, fields in records}) == len(set(values))
    ids = [fields[columns.id] for _, fields in records] if unique_ids and columns.id is not None else values
    labels = read_labels(header, columns.labels, records, config, name=what)
    files = [file_name(config.image_pattern, fields, header=header, image=columns.image) for _, fields in records]
    problems: list[str] = []
    split_required = config.split_column is not None
    side = read_side_columns(header, columns, records, ids, split_required=split_required, problems=problems)
    listed = _ListedRows([line for line, _ in records], ids, files, labels, side, problems)
    listed.collect(finder, name=what)
    rows = listed.rows
    all_notes = [*notes, *listed.notes(), *labels.notes, *side.notes, *finder.notes()]
    require_files(len(listed.missing), len(rows), what, all_notes, config)
    sets = [labels.sets[row.index] for row in rows]
    classes = sort_classes([label for label_set in sets for label in label_set or ()])
    if not classes:
        detail = ": all label sets are empty" if labels.is_multilabel else ""
        raise DataError("; ".join([f"{what}: no row has a label{detail}", *labels.notes]))
    index_of = {class_name: index for index, class_name in enumerate(classes)}
    indices = [index_of[label_set[0]] if label_set else UNLABELLED for label_set in sets]
    chosen = [row.index for row in rows]
    return SampleTable(
        name=name,
        ids=tuple(row.id for row in rows),
        locations=tuple(row.location for row in rows),
        labels=np.array(placeholder_labels(sets) if labels.is_multilabel else indices, dtype=np.int64),
        classes=classes,
        source=finder.source,
        groups=None if side.groups is None else tuple(side.groups[index] for index in chosen),
        splits=None if side.splits is None else tuple(side.splits[index] for index in chosen),
        folds=None if side.folds is None else np.array(side.folds, dtype=np.int64)[chosen],
        weights=None if side.weights is None else np.array(side.weights, dtype=np.float64)[chosen],
        notes=tuple(all_notes),
        membership=membership_of(sets, classes) if labels.is_multilabel else None,
        missing=tuple(listed.missing),
    )


@dataclass(frozen=True)
class _Row:
    """A record whose image exists."""

    index: int
    """Number of the record."""
    id: str
    location: str


class _ListedRows:
    """The records of a table; `collect` finds the images and compares the records of one image."""

    def __init__(
        self,
        lines: Sequence[str],
        ids: Sequence[str],
        files: Sequence[str],
        labels: RowLabels,
        side: SideColumns,
        problems: list[str],
    ) -> None:
        self.lines, self.ids, self.files, self.labels, self.side = lines, ids, files, labels, side
        self.problems = problems
        self.rows: list[_Row] = []
        self.missing: list[str] = []
        self.duplicates: list[str] = []

    def collect(self, finder: FileFinder, *, name: str) -> None:
        """Find the rows of existing images.

        Raises:
            DataError: Rows are invalid or contradict each other; all problems are listed.
        """
        by_location: dict[str, _Row] = {}
        by_id: dict[str, _Row] = {}
        for index, (line, sample_id, file) in enumerate(zip(self.lines, self.ids, self.files, strict=True)):
            try:
                location = finder.find(file) if file.strip() else None
            except DataError as error:
                self.problems.append(f"line {line}: {error}")
                continue
            row = _Row(index, sample_id, location or "")
            if not file.strip():
                self.problems.append(f"line {line}: no file name")
            elif location is None:
                self.missing.append(f"{file} (line {line})")
            elif location in by_location:
                self._compare(by_location[location], row)
            elif sample_id in by_id:
                both = f"lines {self.lines[by_id[sample_id].index]} and {line}"
                self.problems.append(f"{both}: two images have the id '{sample_id}'")
            else:
                by_location[location] = by_id[sample_id] = row
        self.rows = list(by_location.values())
        if self.problems:
            raise DataError(f"{name}: {len(self.problems)} rows are invalid: {join_few(self.problems, '; ')}")

    def _compare(self, first: _Row, second: _Row) -> None:
        """Add the second row of an image to the duplicates, or to the problems if it has other values."""
        lines = f"lines {self.lines[first.index]} and {self.lines[second.index]}"
        pairs = [pair for pair in zip(self._values(first), self._values(second), strict=True) if pair[0] != pair[1]]
        if pairs:
            self.problems.append(f"{lines}: '{first.location}' is both '{pairs[0][0]}' and '{pairs[0][1]}'")
        else:
            self.duplicates.append(f"{first.location} ({lines})")

    def _values(self, row: _Row) -> tuple[object, ...]:
        """Return the values in which two rows of one image must agree."""
        return self.labels.text(row.index), *self.side.values(row.index)

    def notes(self) -> list[str]:
        """Return sentences about missing images, duplicates and unlabelled rows."""
        missing, duplicates = self.missing, self.duplicates
        unlabelled = sum(self.labels.sets[row.index] is None for row in self.rows)
        notes = [f"{len(missing)} of {len(self.lines)} listed images do not exist: {join_few(missing)}"] * bool(missing)
        notes += [f"{len(duplicates)} rows are duplicates: {join_few(duplicates)}"] * bool(duplicates)
        return notes + [f"{unlabelled} rows have no label and are not used for training"] * bool(unlabelled)


_TABLE_OPTIONS = (
    "image_column",
    "label_columns",
    "label_separator",
    "missing_labels",
    "uncertain",
    "group_column",
    "split_column",
    "weight_column",
    "image_pattern",
)


def table_options(config: DataConfig) -> list[str]:
    """Return the options that are set and apply to tables only."""
    return [option for option in _TABLE_OPTIONS if getattr(config, option) is not None]


def refuse_table_options(config: DataConfig, what: str) -> None:
    """Raise a `ConfigError` if an option is set that applies to tables only."""
    if options := table_options(config):
        option = options[0].replace("_", "-")
        raise ConfigError(f"--data.{option} applies to tables only: {what} neither is nor contains one")
