"""Sections of multi-label runs: scores, thresholds and per-label metrics."""

from __future__ import annotations

from collections.abc import Iterator

from tercet.data.run_reader import RunReader
from tercet.metrics.multilabel import per_label
from tercet.plots.bars import Bar, bars, bars_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.page import Block, Details, Paragraph, Section, Table
from tercet.report.summary import interval, number

_MAX_ROWS = 30
_SCORES = ("c_f1", "macro_f1", "map", "exact_match", "hamming")
_HEADER = ("name", "kind", "O-F1", "95 % interval", "C-F1", "macro F1", "mAP", "exact match", "Hamming loss")


def multilabel_section(record: RunReader, writer: FigureWriter) -> list[Section]:
    """Return the sections on results and on labels."""
    return [Section("Results", list(_results(record, writer))), Section("Labels", list(_labels(record, writer)))]


def _results(record: RunReader, writer: FigureWriter) -> Iterator[Block]:
    document = record.metrics
    rows = [(row, "member") for row in document["members"]] + [(row, "ensemble") for row in document["ensembles"]]
    for split in ("test", "validation"):
        scored = [(row["name"], kind, row[split]) for row, kind in rows if row.get(split)]
        if not scored:
            continue
        cells = [
            (name, kind, number(scores["o_f1"]), interval(scores, "o_f1"), *(number(scores[key]) for key in _SCORES))
            for name, kind, scores in scored
        ]
        chosen = {index for index, (name, *_) in enumerate(scored) if name == document["chosen"]}
        optimistic = " (used for model selection: OPTIMISTIC)" if split == record.monitor_split == "test" else ""
        caption = (
            f"{split.capitalize()} images{optimistic}, n = {scored[0][2]['n']:,}; the selected model is highlighted"
        )
        yield Table(_HEADER, cells, "ll" + "r" * 7, caption, frozenset(chosen))
    drawn = [
        Bar(row["name"], scores["o_f1"], scores["o_f1_low"], scores["o_f1_high"], kind)
        for row, kind in rows
        if (scores := row.get(record.evaluation_split))
    ]
    if drawn:
        yield writer.draw(
            "ensemble-against-members",
            f"O-F1 on {record.evaluation_split} images with 95 % intervals.",
            lambda axes: bars(axes, drawn, xlabel="O-F1"),
            height=bars_height(drawn),
        )
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
    keys = ("precision", "recall", "f1", "ap")
    cells = [(row["label"], f"{row['n']}", *(number(row[key], 3) for key in keys)) for row in rows]
    header = ("label", "images", "precision", "recall", "F1", "average precision")
    table = Table(header, cells, "lrrrrr", "Scores per label")
    yield table if len(rows) <= _MAX_ROWS else Details(f"Table of all {len(rows):,} labels", [table])
