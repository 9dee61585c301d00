"""Results of a reproduction: published numbers beside measured ones."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from tercet.evaluation.report import short_count
from tercet.pictures.bars import Bar, bars, bars_height
from tercet.pictures.page import Block, Code, Paragraph, Section, Table
from tercet.workflows.report.record import Record
from tercet.workflows.report.sketchbook import Sketchbook
from tercet.workflows.report.wording import ABSENT, chance, points

_HEADER = ("what", "metric", "published", "measured", "spread or interval", "n", "images", "difference")
_SHARES = frozenset({"accuracy", "macro_f1", "kappa"})
_MOST = 40


def reproduction(record: Record, book: Sketchbook) -> list[Section]:
    """Return the sections on results, on what differs from the source, and on the parts."""
    document = record.document
    sections = [Section("Published and measured", list(_table(record, book)))]
    if document.get("differs"):
        rows = [(f"{number}", line) for number, line in enumerate(document["differs"], 1)]
        sections.append(Section("Differs from the source", [Table((), rows)]))
    return [*sections, Section("Parts", list(_parts(record)))]


def _table(record: Record, book: Sketchbook) -> Iterator[Block]:
    rows = record.document["table"]
    cells = [
        (
            row["what"],
            row["metric"].replace("_", " "),
            _number(row["published"], row),
            _number(row["measured"], row),
            _spread(row),
            ABSENT if row["n"] is None else f"{row['n']}",
            ABSENT if row["images"] is None else f"{row['images']:,}",
            ABSENT if row["difference"] is None else _number(row["difference"], row, signed=True),
        )
        for row in rows
    ]
    yield Table(
        _HEADER, cells, "llrrrrrr", "± is the standard deviation over n trainings; of one training, the 95 % interval"
    )
    for metric in _SHARES & {row["metric"] for row in rows}:
        both = [row for row in rows if row["metric"] == metric and row["measured"] is not None]
        drawn = [bar for row in both[:_MOST] for bar in _bars(row)]
        if drawn:
            told = f" (the first {_MOST} of {len(both)})" if len(both) > _MOST else ""
            yield book.draw(
                f"published-and-measured-{metric}",
                f"{metric.replace('_', ' ').capitalize()}, published and measured{told}.",
                lambda axes, drawn=drawn, metric=metric: bars(axes, drawn, xlabel=metric.replace("_", " ")),  # type: ignore[misc]
                height=bars_height(drawn),
                wide=len(drawn) > 20,
            )
    tests = record.document["tests"]
    if tests:
        header = ("what", "difference / points", "95 % interval", "p", "test", "images", "seeds")
        found = [
            (row["what"], *points(row), chance(row["p_value"]), row["test"], f"{row['n']:,}", f"{row['seeds']}")
            for row in tests
        ]
        yield Table(header, found, "lrrrlrr", "Tests that the recipe asks for")


def _parts(record: Record) -> Iterator[Block]:
    document = record.document
    rows = [(title, part["verb"], part["note"] or "", part["run"]) for title, part in document["parts"].items()]
    if rows:
        yield Table(("part", "verb", "note", "folder"), rows, "llll", "Each part is a run with a report of its own")
        folders = [str(path) for path in record.parts.values()]
        yield Code("\n".join(f"tercet report {shlex.quote(folder)}" for folder in folders), "commands")
    if document.get("missing"):
        yield Paragraph(f"Not done yet: {', '.join(document['missing'])}. Go on with --resume {record.run.path}.")


def _bars(row: Mapping[str, Any]) -> Iterator[Bar]:
    if isinstance(row["published"], (int, float)):
        yield Bar(row["what"], row["published"], group="published")
    low, high = row["low"], row["high"]
    if row["sd"] is not None:
        low, high = row["measured"] - row["sd"], row["measured"] + row["sd"]
    yield Bar(row["what"], row["measured"], low, high, "measured")


def _spread(row: Mapping[str, Any]) -> str:
    if row["low"] is not None:
        return f"{row['low']:.3f} to {row['high']:.3f}"
    return ABSENT if row["sd"] is None else f"± {_number(row['sd'], row)}"


def _number(value: Any, row: Mapping[str, Any], *, signed: bool = False) -> str:
    if value is None or isinstance(value, str):
        return value or ABSENT
    if row["metric"] in ("parameters", "flops"):
        return f"{value:+,.0f}" if signed else short_count(int(value)) if value >= 1e6 else f"{value:,.0f}"
    sizes = [abs(row[key]) for key in ("measured", "published") if isinstance(row[key], (int, float))]
    digits = 4 if max(sizes, default=0) < 1.5 and "seconds" not in row["metric"] else 2
    return f"{value:{'+' if signed else ''}.{digits}f}"
