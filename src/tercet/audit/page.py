"""HTML page of an audit: findings, class counts, duplicates side by side, label issues, samples of every class."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tercet.audit.duplicate_groups import Cluster
from tercet.audit.inspect import Inspection
from tercet.audit.quality import RULES
from tercet.audit.result import MAX_LISTED, TITLES, AuditResult
from tercet.core.errors import DataError
from tercet.data.duplicates import MIN_CORRELATION
from tercet.data.table import SampleTable
from tercet.plots.distribution import class_counts, counts_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.grids import thumbnail
from tercet.plots.page import Block, Code, Details, Images, Page, Paragraph, Section, Table, Warning

_SAMPLE_CLASSES, _SAMPLES_PER_CLASS = 40, 6
_MAX_CLUSTERS, _MAX_ROW = 30, 8  # groups of duplicates, and thumbnails of each
_MAX_LABELS = 24  # thumbnails of label issues
_MAX_ROWS = 200  # of a table
_MAX_OPEN_ROWS = 12  # of a table that is not collapsed
_METHOD = (
    "Identical images have the same decoded pixels. Near duplicates have perceptual hashes (pHash, 64 bits, eight "
    "orientations) that differ in at most {distance} bits, and downscaled grey images with a correlation of at least "
    f"{MIN_CORRELATION}. This finds images that were re-encoded, resized, flipped or rotated by 90°, but mostly not "
    "cropped or slightly rotated ones. Different images of very similar objects may also be listed."
)


@dataclass(frozen=True)
class _Gallery:
    """Thumbnails of a table's images by sample name. Images are decoded again, as only a few are needed."""

    table: SampleTable
    max_pixels: int

    @cached_property
    def rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.table.ids)}

    def images(self, captions: Sequence[tuple[str, str]], title: str = "", *, in_row: bool = False) -> Images:
        """Return the images of (sample name, caption) pairs, in a single row if `in_row`."""
        images = []
        for name, caption in captions:
            with suppress(DataError):  # the file was deleted after the inspection
                location = self.table.locations[self.rows[name]]
                pixels = self.table.source.pixels(location, max_pixels=self.max_pixels)
                images.append((thumbnail(pixels, 128), caption))
        return Images(images, title, in_row)


def audit_page(
    result: AuditResult,
    table: SampleTable,
    inspection: Inspection,
    figures: FigureWriter,
    *,
    source: str,
    max_pixels: int,
    mending: Sequence[str] = (),
) -> Page:
    """Return the page of an audit; thumbnails are decoded up to `max_pixels`, `mending` are commands against copies."""
    gallery = _Gallery(table, max_pixels)
    sections = [
        Section("Findings", [*_findings(result), *_mending(mending)]),
        Section("Classes", _classes(result, figures)),
        Section("Images", _images(result, gallery)),
        Section("Duplicates", _duplicates(result, gallery)),
        Section("Labels", _labels(result, gallery)),
        Section("Samples per class", _samples(result, table, inspection, gallery), "samples"),
    ]
    return Page(f"Data audit: {result.name}", sections, source)


def _findings(result: AuditResult) -> list[Block]:
    leakage = result.finding("leakage")
    blocks: list[Block] = [Warning(leakage.text, "Leakage between splits")] if leakage.count else []
    blocks += [Warning(error, "Training would fail on this data") for error in result.training_errors]
    splits = ", ".join(f"{TITLES[split]} {count}" for split, count in result.split_sizes.items())
    facts = [
        ("images", f"{result.images:,} ({result.readable:,} readable)"),
        ("classes", f"{len(result.classes):,}"),
        ("unlabelled", f"{result.unlabelled:,}"),
        ("splits", f"{splits} ({result.split_source})" if splits else result.split_source),
    ]
    blocks.append(Table((), facts, caption="Data"))
    if result.findings:
        rows = [(finding.kind, f"{finding.count:,}", finding.text) for finding in result.findings]
        blocks.append(Table(("finding", "count", "details"), rows, "lrl", "Findings"))
    else:
        blocks.append(Paragraph("No problems found."))
    return [*blocks, *(Paragraph(note, quiet=True) for note in result.notes)]


def _mending(lines: Sequence[str]) -> list[Block]:
    return [block for line in lines for block in _sentence_and_command(line)]


def _sentence_and_command(line: str) -> list[Block]:
    text, colon, command = line.partition(": ")
    return [Paragraph(text + colon.strip()), Code(command, "command")] if colon else [Paragraph(f"{line}.")]


