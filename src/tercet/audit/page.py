"""The page of an audit: numbers, class counts, copies side by side, odd labels, and some images of every class."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tercet.audit.duplicates import LEAST_CORRELATION
from tercet.audit.inspect import Inspection
from tercet.audit.result import MOST_LISTED, TITLES, AuditResult, Copy
from tercet.core.errors import DataError
from tercet.data.table import SampleTable
from tercet.plots.distribution import class_counts, counts_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.grids import thumbnail
from tercet.plots.page import Block, Details, Images, Page, Paragraph, Section, Table, Warning

_CLASSES, _EACH = 40, 6  # of the sample grid
_PAIRS, _LABELS, _LISTED = 24, 24, 200  # pictures of copies, of odd labels, and lines of a table
_UNFOLDED = 12  # lines of a table that is not folded away
_METHOD = (
    "Equal images have the same decoded pixels, whatever file they are in. Near duplicates have perceptual hashes "
    f"(imagehash, 64 bits, eight orientations) that differ in at most {{distance}} bits, and small grey copies that "
    f"correlate by {LEAST_CORRELATION} or more: re-encoded, resized, mirrored and turned copies are found so; cropped "
    "and slightly rotated ones mostly are not. Pictures of very similar things can be pairs too: look at them."
)


@dataclass(frozen=True)
class _Gallery:
    """Thumbnails of a table's images, by sample name; pictures are decoded again, as few are shown."""

    table: SampleTable
    max_pixels: int

    @cached_property
    def rows(self) -> dict[str, int]:
        """Return the positions of the samples."""
        return {name: row for row, name in enumerate(self.table.ids)}

    def show(self, named: Sequence[tuple[str, str]], caption: str = "") -> Images:
        """Return images with what is written under each."""
        shown = []
        for name, text in named:
            with suppress(DataError):  # a file that vanished since it was looked at
                location = self.table.locations[self.rows[name]]
                pixels = self.table.source.pixels(location, max_pixels=self.max_pixels)
                shown.append((thumbnail(pixels, 128), text))
        return Images(shown, caption)


def audit_page(
    found: AuditResult, table: SampleTable, seen: Inspection, book: FigureWriter, *, source: str, max_pixels: int
) -> Page:
    """Return the page.

    Args:
        found: What the audit found.
        table: The samples.
        seen: What was seen of their images.
        book: Where figures are drawn.
        source: What was audited.
        max_pixels: Largest image that is decoded.
    """
    gallery = _Gallery(table, max_pixels)
    sections = [
        Section("Findings", _findings(found)),
        Section("Classes", _classes(found, book)),
        Section("Images", _images(found)),
        Section("Copies", _copies(found, gallery)),
        Section("Labels", _labels(found, gallery)),
        Section("Samples of every class", _samples(found, table, seen, gallery), "samples"),
    ]
    return Page(f"Data audit: {found.name}", sections, source)


def _findings(found: AuditResult) -> list[Block]:
    leak = found.finding("leakage")
    blocks: list[Block] = [Warning(leak.text, "Leakage between splits")] if leak.count else []
    blocks += [Warning(refusal, "Training would refuse this data") for refusal in found.refusals]
    splits = ", ".join(f"{TITLES[split]} {count}" for split, count in found.split_sizes.items())
    facts = [
        ("images", f"{found.images:,}, {found.readable:,} of them readable"),
        ("classes", f"{len(found.classes):,}"),
        ("unlabelled", f"{found.unlabelled:,}"),
        ("splits", f"{splits} ({found.division})" if splits else found.division),
    ]
    blocks.append(Table((), facts, caption="The data"))
    if found.findings:
        rows = [(one.kind, f"{one.count:,}", one.text) for one in found.findings]
        blocks.append(Table(("kind", "number", "what"), rows, "lrl", "What should be looked at before training"))
    else:
        blocks.append(Paragraph("Nothing was found that should be looked at before training."))
    return [*blocks, *(Paragraph(note, quiet=True) for note in found.notes)]


def _classes(found: AuditResult, book: FigureWriter) -> list[Block]:
    splits = {TITLES[split]: counts for split, counts in found.by_split.items()}
    drawn = book.draw(
        "classes",
        "Readable labelled images of each class.",
        lambda axes: class_counts(axes, found.counts, splits or None),
        height=counts_height(found.counts),
    )
    blocks: list[Block] = [drawn]
    header = ("class", "images", *(TITLES[split] for split in found.by_split))
    rows = [
        (name, f"{count:,}", *(f"{counts[name]:,}" for counts in found.by_split.values()))
        for name, count in found.counts.items()
    ]
    table = Table(header, rows, "l" + "r" * (len(header) - 1), "Images of each class")
    blocks.append(table if len(rows) <= _UNFOLDED else Details(f"All {len(rows)} classes as a table", [table]))
    if found.small:
        lines = [(name, str(count)) for name, count in found.small.items()]
        caption = f"Classes with fewer than {found.folds} {found.units}, too few for as many folds"
        blocks.append(_long(Table(("class", found.units), lines, "lr", caption)))
    if found.absent or found.empty:
        lines = [(name, TITLES[split]) for split, names in found.absent.items() for name in names]
        lines += [(folder, "empty folder") for folder in found.empty]
        blocks.append(_long(Table(("class", "is not in"), lines, caption="Classes that are missing")))
    return blocks


