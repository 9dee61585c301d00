"""Scores of label sets as tables for people and as plain values for programs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from tercet.evaluation.report import Row, plain_table, rows_table
from tercet.evaluation.set_metrics import SetScores, per_label
from tercet.ground.streams import printable
from tercet.records.label_sets import SetPredictions

_HEADERS = ("O-F1", "95 %\ninterval", "C-F1", "mAP", "exact\nmatch", "Ham-\nming")


SetRow = Row[SetScores]
"""A line of scores of sets of labels."""


def set_results_table(rows: Sequence[SetRow], *, title: str = "", note: str = "chosen on validation") -> Table:
    """Return the table of results, as `results_table` does for one class an image."""
    return rows_table(rows, _HEADERS, _cells, title=title, note=note)


def labels_table(predictions: SetPredictions, *, title: str = "") -> Table:
    """Return one line a label: samples, precision, recall, F1, average precision; a dash where it has no sample."""
    table = plain_table(title)
    table.add_column("label", overflow="fold")
    for header in ("n", "precision", "recall", "F1", "AP"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in per_label(predictions):
        recall, ap = (f"{row[key]:.3f}" if row["n"] else "-" for key in ("recall", "ap"))
        name, precision, f1 = Text(printable(row["label"])), f"{row['precision']:.3f}", f"{row['f1']:.3f}"
        table.add_row(name, f"{row['n']}", precision, recall, f1, ap)
    return table


def _cells(scores: SetScores) -> list[str]:
    return [
        f"{scores.o_f1:.4f}",
        f"{scores.o_f1_low:.3f}-{scores.o_f1_high:.3f}",
        f"{scores.c_f1:.3f}",
        f"{scores.map:.3f}",
        f"{scores.exact_match:.3f}",
        f"{scores.hamming:.4f}",
    ]
