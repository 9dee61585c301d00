"""Image folders of the Hugging Face hub: `metadata.jsonl` or `metadata.csv` beside the images, or in each split."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from tercet.config.run import DataConfig
from tercet.core.output import join_few
from tercet.core.untrusted_files import IMAGE_COLUMNS, LABEL_COLUMNS, column_key, table_column
from tercet.data.readers.columns import FURTHER_LABEL_COLUMNS, SPLIT_COLUMNS
from tercet.data.readers.file_names import FileFinder
from tercet.data.readers.label_format import Line
from tercet.data.readers.records import read_records
from tercet.data.readers.scan import Listing
from tercet.data.readers.split_names import split_of
from tercet.data.readers.table import table_of_records
from tercet.data.sources import FolderSource, ZipSource
from tercet.data.table import SampleTable

_NAMES = ("metadata.jsonl", "metadata.csv")


def read_metadata(
    listing: Listing, source: FolderSource | ZipSource, config: DataConfig, *, name: str, what: str
) -> SampleTable | None:
    """Read the files `metadata.jsonl` or `metadata.csv` of one folder level as one table.

    Without a split column, the first folders of the images give the splits, if all are names of splits.

    Returns:
        None if there are no such files, or they have no column `file_name` or no label column.

    Raises:
        DataError: The files are damaged, or the rows contradict each other.
        ConfigError: A configured column is missing.
    """
    files = [path for path in listing.files if posixpath.basename(path) in _NAMES]
    files = [path for path in files if path.count("/") == min(path.count("/") for path in files)]
    if not files:
        return None
    header, records = _joined(files, source, config)
    keys = {column_key(column) for column in header}
    has_labels = config.label_columns is not None or not keys.isdisjoint((*LABEL_COLUMNS, *FURTHER_LABEL_COLUMNS))
    if not has_labels or ("filename" not in keys and config.image_column is None):
        return None
    notes = [f"labels are read from {join_few(files)}"]
    image = table_column(header, IMAGE_COLUMNS)
    if image is not None and config.split_column is None and table_column(header, SPLIT_COLUMNS) is None:
        root = posixpath.commonpath([posixpath.dirname(path) for path in files]) if len(files) > 1 else ""
        root = root or (posixpath.dirname(files[0]) if len(files) == 1 else "")
        splits = [split_of(posixpath.relpath(fields[image], root or ".").split("/")[0]) for _, fields in records]
        if all(splits):
            header = [*header, "split"]
            records = [(line, [*fields, split or ""]) for (line, fields), split in zip(records, splits, strict=True)]
            notes.append("the folders of the images give the splits")
    return table_of_records(header, records, FileFinder(source, ""), config, name=name, what=what, notes=notes)


def _joined(files: Sequence[str], source: FolderSource | ZipSource, config: DataConfig) -> tuple[list[str], list[Line]]:
    """Return the header and the records of all files; file names get the folder of their file."""
    tables = {path: read_records(source.content(path), name=path, separator=config.label_separator) for path in files}
    header = list(dict.fromkeys(column for columns, _ in tables.values() for column in columns))
    records: list[Line] = []
    for path, (columns, rows) in tables.items():
        folder = path[: len(path) - len(posixpath.basename(path))]
        image = columns.index(config.image_column) if config.image_column in columns else None
        image = table_column(columns, IMAGE_COLUMNS) if image is None else image
        for line, fields in rows:
            cells = dict(zip(columns, fields, strict=True))
            if image is not None and fields[image].strip():
                cells[columns[image]] = folder + fields[image]
            where = f"{line}" if len(files) == 1 else f"{line} of {path}"
            records.append((where, [cells.get(column, "") for column in header]))
    return header, records