def _classes(result: AuditResult, figures: FigureWriter) -> list[Block]:
    splits = {TITLES[split]: counts for split, counts in result.by_split.items()}
    chart = figures.draw(
        "classes",
        "Readable labelled images per class.",
        lambda axes: class_counts(axes, result.counts, splits or None),
        height=counts_height(result.counts),
    )
    blocks: list[Block] = [chart]
    header = ("class", "images", *(TITLES[split] for split in result.by_split))
    rows = [
        (name, f"{count:,}", *(f"{counts[name]:,}" for counts in result.by_split.values()))
        for name, count in result.counts.items()
    ]
    table = Table(header, rows, "l" + "r" * (len(header) - 1), "Images per class")
    blocks.append(table if len(rows) <= _MAX_OPEN_ROWS else Details(f"Images per class ({len(rows)} classes)", [table]))
    if result.small_classes:
        lines = [(name, str(count)) for name, count in result.small_classes.items()]
        caption = f"Classes with fewer than {result.folds} {result.small_unit}, too few for {result.folds} folds"
        blocks.append(_collapsible(Table(("class", result.small_unit), lines, "lr", caption)))
    if result.missing_classes or result.empty_folders:
        lines = [(name, TITLES[split]) for split, names in result.missing_classes.items() for name in names]
        lines += [(folder, "empty folder") for folder in result.empty_folders]
        blocks.append(_collapsible(Table(("class", "missing in"), lines, caption="Missing classes")))
    return blocks


def _images(result: AuditResult, gallery: _Gallery) -> list[Block]:
    sizes = [(f"{height} x {width}", f"{count:,}") for height, width, count in result.sizes]
    modes = [(mode, f"{count:,}") for mode, count in result.modes]
    blocks: list[Block] = [
        _collapsible(Table(("height x width", "images"), sizes, "lr", "Image sizes in pixels, upright")),
        _collapsible(Table(("format and mode", "images"), modes, "lr", "File formats and colour modes")),
    ]
    if result.unreadable:
        lines = [(image.location, image.reason) for image in result.unreadable]
        blocks.append(_collapsible(Table(("image", "reason"), lines, caption="Unreadable images")))
    for names, caption in ((result.missing_files, "Missing files"), (result.uniform, "Images of one colour")):
        if names:
            blocks.append(_collapsible(Table(("image",), [(name,) for name in names], caption=caption)))
    for kind, names in result.odd.by_kind().items():
        captions = [(name, name) for name in names[:_MAX_ROW]]
        more = f", the first {_MAX_ROW}" if len(names) > _MAX_ROW else ""
        blocks.append(gallery.images(captions, f"{kind.capitalize()}: {len(names):,}{more}", in_row=True))
    return [*blocks, Paragraph(RULES, quiet=True)] if result.odd.ids else blocks


def _duplicates(result: AuditResult, gallery: _Gallery) -> list[Block]:
    method = "Identical images have the same decoded pixels. Near duplicates were not searched."
    if result.max_hash_distance is not None:
        method = _METHOD.format(distance=result.max_hash_distance)
    if not result.duplicates:
        return [Paragraph("No duplicates found."), Paragraph(method, quiet=True)]
    blocks: list[Block] = []
    if result.leaks:
        rows = [(TITLES[leak.split], TITLES[leak.other], f"{leak.images:,}") for leak in result.leaks]
        blocks.append(Table(("images of", "with a duplicate in", "count"), rows, "llr", "Duplicates across splits"))
    for number, cluster in enumerate(result.clusters[:_MAX_CLUSTERS], 1):
        captions = [(name, _describe(cluster, index)) for index, name in enumerate(cluster.ids[:_MAX_ROW])]
        blocks.append(gallery.images(captions, f"{number}. {_title(cluster)}", in_row=True))
    rest = result.clusters[_MAX_CLUSTERS:]
    if rest:
        lines = [
            (
                str(number),
                " = ".join(_describe(cluster, index) for index in range(min(6, len(cluster.ids)))),
                _how(cluster),
            )
            for number, cluster in enumerate(rest[:_MAX_ROWS], _MAX_CLUSTERS + 1)
        ]
        note = f"; audit.json has the first {MAX_LISTED:,}" if len(rest) > _MAX_ROWS else ""
        table = Table(("", "images", "detected by"), lines, "rll")
        blocks.append(Details(f"Further groups of duplicates: {len(rest):,}{note}", [table]))
    if not result.complete:
        blocks.append(Paragraph("Redundant pairs, which connect no further images, are not listed."))
    return [*blocks, Paragraph(method, quiet=True)]


