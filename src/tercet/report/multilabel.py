"""The results of a run on sets of labels: tables, thresholds, every label; there is no confusion matrix of sets."""

from __future__ import annotations

from collections.abc import Iterator

from tercet.data.run_reader import RunReader
from tercet.metrics.multilabel import per_label
from tercet.plots.bars import Bar, bars, bars_height
from tercet.plots.figure_writer import FigureWriter
from tercet.plots.page import Block, Details, Paragraph, Section, Table
from tercet.report.summary import interval, number

_SHOWN = 30
_SCORES = ("c_f1", "macro_f1", "map", "exact_match", "hamming")
_HEADER = ("name", "kind", "O-F1", "95 % interval", "C-F1", "macro F1", "mAP", "exact match", "Hamming loss")


def multilabel_section(record: RunReader, book: FigureWriter) -> list[Section]:
    """Return the sections on results and on labels."""
    return [Section("Results", list(_results(record, book))), Section("Labels", list(_labels(record, book)))]


def _results(record: RunReader, book: FigureWriter) -> Iterator[Block]:
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
        optimistic = " (WHICH CHOSE: optimistic)" if split == record.monitor_split == "test" else ""
        caption = f"{split.capitalize()} images{optimistic}, n = {scored[0][2]['n']:,}"
        yield Table(_HEADER, cells, "ll" + "r" * 7, caption, frozenset(chosen))
    drawn = [
        Bar(row["name"], scores["o_f1"], scores["o_f1_low"], scores["o_f1_high"], kind)
        for row, kind in rows
        if (scores := row.get(record.evaluation_split))
    ]
    if drawn:
        yield book.draw(
            "ensemble-against-members",
            f"O-F1 on {record.evaluation_split} images with 95 % intervals.",
            lambda axes: bars(axes, drawn, xlabel="O-F1"),
            height=bars_height(drawn),
        )
    rules = [
        (
            row["name"],
            row["rule"]["method"],
            ", ".join(f"{one:.2f}" for one in row["rule"]["thresholds"]),
            _own(row["rule"]),
        )
        for row, _ in rows
    ]
    header = ("name", "way to fuse", "members' thresholds", "threshold of the mean")
    yield Table(header, rules, "lllr", "From scores to sets: a label is said where its score is above the threshold")


def _own(rule: dict[str, object]) -> str:
    return f"{rule['threshold']:.2f}" if rule["method"] == "average" else ""


def _labels(record: RunReader, book: FigureWriter) -> Iterator[Block]:
    said = record.multilabel_predictions(record.metrics["chosen"], record.evaluation_split)
    if said is None or not said.known.any():
        yield Paragraph(
            "What was said of each image is gone, or no set is known: scores by label are left out.", quiet=True
        )
        return
    rows = per_label(said)
    drawn = [Bar(row["label"], row["f1"]) for row in rows if row["n"]]
    if drawn:
        yield book.draw(
            "labels",
            f"F1 of each label on {record.evaluation_split} images, by {record.metrics['chosen']}.",
            lambda axes: bars(axes, drawn, xlabel="F1"),
            height=bars_height(drawn),
        )
    keys = ("precision", "recall", "f1", "ap")
    cells = [(row["label"], f"{row['n']}", *(number(row[key], 3) for key in keys)) for row in rows]
    table = Table(("label", "images", "precision", "recall", "F1", "average precision"), cells, "lrrrrr", "Every label")
    yield table if len(rows) <= _SHOWN else Details(f"all {len(rows):,} labels as a table", [table])
