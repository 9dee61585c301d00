"""Report sections of tune and reproduce."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from tercet.data.run_reader import RunReader
from tercet.metrics.tables import short_count
from tercet.plots.bars import Bar, bars, bars_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.page import Block, Code, Details, Paragraph, Section, Table
from tercet.report.summary import MISSING, chance, count, duration, number, points

_HEADER = ("what", "metric", "published", "measured", "spread or interval", "n", "images", "difference")
_SHARES = frozenset({"accuracy", "macro_f1", "kappa"})
_MOST = 40


def reproduction(record: RunReader, book: FigureWriter) -> list[Section]:
    """Return the sections on results, on what differs from the source, and on the parts."""
    document = record.metrics
    sections = [Section("Published and measured", list(_results_table(record, book)))]
    if document.get("differs"):
        rows = [(f"{number}", line) for number, line in enumerate(document["differs"], 1)]
        sections.append(Section("Differs from the source", [Table((), rows)]))
    return [*sections, Section("Parts", list(_parts(record)))]


def _results_table(record: RunReader, book: FigureWriter) -> Iterator[Block]:
    rows = record.metrics["table"]
    cells = [
        (
            row["what"],
            row["metric"].replace("_", " "),
            _number(row["published"], row),
            _number(row["measured"], row),
            _spread(row),
            MISSING if row["n"] is None else f"{row['n']}",
            MISSING if row["images"] is None else f"{row['images']:,}",
            MISSING if row["difference"] is None else _number(row["difference"], row, signed=True),
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
    tests = record.metrics["tests"]
    if tests:
        header = ("what", "difference / points", "95 % interval", "p", "test", "images", "seeds")
        found = [
            (row["what"], *points(row), chance(row["p_value"]), row["test"], f"{row['n']:,}", f"{row['seeds']}")
            for row in tests
        ]
        yield Table(header, found, "lrrrlrr", "Tests that the recipe asks for")


def _parts(record: RunReader) -> Iterator[Block]:
    document = record.metrics
    rows = [(title, part["verb"], part["note"] or "", part["run"]) for title, part in document["parts"].items()]
    if rows:
        yield Table(("part", "verb", "note", "folder"), rows, "llll", "Each part is a run with a report of its own")
        folders = [str(path) for path in record.step_runs.values()]
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
    return MISSING if row["sd"] is None else f"± {_number(row['sd'], row)}"


def _number(value: Any, row: Mapping[str, Any], *, signed: bool = False) -> str:
    if value is None or isinstance(value, str):
        return value or MISSING
    if row["metric"] in ("parameters", "flops"):
        return f"{value:+,.0f}" if signed else short_count(int(value)) if value >= 1e6 else f"{value:,.0f}"
    sizes = [abs(row[key]) for key in ("measured", "published") if isinstance(row[key], (int, float))]
    digits = 4 if max(sizes, default=0) < 1.5 and "seconds" not in row["metric"] else 2
    return f"{value:{'+' if signed else ''}.{digits}f}"


_SHOWN = 20
_STATES = {"complete": "trained to the end", "pruned": "given up early", "failed": "failed"}


def trials_section(record: RunReader, book: FigureWriter) -> Section:
    """Return the trials, best first, and the importance of the options."""
    return Section("Trials", list(_trials(record, book)))


def _trials(record: RunReader, book: FigureWriter) -> Iterator[Block]:
    document, monitor = record.metrics, record.metrics["monitor"]
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
    yield _trials_table(table[:_SHOWN], monitor, f"The best {_SHOWN} trials" if len(table) > _SHOWN else "All trials")
    if len(table) > _SHOWN:
        yield Details(
            f"the other {count(len(table) - _SHOWN, 'trial')}", [_trials_table(table[_SHOWN:], monitor, "Other trials")]
        )
    path = record.run.path / "best.yaml"
    if path.is_file():
        yield Paragraph("Train the best, with a bundle and test scores:")
        yield Code(path.read_text("utf-8").splitlines()[1].removeprefix("# "), "command")


def _trials_table(rows: list[Mapping[str, Any]], monitor: str, caption: str) -> Table:
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
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else str(value)
