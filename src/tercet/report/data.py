"""What the images of a run are: how many, of what, in which split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tercet.data.run_reader import RunReader
from tercet.data.table import SampleTable, Split
from tercet.plots.distribution import class_counts, counts_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.page import Block, Details, Paragraph, Section, Table
from tercet.report.summary import count

_SHOWN = 30  # classes up to which the table stands open
_NAMES: dict[Split, str] = {"train": "train", "val": "validation", "test": "test"}


def data_section(record: RunReader, book: FigureWriter) -> Section:
    """Return what is known of the data: counts by class and split, sizes, what was left out."""
    table = record.table
    if table is None:
        gone = "The table of samples is gone, so counts by class and split are left out."
        return Section("Data", [Paragraph(f"{record.source}. {gone}", quiet=True), *_notes(record)])
    return Section("Data", [Table((), list(_facts(record, table))), *_counts(record, table, book), *_notes(record)])


def _facts(record: RunReader, table: SampleTable) -> Iterator[tuple[str, str]]:
    yield "source", record.source
    yield "images", f"{len(table):,}"
    yield "labels" if record.is_multilabel else "classes", f"{table.num_classes:,}"
    if table.groups is not None:
        yield "groups", f"{len(set(table.groups)):,}"
    if (sizes := _sizes(record.data_run.path)) is not None:
        yield "image sizes", sizes
    counts = table.class_counts()
    if counts.min() not in (0, counts.max()):
        yield (
            "largest to smallest class",
            f"{counts.max():,} to {counts.min():,} ({counts.max() / counts.min():.1f} times)",
        )
    if fingerprint := record.metrics.get("data", {}).get("fingerprint"):
        yield "fingerprint", fingerprint


def _counts(record: RunReader, table: SampleTable, book: FigureWriter) -> Iterator[Block]:
    rows_of = {shown: table.rows_of(name) for name, shown in _NAMES.items()}
    splits = {name: table.take(some).class_counts() for name, some in rows_of.items() if len(some)}
    whole = table.class_counts()
    if record.kind == "crossval" and set(splits) <= {"train"}:
        splits = {}  # folds take turns: there is no division to show
    elif (rest := whole - sum(splits.values())).any():
        splits["left out"] = rest
    header = ["label" if record.is_multilabel else "class", *splits, "all"]
    rows = [
        (name, *(f"{counts[index]:,}" for counts in splits.values()), f"{whole[index]:,}")
        for index, name in enumerate(table.classes)
    ]
    caption = "Images per label" if record.is_multilabel else "Images per class"
    caption += ", by split" if splits else ""
    block = Table(header, rows, "l" + "r" * (len(splits) + 1), caption)
    shares = {name: dict(zip(table.classes, map(int, counts), strict=True)) for name, counts in splits.items()}
    counted = dict(zip(table.classes, map(int, whole), strict=True))
    yield book.draw(
        "class-counts",
        f"{caption}.",
        lambda axes: class_counts(axes, counted, shares or None),
        height=counts_height(counted),
    )
    yield block if len(rows) <= _SHOWN else Details(f"all {count(len(rows), 'class')} as a table", [block])


def _sizes(folder: Path) -> str | None:
    """Return heights, widths and channels of the images, where they were noted."""
    path = folder / "images" / "shapes.npy"
    try:
        shapes = np.load(path, allow_pickle=False)
        low, high = shapes.min(axis=0), shapes.max(axis=0)
        channels = "grey" if high[2] == 1 else "colour"
        first, last = (f"{one[0]} x {one[1]}" for one in (low, high))
    except (OSError, ValueError, IndexError, EOFError):
        return None
    return f"{first if first == last else f'{first} to {last}'} pixels (height x width), {channels}"


def _notes(record: RunReader) -> Iterator[Block]:
    notes = list(record.metrics.get("data", {}).get("notes") or ())
    if notes:
        rows = [(note,) for note in notes]
        yield Details(
            f"{count(len(notes), 'remark')} on what was left out", [Table(("remark",), rows, "l", "Left out")]
        )