def _describe(cluster: Cluster, index: int) -> str:
    """Return the name of an image with its class and split."""
    split = cluster.splits[index]
    details = ", ".join(text for text in (cluster.labels[index], TITLES[split] if split else "") if text)
    return f"{cluster.ids[index]} ({details})" if details else cluster.ids[index]


def _title(cluster: Cluster) -> str:
    """Return how many images are duplicates, how they were detected, and what is wrong about them."""
    splits = [TITLES[split] for split in dict.fromkeys(cluster.splits) if split]
    parts = [f"{len(cluster.ids)} images, {_how(cluster)}"]
    parts += [f"in {' and '.join(splits)}"] if cluster.crosses else []
    parts += [f"labelled {' and '.join(dict.fromkeys(filter(None, cluster.labels)))}"] if cluster.disagrees else []
    return "; ".join(parts) + (f" (the first {_MAX_ROW})" if len(cluster.ids) > _MAX_ROW else "")


def _how(cluster: Cluster) -> str:
    if cluster.identical:
        return "identical pixels"
    measures = {"pixels": "identical pixels", "hash": "hash and correlation", "network": "features"}
    return f"{', '.join(measures[method] for method in cluster.methods)} (similarity {cluster.similarity:.3f} or more)"


def _labels(result: AuditResult, gallery: _Gallery) -> list[Block]:
    blocks: list[Block] = []
    conflicts = [duplicate for duplicate in result.duplicates_by("pixels") if duplicate.disagrees]
    if conflicts:
        lines = [
            (
                " = ".join(duplicate.ids[index] for index in duplicate.ordered(duplicate.labels)[:6]),
                ", ".join(dict.fromkeys(duplicate.labels)),
            )
            for duplicate in conflicts[:_MAX_ROWS]
        ]
        caption = "Identical images with different labels"
        blocks.append(_collapsible(Table(("images", "labels"), lines, caption=caption)))
    check = result.labels
    if result.multilabel:
        return [*blocks, Paragraph("Labels of multi-label data are not checked with predictions.", quiet=True)]
    if check is None:
        note = "Give --run with a training run on this data to find likely label errors from its held-out predictions."
        return [*blocks, Paragraph(note, quiet=True)]
    blocks.append(
        Paragraph(
            f"{len(check.issues):,} of {check.checked:,} labels are likely errors according to confident learning "
            f"(cleanlab) with the predictions of {check.run}: {check.predictions}. The network may be wrong: check "
            "every image."
        )
    )
    if check.issues:
        captions = [
            (issue.id, f"{issue.id}: {issue.label}, suggested {issue.suggested}")
            for issue in check.issues[:_MAX_LABELS]
        ]
        rows = [
            (
                issue.id,
                issue.label,
                f"{issue.own_probability:.3f}",
                issue.suggested,
                f"{issue.suggested_probability:.3f}",
            )
            for issue in check.issues[:_MAX_ROWS]
        ]
        header = ("image", "label", "probability", "suggested label", "probability")
        table = Table(header, rows, "llrlr", "Likely label errors")
        blocks += [gallery.images(captions, "Likely label errors, the most certain first"), _collapsible(table)]
    return blocks


def _samples(result: AuditResult, table: SampleTable, inspection: Inspection, gallery: _Gallery) -> list[Block]:
    """Return a few images per class, evenly spaced over its rows."""
    blocks: list[Block] = []
    for label, name in enumerate(result.classes[:_SAMPLE_CLASSES]):
        mask = table.membership[:, label] if table.membership is not None else table.labels == label
        rows = inspection.rows[mask[inspection.rows]]
        if len(rows):
            chosen = rows[np.unique(np.linspace(0, len(rows) - 1, _SAMPLES_PER_CLASS).round().astype(np.int64))]
            captions = [(table.ids[row], table.ids[row]) for row in chosen]
            blocks.append(gallery.images(captions, f"{name} ({len(rows):,} images)"))
    if len(result.classes) > _SAMPLE_CLASSES:
        blocks.append(Paragraph(f"{len(result.classes) - _SAMPLE_CLASSES:,} more classes are not shown.", quiet=True))
    return blocks or [Paragraph("No labelled images.")]


def _collapsible(table: Table) -> Block:
    """Return a long table truncated and collapsed."""
    if len(table.rows) <= _MAX_OPEN_ROWS:
        return table
    short = Table(table.header, table.rows[:_MAX_ROWS], table.align)
    return Details(f"{table.caption}: {len(table.rows):,}", [short])
