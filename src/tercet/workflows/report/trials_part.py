"""The results of a search: every trial, and which options mattered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tercet.pictures.bars import Bar, bars, bars_height
from tercet.pictures.page import Block, Code, Details, Paragraph, Section, Table
from tercet.workflows.report.record import Record
from tercet.workflows.report.sketchbook import Sketchbook
from tercet.workflows.report.wording import ABSENT, count, duration, number

_SHOWN = 20
_STATES = {"complete": "trained to the end", "pruned": "given up early", "failed": "failed"}


def trials(record: Record, book: Sketchbook) -> Section:
    """Return the trials, best first, and the importance of the options."""
    return Section("Trials", list(_trials(record, book)))


def _trials(record: Record, book: Sketchbook) -> Iterator[Block]:
    document, monitor = record.document, record.document["monitor"]
    rows, first = document["trials"], document["trials"][0]
    best = document["best"]
    if first["score"] is not None:
        gain = best["score"] - first["score"]
        yield Paragraph(
            f"Trial 0 has the options as they are: {monitor} {number(first['score'])}. Trial {best['number']} is the "
            f"best of {len(rows)}: {number(best['score'])} ({gain:+.4f}) on validation images, where it is a little "
            "lucky. No test image was looked at."
        )
    scored = [row for row in rows if row["score"] is not None]
    drawn = [
        Bar(f"trial {row['number']}", row["score"], group=_STATES[row["state"]]) for row in _ordered(scored, monitor)
    ]
    if drawn:
        yield book.draw(
            "trials",
            f"{monitor.capitalize()} on validation images; the line is trial 0, the options as they are.",
            lambda axes: bars(axes, drawn, xlabel=monitor, baseline=first["score"]),
            height=bars_height(drawn),
        )
    shares = [Bar(key, share) for key, share in document.get("importance", {}).items()]
    if shares:
        yield book.draw(
            "importance",
            "Share of the differences between trials that each option explains (PED-ANOVA).",
            lambda axes: bars(axes, shares, xlabel="share"),
            height=bars_height(shares),
        )
    table = _ordered(rows, monitor)
    yield _table(table[:_SHOWN], monitor, f"The best {_SHOWN} trials" if len(table) > _SHOWN else "All trials")
    if len(table) > _SHOWN:
        yield Details(
            f"the other {count(len(table) - _SHOWN, 'trial')}", [_table(table[_SHOWN:], monitor, "Other trials")]
        )
    path = record.run.path / "best.yaml"
    if path.is_file():
        yield Paragraph("Train the best, with a bundle and test scores:")
        yield Code(path.read_text("utf-8").splitlines()[1].removeprefix("# "), "command")


def _table(rows: list[Mapping[str, Any]], monitor: str, caption: str) -> Table:
    keys = list(rows[0]["options"])
    cells = [
        (
            f"{row['number']}",
            _STATES[row["state"]],
            number(row["score"]),
            f"{row['epochs']}",
            duration(row["seconds"]),
            *(_shown(row["options"].get(key)) for key in keys),
            row["reason"],
        )
        for row in rows
    ]
    header = ("trial", "state", monitor, "epochs", "time", *keys, "remark")
    return Table(header, cells, "llrrr" + "r" * len(keys), caption)


def _ordered(rows: list[Mapping[str, Any]], monitor: str) -> list[Mapping[str, Any]]:
    sign = 1 if monitor == "loss" else -1
    return sorted(rows, key=lambda row: (row["score"] is None, sign * (row["score"] or 0.0), row["number"]))


def _shown(value: Any) -> str:
    if value is None:
        return ABSENT
    return f"{value:.4g}" if isinstance(value, float) else str(value)
