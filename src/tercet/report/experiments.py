"""Sections of `tune` and `reproduce` runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from tercet.core.output import count
from tercet.data.run_reader import RunReader
from tercet.metrics.metric import Detail, describe_metric, find_metric, metric_names
from tercet.metrics.run_tables import published_table, rank_trials, trials_table
from tercet.metrics.table import number, p_value_text, points, sentence_case
from tercet.plots.bars import Bar, bars, bars_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.page import Block, Code, Details, Paragraph, Section, Table

_MAX_BARS = 40
_MAX_TRIALS = 20
_STATES = {"complete": "completed", "pruned": "pruned", "failed": "failed"}


def reproduction(record: RunReader, writer: FigureWriter) -> list[Section]:
    """Return the sections on results, on differences from the source, and on the steps."""
    document = record.metrics
    sections = [Section("Published and measured", list(_published(record, writer)))]
    if document.get("differs"):
        rows = [(f"{index}", line) for index, line in enumerate(document["differs"], 1)]
        sections.append(Section("Differences from the source", [Table((), rows)]))
    return [*sections, Section("Steps", list(_steps(record)))]


def _published(record: RunReader, writer: FigureWriter) -> Iterator[Block]:
    rows = record.metrics["table"]
    caption = "± is the standard deviation over n trainings; for a single training, the 95 % interval is given"
    yield published_table(rows, title=caption, page=True)
    data = ", ".join(dict.fromkeys(row["data"] for row in rows if row.get("data")))
    for name in metric_names("single", Detail.COMPARISON):
        metric = find_metric(name)
        measured = [row for row in rows if row["metric"] == name and row["measured"] is not None]
        drawn = [bar for row in measured[:_MAX_BARS] for bar in _bars(row)]
        if drawn and metric.higher_is_better:
            part = f" (the first {_MAX_BARS} of {len(measured)})" if len(measured) > _MAX_BARS else ""
            yield writer.draw(
                f"published-and-measured-{name}",
                f"{sentence_case(metric.title)}, published and measured{f' on {data}' * bool(data)}{part}.",
                lambda axes, drawn=drawn, title=metric.title: bars(axes, drawn, xlabel=title),  # type: ignore[misc]
                height=bars_height(drawn),
                wide=len(drawn) > 20,
            )
    tests = record.metrics["tests"]
    if tests:
        header = ("comparison", "difference (points)", "95 % interval", "p", "test", "images", "seeds")
        results = [
            (row["what"], *points(row), p_value_text(row["p_value"]), row["test"], f"{row['n']:,}", f"{row['seeds']}")
            for row in tests
        ]
        yield Table(header, results, "lrrrlrr", "Statistical tests of the recipe")


def _steps(record: RunReader) -> Iterator[Block]:
    document = record.metrics
    rows = [(title, part["command"], part["note"] or "", part["run"]) for title, part in document["steps"].items()]
    if rows:
        yield Table(("step", "command", "note", "folder"), rows, "llll", "Each step is a run with its own report")
        folders = [str(path) for path in record.step_runs.values()]
        yield Code("\n".join(f"tercet report {shlex.quote(folder)}" for folder in folders), "commands")
    if document.get("missing"):
        yield Paragraph(f"Not finished: {', '.join(document['missing'])}. Continue with --resume {record.run.path}.")


def _bars(row: Mapping[str, Any]) -> Iterator[Bar]:
    if isinstance(row["published"], (int, float)):
        yield Bar(row["what"], row["published"], group="published")
    low, high = row["low"], row["high"]
    if row["sd"] is not None:
        low, high = row["measured"] - row["sd"], row["measured"] + row["sd"]
    yield Bar(row["what"], row["measured"], low, high, "measured")


def trials_section(record: RunReader, writer: FigureWriter) -> Section:
    """Return the trials, best first, and the importance of the options."""
    return Section("Trials", list(_trials(record, writer)))


def _trials(record: RunReader, writer: FigureWriter) -> Iterator[Block]:
    document, monitor = record.metrics, describe_metric(record.metrics["monitor"]).title
    rows, first = document["trials"], document["trials"][0]
    best = document["best"]
    if first["score"] is not None:
        gain = best["score"] - first["score"]
        yield Paragraph(
            f"Trial 0 uses the given options without changes: {monitor} {number(first['score'])}. Trial "
            f"{best['number']} is the best of {len(rows)}: {number(best['score'])} ({gain:+.4f}) on validation images. "
            "As it was selected there, this score is slightly optimistic. Test images were not used."
        )
    ranked = rank_trials(rows, best)
    scored = [row for row in ranked if row["score"] is not None]
    drawn = [Bar(f"trial {row['number']}", row["score"], group=_STATES[row["state"]]) for row in scored]
    if drawn:
        yield writer.draw(
            "trials",
            f"{sentence_case(monitor)} on validation images. The line is trial 0, the unchanged options.",
            lambda axes: bars(axes, drawn, xlabel=monitor, baseline=first["score"]),
            height=bars_height(drawn),
        )
    importance = [Bar(key, share) for key, share in document.get("importance", {}).items()]
    if importance:
        yield writer.draw(
            "importance",
            "Importance of each option: fraction of the variation between trials that it explains (PED-ANOVA).",
            lambda axes: bars(axes, importance, xlabel="importance"),
            height=bars_height(importance),
        )
    many = len(ranked) > _MAX_TRIALS
    title = f"The best {_MAX_TRIALS} trials" if many else "All trials"
    yield trials_table(ranked[:_MAX_TRIALS], document["monitor"], best["number"], title=title)
    if many:
        table = trials_table(ranked[_MAX_TRIALS:], document["monitor"], best["number"], title="Other trials")
        yield Details(f"Table of the other {count(len(ranked) - _MAX_TRIALS, 'trial')}", [table])
    if "train_command" in document:
        yield Paragraph("Train with the best options, to get a bundle and test scores:")
        yield Code(document["train_command"], "command")
