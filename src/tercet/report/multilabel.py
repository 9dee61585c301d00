"""Sections of multi-label runs: scores, thresholds and per-label metrics."""

from __future__ import annotations

from collections.abc import Iterator

from tercet.data.run_reader import RunReader
from tercet.metrics.multilabel import per_label
from tercet.metrics.tables import classes_table
from tercet.plots.bars import Bar, bars, bars_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.page import Block, Details, Paragraph, Section, Table
from tercet.report.scores import model_rows, score_bars, split_tables

_MAX_ROWS = 30


def multilabel_section(record: RunReader, writer: FigureWriter) -> list[Section]:
    """Return the sections on results and on labels."""
    return [Section("Results", list(_results(record, writer))), Section("Labels", list(_labels(record, writer)))]


def _results(record: RunReader, writer: FigureWriter) -> Iterator[Block]:
    document = record.metrics
    rows = model_rows(document)
    yield from split_tables(record, rows)
    yield from score_bars(record, rows, record.evaluation_split, writer)
    rules = [
        (
            row["name"],
            row["rule"]["method"],
            ", ".join(f"{threshold:.2f}" for threshold in row["rule"]["thresholds"]),
            _ensemble_threshold(row["rule"]),
        )
        for row, _ in rows
    ]
    header = ("name", "ensemble method", "thresholds of the members", "threshold of the mean")
    yield Table(header, rules, "lllr", "A label is predicted if its score exceeds the threshold")


def _ensemble_threshold(rule: dict[str, object]) -> str:
    return f"{rule['threshold']:.2f}" if rule["method"] == "average" else ""


def _labels(record: RunReader, writer: FigureWriter) -> Iterator[Block]:
    predictions = record.multilabel_predictions(record.metrics["chosen"], record.evaluation_split)
    if predictions is None or not predictions.known.any():
        yield Paragraph("No stored predictions with known labels, so scores per label are not shown.", quiet=True)
        return
    rows = per_label(predictions)
    drawn = [Bar(row["label"], row["f1"]) for row in rows if row["n"]]
    if drawn:
        yield writer.draw(
            "labels",
            f"F1 of each label on {record.evaluation_split} images ({record.metrics['chosen']}).",
            lambda axes: bars(axes, drawn, xlabel="F1"),
            height=bars_height(drawn),
        )
    table = classes_table(predictions, title="Scores per label")
    yield table if len(rows) <= _MAX_ROWS else Details(f"Table of all {len(rows):,} labels", [table])
