"""Images that a text file lists are left out of a data set (`data.exclude`); `tercet audit` writes such files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tercet.core.errors import DataError
from tercet.core.files import write_text
from tercet.core.output import count, join_few
from tercet.core.untrusted_files import decode_text
from tercet.data.sources import FolderSource
from tercet.data.table import SampleTable


def without_excluded(table: SampleTable, exclude: str | None) -> SampleTable:
    """Return the table without the images that a file lists, and a note with their number.

    Args:
        table: The samples.
        exclude: Text file with a sample name, a location within the data, or a path of an image file on each line;
            empty lines and other lines that begin with # are ignored. None to keep all images.

    Raises:
        DataError: The file cannot be read, lists no image of the data, or all of them.
    """
    if exclude is None:
        return table
    lines = dict.fromkeys(line.strip() for line in decode_text(Path(exclude)).splitlines() if line.strip())
    rows = {name: row for names in (table.locations, table.ids) for row, name in enumerate(names)}
    row_of = {line: rows.get(line, rows.get(_within(table, line))) for line in lines}
    listed = np.array([row for row in row_of.values() if row is not None], dtype=np.int64)
    unknown = [line for line, row in row_of.items() if row is None and not line.startswith("#")]
    if not len(listed):
        example = f", such as '{unknown[0]}'" if unknown else ""
        raise DataError(
            f"{exclude} (--data.exclude) lists no image of {table.name}{example}: write a name or path per line, such "
            f"as '{table.ids[0] if len(table) else 'class/image.png'}'"
        )
    kept = np.ones(len(table), dtype=np.bool_)
    kept[listed] = False
    if not kept.any():
        raise DataError(f"{exclude} (--data.exclude) lists all {count(len(table), 'image')} of {table.name}")
    notes = [f"{count(int((~kept).sum()), 'image')} left out by {exclude}"]
    if unknown:
        notes.append(f"{count(len(unknown), 'line')} of {exclude} are not images of the data: {join_few(unknown)}")
    return table.take(kept).with_notes(*notes)


def _within(table: SampleTable, path: str) -> str:
    """Return the location of a file of a folder, given by its path from the current folder."""
    if not isinstance(table.source, FolderSource):
        return path
    return os.path.relpath(os.path.abspath(path), os.path.abspath(table.source.root)).replace(os.sep, "/")


def write_exclusions(path: Path, names: Iterable[tuple[str, str]]) -> None:
    """Write a file for `data.exclude`: lines of sample names, each after a comment with the reason if it changes."""
    lines: list[str] = []
    before = None
    for name, reason in names:
        lines += [f"# {reason}"] if reason != before else []
        lines.append(name)
        before = reason
    write_text(path, "".join(f"{line}\n" for line in lines))
