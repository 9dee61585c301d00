"""Looking at a data set before training: what cannot be read, what is there twice, what leaks, which labels are odd."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from tercet.audit.audit import check_table
from tercet.audit.embedding import build_embedder, check_embedder, embed_images
from tercet.audit.inspect import Inspection, inspect, require_imagehash
from tercet.audit.label_issues import check_labels, held_out_predictions, require_cleanlab, require_one_label
from tercet.audit.result import TITLES, AuditResult, Finding, LabelCheck
from tercet.config.analysis import AUDIT, FINDING_KINDS, AuditConfig
from tercet.config.parser import ParsedArguments
from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError, StorageError
from tercet.core.files import require_writable, write_json
from tercet.core.progress import print_status
from tercet.core.streams import printable
from tercet.data.load import load_table
from tercet.data.table import SampleTable
from tercet.plots.page import write_page

try:
    from tercet.audit.page import audit_page
    from tercet.plots.figure_writer import FigureWriter
except ModuleNotFoundError as error:  # an extra: `pip install tercet[pictures]`
    if (error.name or "").partition(".")[0] != "matplotlib":
        raise
    audit_page = None  # type: ignore[assignment]

DOCUMENT, PAGE = "audit.json", "audit.html"
_SHOWN_SIZES = 3  # sizes and modes named in the text


@dataclass(frozen=True)
class AuditReport:
    """A finished audit."""

    source: str
    """What was looked at."""
    found: AuditResult
    """Everything that was found."""
    failed: tuple[Finding, ...]
    """Findings of the kinds that were to count as failures."""
    path: Path | None
    """Folder of audit.json, audit.html and figures/, where one was asked for."""

    @property
    def exit_code(self) -> int:
        """3 where a finding counts as a failure, else 0."""
        return 3 if self.failed else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "source": self.source,
            "failed": [finding.kind for finding in self.failed],
            **self.found.to_dict(),
        }

    def to_text(self) -> str:
        """Return what people read."""
        lines = [*_about(self.found), ""]
        width = max(map(len, FINDING_KINDS))
        for kind in FINDING_KINDS:
            finding = self.found.finding(kind)
            mark, said = ("!", finding.text) if finding.count else (" ", _all_well(self.found, kind))
            lines.append(f"{mark} {kind:<{width}}  {said}")
        lines += [f"! tercet train would refuse this data: {refusal}" for refusal in self.found.refusals]
        lines += [f"  note: {note}" for note in self.found.notes]
        if self.failed:
            lines.append(f"failed on {', '.join(finding.kind for finding in self.failed)}")
        if self.path is not None:
            lines.append(f"page: {self.path / PAGE}")
        return "".join(f"{printable(line)}\n" for line in lines)


def _about(found: AuditResult) -> list[str]:
    """Return the lines about size, classes, formats and splits."""
    sizes = [f"{height} x {width} ({count})" for height, width, count in found.sizes[:_SHOWN_SIZES]]
    modes = [f"{mode} ({count})" for mode, count in found.modes[:_SHOWN_SIZES]]
    more = [
        f" and {len(all_of) - _SHOWN_SIZES} more" * (len(all_of) > _SHOWN_SIZES)
        for all_of in (found.sizes, found.modes)
    ]
    unlabelled = f", {found.unlabelled} of them unlabelled" if found.unlabelled else ""
    lines = [
        f"{found.name}: {found.images} images{unlabelled}, {len(found.classes)} classes",
        f"height x width: {', '.join(sizes) or 'none'}{more[0]}; stored as {', '.join(modes) or 'nothing'}{more[1]}",
    ]
    if found.split_sizes:
        parts = ", ".join(f"{TITLES[split]} {count}" for split, count in found.split_sizes.items())
        lines.append(f"{parts} ({found.division})")
    return lines


def _all_well(found: AuditResult, kind: str) -> str:
    """Return what stands beside a kind of which nothing was found."""
    if kind == "labels" and found.sets:
        return "no equal pictures have different sets; sets are not judged otherwise"
    if kind == "labels" and found.labels is None:
        return "no picture has two labels; --run tells suspicious ones"
    if kind == "labels":
        return f"none of {found.labels.checked if found.labels else 0} labels is suspicious"
    if kind == "duplicates" and found.max_hash_distance is None:
        return "no equal images; near duplicates were not looked for"
    if kind == "leakage" and not found.split_sizes:
        return "there are no splits"
    return "none"


def audit_data(source: str | Path, /, *, console: Console | None = None, **options: Any) -> AuditReport:
    """Look at a data set before training: unreadable images, copies, leaks between splits, classes, labels.

    Args:
        source: Folder of images by class, table, zip, or the name of a data set.
        console: Where to report progress; silent by default.
        **options: Any option of `tercet audit`, such as `output="look/"`, `run="runs/photos-1"`, `max_hash_distance=4`,
            `data={"group_from": "plant([0-9]+)"}`.

    Raises:
        TercetError: See `tercet.core.errors`.
    """
    return run_audit(source, AUDIT.parse_object(options), console=console or Console(quiet=True))


def run_audit(source: str | Path, parsed: ParsedArguments, *, console: Console) -> AuditReport:
    """Audit a data set as the options ask."""
    options, config = parsed.of(AuditConfig), parsed.of(DataConfig)
    folder = _folder(options.output, source)
    if options.feature_network:
        check_embedder(options.feature_network[0])
    if options.max_hash_distance is not None:
        require_imagehash()
    table = load_table(source, replace(config, max_bad_fraction=1.0), min_classes=1)  # what is bad is told, not fatal
    labels = _check_labels(table, options.run)
    print_status(console, f"looking at {len(table)} images")
    seen = inspect(table, max_pixels=config.max_pixels, hashed=options.max_hash_distance is not None)
    if not len(seen.rows):
        raise DataError(f"{source}: none of {len(table)} images can be read, such as {seen.bad[0]}")
    features = _embed(table, seen, config, options, console)
    found = check_table(table, seen, config, options, features=features, labels=labels)
    failed = tuple(finding for finding in found.findings if finding.kind in options.fail_on)
    done = AuditReport(str(source), found, failed, folder)
    if folder is not None:
        print_status(console, f"writing {folder}")
        write_json(folder / DOCUMENT, done.to_dict())
        book = FigureWriter(folder / "figures")
        page = audit_page(found, table, seen, book, source=str(source), max_pixels=config.max_pixels)
        write_page(folder / PAGE, page)
    return done


def _folder(output: str | None, source: str | Path) -> Path | None:
    """Return the folder for the result, refused before any work where it cannot be filled.

    Raises:
        ConfigError: What draws the page is not installed, or the folder would become part of the data.
        StorageError: An audit is there already, or nothing can be written there.
    """
    if output is None:
        return None
    if audit_page is None:
        raise ConfigError("the page of an audit needs matplotlib, which is not installed: pip install 'tercet[audit]'")
    folder, data = Path(output), Path(source).expanduser()
    if data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
        raise ConfigError(f"--output {output} lies in the data, and its figures would be a class: take another folder")
    for name in (DOCUMENT, PAGE):
        if os.path.lexists(folder / name):
            raise StorageError(f"{folder / name} exists already: choose another --output, or delete it")
    require_writable(folder)
    return folder


def _check_labels(table: SampleTable, run: str | None) -> LabelCheck | None:
    if run is None:
        return None
    require_cleanlab()
    require_one_label(table)
    said, what = held_out_predictions(run)
    return check_labels(table, said, run=str(run), predictions=what)


def _embed(
    table: SampleTable, seen: Inspection, config: DataConfig, options: AuditConfig, console: Console
) -> NDArray[np.float16] | None:
    if not options.feature_network:
        return None
    channels = 1 if all(mode.split()[-1] in ("1", "L", "I;16") for mode in seen.modes) else 3
    size = _one_size(seen.sizes.tolist())
    network = build_embedder(options.feature_network[0], channels=channels, image_size=size)
    print_status(console, f"comparing {len(seen.rows)} images by the features of {network.network}")
    return embed_images(network, table, seen.rows, max_pixels=config.max_pixels, device=options.device)


def _one_size(sizes: Sequence[Sequence[int]]) -> tuple[int, int] | None:
    height, width = sizes[0]
    return (height, width) if all(tuple(size) == (height, width) for size in sizes) else None
