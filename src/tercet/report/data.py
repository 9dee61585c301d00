"""Section on the data of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tercet.core.output import count
from tercet.data.copies import copy_groups
from tercet.data.run_reader import RunReader
from tercet.data.table import SampleTable, Split
from tercet.plots.distribution import class_counts, counts_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.page import Block, Details, Paragraph, Section, Table

_MAX_ROWS = 30  # classes up to which the table is not folded
_SPLITS: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}


def data_section(record: RunReader, writer: FigureWriter) -> Section:
    """Return counts per class and split, image sizes, and what was excluded."""
    table = record.table
    if table is None:
        text = f"{record.source}. The table of samples is missing, so counts per class and split are not shown."
        return Section("Data", [Paragraph(text, quiet=True), *_notes(record)])
    return Section("Data", [Table((), list(_facts(record, table))), *_counts(record, table, writer), *_notes(record)])


def _facts(record: RunReader, table: SampleTable) -> Iterator[tuple[str, str]]:
    yield "source", record.source
    yield "images", f"{len(table):,}"
    yield "labels" if record.is_multilabel else "classes", f"{table.num_classes:,}"
    if table.groups is not None:
        yield "groups", f"{len(set(table.groups)):,}"
    if groups := copy_groups(table):
        yield "copies", f"{sum(map(len, groups)):,} images in {count(len(groups), 'group')}"
    if (sizes := _image_sizes(record.data_run.path)) is not None:
        yield "image sizes", sizes
    counts = table.class_counts()
    if counts.min() not in (0, counts.max()):
        ratio = counts.max() / counts.min()
        yield "largest and smallest class", f"{counts.max():,} and {counts.min():,} images (ratio {ratio:.1f})"
    if fingerprint := record.metrics.get("data", {}).get("fingerprint"):
        yield "fingerprint", fingerprint


def _counts(record: RunReader, table: SampleTable, writer: FigureWriter) -> Iterator[Block]:
    rows_of = {title: table.rows_of(name) for name, title in _SPLITS.items()}
    splits = {title: table.take(rows).class_counts() for title, rows in rows_of.items() if len(rows)}
    totals = table.class_counts()
    if record.kind == "crossval" and set(splits) <= {"training"}:
        splits = {}  # every image is held out by one fold
    elif (rest := totals - sum(splits.values())).any():
        splits["unused"] = rest
    header = ["label" if record.is_multilabel else "class", *splits, "all"]
    rows = [
        (name, *(f"{counts[index]:,}" for counts in splits.values()), f"{totals[index]:,}")
        for index, name in enumerate(table.classes)
    ]
    caption = "Images per label" if record.is_multilabel else "Images per class"
    caption += " and split" if splits else ""
    block = Table(header, rows, "l" + "r" * (len(splits) + 1), caption)
    by_split = {name: dict(zip(table.classes, map(int, counts), strict=True)) for name, counts in splits.items()}
    by_class = dict(zip(table.classes, map(int, totals), strict=True))
    yield writer.draw(
        "class-counts",
        f"{caption}.",
        lambda axes: class_counts(axes, by_class, by_split or None),
        height=counts_height(by_class),
    )
    yield block if len(rows) <= _MAX_ROWS else Details(f"Table of all {count(len(rows), 'class')}", [block])


def _image_sizes(folder: Path) -> str | None:
    """Return height, width and colour of the images, if they were recorded."""
    path = folder / "images" / "shapes.npy"
    try:
        shapes = np.load(path, allow_pickle=False)
        low, high = shapes.min(axis=0), shapes.max(axis=0)
        channels = "greyscale" if high[2] == 1 else "colour"
        smallest, largest = (f"{shape[0]} x {shape[1]}" for shape in (low, high))
    except (OSError, ValueError, IndexError, EOFError):
        return None
    sizes = smallest if smallest == largest else f"{smallest} to {largest}"
    return f"{sizes} pixels (height x width), {channels}"


def _notes(record: RunReader) -> Iterator[Block]:
    notes = list(record.metrics.get("data", {}).get("notes") or ())
    if notes:
        table = Table(("note",), [(note,) for note in notes], "l", "Notes on the data")
        yield Details(f"Notes on the data: {len(notes)}", [table])