def _images(found: AuditResult) -> list[Block]:
    sizes = [(f"{height} x {width}", f"{count:,}") for height, width, count in found.sizes]
    blocks: list[Block] = [
        _long(Table(("height x width", "images"), sizes, "lr", "Sizes in pixels, upright")),
        _long(Table(("stored as", "images"), [(mode, f"{count:,}") for mode, count in found.modes], "lr", "Formats")),
    ]
    if found.unreadable:
        lines = [(image.location, image.reason) for image in found.unreadable]
        blocks.append(_long(Table(("image", "why"), lines, caption="Images that cannot be read")))
    if found.missing:
        blocks.append(_long(Table(("file",), [(name,) for name in found.missing], caption="Files that are not there")))
    if found.flat:
        blocks.append(_long(Table(("image",), [(name,) for name in found.flat], caption="Images of one colour")))
    return blocks


def _copies(found: AuditResult, gallery: _Gallery) -> list[Block]:
    method = "Equal images have the same decoded pixels. Near duplicates were not looked for."
    if found.max_hash_distance is not None:
        method = _METHOD.format(distance=found.max_hash_distance)
    if not found.copies:
        return [Paragraph("No picture is there more than once."), Paragraph(method, quiet=True)]
    blocks: list[Block] = []
    if found.leaks:
        rows = [(TITLES[leak.split], TITLES[leak.other], f"{leak.images:,}") for leak in found.leaks]
        blocks.append(Table(("images of", "with a copy in", "number"), rows, "llr", "Copies between splits"))
    named = [
        (copy.ids[place], f"{number}: {_place(copy, place)}; {_how(copy)}")
        for number, copy in enumerate(found.copies[:_PAIRS], 1)
        for place in copy.apart()[:2]
    ]
    which = "Copies between splits first; each number is one picture."
    blocks.append(gallery.show(named, which))
    lines = [
        (str(number), " = ".join(_place(copy, place) for place in copy.apart()[:6]), _how(copy))
        for number, copy in enumerate(found.copies[:_LISTED], 1)
    ]
    more = len(found.copies) - _LISTED
    left = f"; {more:,} more, the first {MOST_LISTED:,} in audit.json" if more > 0 else ""
    blocks.append(
        _long(Table(("", "images", "told by"), lines, "rll", f"Pictures that are there more than once{left}"))
    )
    if not found.complete:
        blocks.append(Paragraph("There are more pairs of them: left out are those that join no further images."))
    return [*blocks, Paragraph(method, quiet=True)]


def _place(copy: Copy, place: int) -> str:
    """Return an image's name with its class and split."""
    where = ", ".join(
        part for part in (copy.labels[place], TITLES[copy.splits[place]] if copy.splits[place] else "") if part
    )
    return f"{copy.ids[place]} ({where})" if where else copy.ids[place]


def _how(copy: Copy) -> str:
    if copy.how == "pixels":
        return "equal pixels"
    told = f"{copy.distance} bits, correlation" if copy.how == "hash" else "features, cosine"
    way = "" if copy.orientation == "as it is" else f", {copy.orientation}"
    return f"{told} {copy.similarity:.3f}{way}"


def _labels(found: AuditResult, gallery: _Gallery) -> list[Block]:
    blocks: list[Block] = []
    torn = [copy for copy in found.copies_by("pixels") if copy.disagrees]
    if torn:
        lines = [
            (
                " = ".join(copy.ids[place] for place in copy.apart(copy.labels)[:6]),
                ", ".join(dict.fromkeys(copy.labels)),
            )
            for copy in torn[:_LISTED]
        ]
        blocks.append(_long(Table(("equal images", "labels"), lines, caption="Pictures that have several labels")))
    check = found.labels
    if found.sets:
        return [*blocks, Paragraph("Sets of labels are not judged by predictions.", quiet=True)]
    if check is None:
        note = "Suspicious labels are told by predictions of held-out images: give --run with a run on this data."
        return [*blocks, Paragraph(note, quiet=True)]
    blocks.append(
        Paragraph(
            f"{len(check.issues):,} of {check.checked:,} labels are suspicious by confident learning (cleanlab), from "
            f"predictions of {check.run}: {check.predictions}. A network can be wrong where a label is right: look."
        )
    )
    if check.issues:
        named = [(one.id, f"{one.id}: {one.label}, rather {one.suggested}?") for one in check.issues[:_LABELS]]
        rows = [
            (one.id, one.label, f"{one.own_probability:.3f}", one.suggested, f"{one.suggested_probability:.3f}")
            for one in check.issues[:_LISTED]
        ]
        header = ("image", "label", "its probability", "rather", "its probability")
        blocks += [gallery.show(named, "The worst first"), _long(Table(header, rows, "llrlr", "Suspicious labels"))]
    return blocks


def _samples(found: AuditResult, table: SampleTable, seen: Inspection, gallery: _Gallery) -> list[Block]:
    """Return some images of each class, spread over its rows."""
    blocks: list[Block] = []
    for index, name in enumerate(found.classes[:_CLASSES]):
        shows = table.membership[:, index] if table.membership is not None else table.labels == index
        rows = seen.rows[shows[seen.rows]]
        if len(rows):
            chosen = rows[np.unique(np.linspace(0, len(rows) - 1, _EACH).round().astype(np.int64))]
            named = [(table.ids[row], table.ids[row]) for row in chosen]
            blocks.append(gallery.show(named, f"{name} ({len(rows):,} images)"))
    if len(found.classes) > _CLASSES:
        blocks.append(Paragraph(f"{len(found.classes) - _CLASSES:,} more classes are not shown.", quiet=True))
    return blocks or [Paragraph("No image is labelled.")]


def _long(table: Table) -> Block:
    """Return a table, cut and folded away where it is long."""
    if len(table.rows) <= _UNFOLDED:
        return table
    cut = Table(table.header, table.rows[:_LISTED], table.align)
    return Details(f"{table.caption}: {len(table.rows):,}", [cut])
