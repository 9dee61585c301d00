"""Text tables of compared networks and of multi-label metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from tercet.core.multilabel import MultilabelPredictions
from tercet.core.output import printable
from tercet.metrics.multilabel import MultilabelScores, per_label
from tercet.metrics.tables import TableRow, as_text, plain_table, rows_table, short_count

NetworkRow = Mapping[str, Any]
_ABSENT = "-"


def scores_table(rows: Sequence[NetworkRow], *, baseline: str, title: str = "") -> Table:
    """Return accuracy by split, macro-F1, and the difference from the baseline with its p-value, per network."""
    table = _network_table(title)
    headers = ("train\nacc.", "valid.\nacc.", "test\nacc.", "test\nF1", "points\n95 %", "p\nHolm")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        test = row.get("test") or {}
        cells = [
            _mean(row.get("train_accuracy")),
            _mean((row.get("validation") or {}).get("accuracy")),
            _mean(test.get("accuracy")),
            _mean(test.get("macro_f1")),
        ]
        table.add_row(_name(row["name"]), *cells, *_difference(row, baseline), end_section=True)
    return table


def costs_table(rows: Sequence[NetworkRow], *, title: str = "") -> Table:
    """Return the cost of each network: parameters, FLOPs, optimizer steps, training time, throughput."""
    table = _network_table(title)
    for header in (
        "para-\nmeters",
        "train-\nable",
        "FLOPs /\nimage",
        "steps",
        "s /\nepoch",
        "s /\ntraining",
        "images\n/ s",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        counts = (short_count(row[key]) if key in row else _ABSENT for key in ("parameters", "trainable", "flops"))
        measured = (_short(row.get(key)) for key in ("seconds_per_epoch", "seconds", "images_per_second"))
        updates = row.get("updates")
        table.add_row(_name(row["name"]), *counts, _ABSENT if updates is None else f"{updates['mean']:.0f}", *measured)
    return table


def errors_table(rows: Sequence[NetworkRow], *, title: str = "") -> Table:
    """Return how each network's errors differ from the baseline's, in % of the images."""
    table = _network_table(title)
    for header in (
        "same\nclass",
        "both\nright",
        "only it\nright",
        "only base-\nline right",
        "both\nwrong",
        "own seeds\nagree",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        pair = row.get("errors")
        keys = ("agreement", "both", "only_a", "only_b", "neither")
        shares = [_ABSENT] * len(keys) if pair is None else [f"{100 * pair[key]:.2f}" for key in keys]
        agreement = row.get("own_agreement")
        table.add_row(_name(row["name"]), *shares, _ABSENT if agreement is None else f"{100 * agreement:.2f}")
    return table


def tables_text(rows: Sequence[NetworkRow], *, baseline: str, title: str, split: str) -> str:
    """Return the three tables as plain text; `split` is that of the errors."""
    tables = [
        scores_table(rows, baseline=baseline, title=f"{title}; mean and standard deviation over seeds"),
        costs_table(rows, title="costs"),
        errors_table(rows, title=f"errors compared with those of {printable(baseline)} on {split}, % of images"),
    ]
    return "\n".join(map(as_text, tables))


def _network_table(title: str) -> Table:
    table = plain_table(title)
    table.add_column("network", overflow="fold", min_width=8)
    return table


def _name(name: str) -> Text:
    return Text(printable(name))


def _mean(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return _ABSENT
    return f"{value['mean']:.4f}" + ("" if value["sd"] is None else f"\n±{value['sd']:.4f}")


def _difference(row: NetworkRow, baseline: str) -> tuple[str, str]:
    if row["name"] == baseline:
        return "base-\nline", ""
    comparison = row.get("against_baseline")
    if comparison is None:
        return _ABSENT, _ABSENT
    points, low, high = (100 * comparison[key] for key in ("difference", "low", "high"))
    return f"{points:+.2f}\n{low:+.2f}..{high:+.2f}", f"{comparison['p_value']:.2g}\n{comparison['p_holm']:.2g}"


def _short(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return _ABSENT
    mean = value["mean"]
    return f"{mean:.0f}" if mean >= 100 else f"{mean:.3g}"


_HEADERS = ("O-F1", "95 %\ninterval", "C-F1", "mAP", "exact\nmatch", "Ham-\nming")


MultilabelRow = TableRow[MultilabelScores]
"""A row with multi-label scores."""


def multilabel_table(rows: Sequence[MultilabelRow], *, title: str = "", note: str = "chosen on validation") -> Table:
    """Return the table of multi-label results; see `results_table`."""
    return rows_table(rows, _HEADERS, _cells, title=title, note=note)


def labels_table(predictions: MultilabelPredictions, *, title: str = "") -> Table:
    """Return precision, recall, F1 and average precision per label; a dash if the label has no samples."""
    table = plain_table(title)
    table.add_column("label", overflow="fold")
    for header in ("n", "precision", "recall", "F1", "AP"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in per_label(predictions):
        recall, ap = (f"{row[key]:.3f}" if row["n"] else "-" for key in ("recall", "ap"))
        name, precision, f1 = Text(printable(row["label"])), f"{row['precision']:.3f}", f"{row['f1']:.3f}"
        table.add_row(name, f"{row['n']}", precision, recall, f1, ap)
    return table


def _cells(scores: MultilabelScores) -> list[str]:
    return [
        f"{scores.o_f1:.4f}",
        f"{scores.o_f1_low:.3f}-{scores.o_f1_high:.3f}",
        f"{scores.c_f1:.3f}",
        f"{scores.map:.3f}",
        f"{scores.exact_match:.3f}",
        f"{scores.hamming:.4f}",
    ]
