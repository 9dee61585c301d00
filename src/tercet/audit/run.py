"""The audit command: check a data set before training."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from tercet.audit.checks import check_table
from tercet.audit.duplicate_groups import exclusions
from tercet.audit.embedding import Embedder, build_embedder, check_embedder, embed_images
from tercet.audit.inspect import Inspection, inspect
from tercet.audit.label_issues import check_labels, held_out_predictions, require_cleanlab, require_single_label
from tercet.audit.result import TITLES, AuditResult, Finding, LabelCheck
from tercet.config.commands import AUDIT, FINDING_KINDS, AuditConfig
from tercet.config.option_types import AuditOptions
from tercet.config.parser import ParsedArguments
from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError, StorageError
from tercet.core.files import require_writable, write_json
from tercet.core.output import count, printable
from tercet.core.progress import as_console, print_status
from tercet.data.decoding import Decoding
from tercet.data.exclusion import write_exclusions
from tercet.data.in_memory import DataLike, resolve_data
from tercet.data.load import load_table
from tercet.data.sources import with_decoding
from tercet.data.table import SampleTable
from tercet.plots.page import write_page

try:
    from tercet.audit.page import audit_page
    from tercet.plots.figure_writer import FigureWriter
except ModuleNotFoundError as error:  # an extra: `pip install tercet[plots]`
    if (error.name or "").partition(".")[0] != "matplotlib":
        raise
    audit_page = None  # type: ignore[assignment]

DOCUMENT, PAGE, EXCLUDE = "audit.json", "audit.html", "exclude.txt"
_EXAMPLES = 3  # image sizes and modes in the text report


@dataclass(frozen=True)
class AuditReport:
    """A finished audit."""

    source: str
    """Data that were audited."""
    result: AuditResult
    failed: tuple[Finding, ...]
    """Findings of the kinds in `fail_on`."""
    path: Path | None
    """Folder with audit.json, audit.html, exclude.txt and figures/; None without `output`."""
    layout: str = ""
    """How the folders were read; empty for other data."""
    features: Mapping[str, int] | None = None
    """Numbers of computed and reused features, of one image and orientation each; None without `feature_network`."""

    @property
    def exit_code(self) -> int:
        """3 if a finding is in `failed`, else 0."""
        return 3 if self.failed else 0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "source": self.source,
            "layout": self.layout,
            "failed": [finding.kind for finding in self.failed],
            **self.result.to_dict(),
            "features": self.features,
        }

    def to_text(self) -> str:
        """Return the text report."""
        lines = [*_summary(self.result), *([f"layout: {self.layout}"] if self.layout else []), ""]
        width = max(map(len, FINDING_KINDS))
        for kind in FINDING_KINDS:
            finding = self.result.finding(kind)
            mark, text = ("!", finding.text) if finding.count else (" ", _no_finding(self.result, kind))
            lines.append(f"{mark} {kind:<{width}}  {text}")
        lines += [f"! tercet train would fail on this data: {error}" for error in self.result.training_errors]
        lines += [f"  note: {note}" for note in self.result.notes]
        lines += mending(self.source, self.result, self.path)
        if self.failed:
            lines.append(f"failed on {', '.join(finding.kind for finding in self.failed)}")
        if self.path is not None:
            lines.append(f"page: {self.path / PAGE}")
        return "".join(f"{printable(line)}\n" for line in lines)


def mending(source: str, result: AuditResult, folder: Path | None) -> list[str]:
    """Return what to do about copies, with commands; empty without copies."""
    listed = [*exclusions(result.duplicates)]
    if not listed:
        return []
    lines = []
    if not result.given_splits:
        lines.append("tercet train keeps copies on one side of its splits (--data.keep-copies-together, the default)")
    data = shlex.quote(source)
    if folder is None:
        return [*lines, f"to list the {len(listed)} copies to leave out: tercet audit {data} --output audit"]
    command = f"tercet train {data} --data.exclude {shlex.quote(str(folder / EXCLUDE))}"
    return [*lines, f"to leave out {len(listed)} copies: {command}"]


def _summary(result: AuditResult) -> list[str]:
    """Return the lines about size, classes, formats and splits."""
    sizes = [f"{height} x {width} ({count})" for height, width, count in result.sizes]
    modes = [f"{mode} ({count})" for mode, count in result.modes]
    unlabelled = f" ({result.unlabelled} unlabelled)" if result.unlabelled else ""
    lines = [
        f"{result.name}: {count(result.images, 'image')}{unlabelled}, {count(len(result.classes), 'class')}",
        f"height x width: {_first(sizes)}; format and mode: {_first(modes)}",
    ]
    if result.split_sizes:
        parts = ", ".join(f"{TITLES[split]} {count}" for split, count in result.split_sizes.items())
        lines.append(f"{parts} ({result.split_source})")
    return lines


def _first(values: Sequence[str]) -> str:
    more = f" and {len(values) - _EXAMPLES} more" if len(values) > _EXAMPLES else ""
    return (", ".join(values[:_EXAMPLES]) or "none") + more


def _no_finding(result: AuditResult, kind: str) -> str:
    """Return the text for a kind without findings."""
    if kind == "labels" and result.multilabel:
        return "no conflicting labels of identical images; predictions are not used for multi-label data"
    if kind == "labels" and result.labels is None:
        return "no conflicting labels of identical images; use --run to find likely label errors"
    if kind == "labels":
        return f"no likely errors among {result.labels.checked if result.labels else 0} labels"
    if kind == "duplicates" and result.max_hash_distance is None:
        return "no identical images; near duplicates were not searched"
    if kind == "leakage" and not result.split_sizes:
        return "no splits"
    return "none"


def audit_data(
    source: DataLike, /, *, console: Console | bool | None = None, **options: Unpack[AuditOptions]
) -> AuditReport:
    """Check a data set before training: unreadable images, duplicates, leakage between splits, classes, labels.

    Args:
        source: Folder of images by class, table, zip, name of a data set; or Python objects, such as
            `(images, labels)`, a DataFrame or a Dataset.
        console: Console for progress, `False` for none (default: standard error, or the notebook).
        **options: Any option of `tercet audit`, such as `output="audit/"`, `run="runs/photos-1"`,
            `max_hash_distance=4`, `data={"group_from": "plant([0-9]+)"}`.

    Raises:
        TercetError: See `tercet.core.errors`.
    """
    return run_audit(source, AUDIT.parse_object(options), console=as_console(console))


def run_audit(source: DataLike, parsed: ParsedArguments, *, console: Console) -> AuditReport:
    """Audit a data set with parsed options."""
    options, config = parsed.of(AuditConfig), parsed.of(DataConfig)
    source = resolve_data(source, config)
    folder = _output_folder(options.output, source)
    if options.feature_network:
        check_embedder(options.feature_network[0])
    # Unreadable images and a single class are findings here, not errors.
    table, decoding = load_table(source, replace(config, max_bad_fraction=1.0), min_classes=1), Decoding.of(config)
    table = replace(table, source=with_decoding(table.source, decoding))
    labels = _check_labels(table, options.run)
    print_status(console, f"inspecting {count(len(table), 'image')}")
    compute_hashes = options.max_hash_distance is not None
    inspection = inspect(table, max_pixels=config.max_pixels, compute_hashes=compute_hashes)
    if not len(inspection.rows):
        raise DataError(f"{source}: none of {len(table)} images can be read, such as {inspection.bad[0]}")
    table = table.with_notes(*decoding.warnings())
    embedder = _build_embedder(inspection, options)
    features = _embed(embedder, table, inspection, config, options, console)
    result = check_table(table, inspection, config, options, features=features, labels=labels)
    failed = tuple(finding for finding in result.findings if finding.kind in options.fail_on)
    counts = None if embedder is None else embedder.cache.counts
    report = AuditReport(str(source), result, failed, folder, table.layout, counts)
    if folder is not None:
        print_status(console, f"writing {folder}")
        write_json(folder / DOCUMENT, report.to_dict())
        if listed := [*exclusions(result.duplicates)]:
            write_exclusions(folder / EXCLUDE, listed)
        figures = FigureWriter(folder / "figures")
        page = audit_page(
            result,
            table,
            inspection,
            figures,
            source=str(source),
            max_pixels=config.max_pixels,
            mending=mending(str(source), result, folder),
        )
        write_page(folder / PAGE, page)
    return report


def _output_folder(output: str | None, source: str | Path | SampleTable) -> Path | None:
    """Check the output folder before any work.

    Raises:
        ConfigError: matplotlib is not installed, or the folder is inside the data.
        StorageError: The folder has an audit already, or is not writable.
    """
    if output is None:
        return None
    if audit_page is None:
        raise ConfigError("--output requires matplotlib: pip install 'tercet[audit]'")
    folder, data = Path(output), Path(str(source)).expanduser()
    if data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
        raise ConfigError(f"--output {output} is inside the data, where its figures would become images of a class")
    for name in (DOCUMENT, PAGE, EXCLUDE):
        if os.path.lexists(folder / name):
            raise StorageError(f"{folder / name} exists already: choose another --output, or delete it")
    require_writable(folder)
    return folder


def _check_labels(table: SampleTable, run: str | None) -> LabelCheck | None:
    if run is None:
        return None
    require_cleanlab()
    require_single_label(table)
    predictions, description = held_out_predictions(run)
    return check_labels(table, predictions, run=str(run), description=description)


def _build_embedder(inspection: Inspection, options: AuditConfig) -> Embedder | None:
    if not options.feature_network:
        return None
    channels = 1 if all(mode.split()[-1] in ("1", "L", "I;16") for mode in inspection.modes) else 3
    sizes = {(int(height), int(width)) for height, width in inspection.sizes}
    size = sizes.pop() if len(sizes) == 1 else None
    return build_embedder(options.feature_network[0], channels=channels, image_size=size)


def _embed(
    embedder: Embedder | None,
    table: SampleTable,
    inspection: Inspection,
    config: DataConfig,
    options: AuditConfig,
    console: Console,
) -> NDArray[np.float16] | None:
    if embedder is None:
        return None
    rows, digests = inspection.rows, inspection.digests
    print_status(console, f"comparing {len(rows)} images by features of {embedder.classifier.network}")
    return embed_images(embedder, table, rows, digests, max_pixels=config.max_pixels, device=options.device)
