"""Scores of several folds, seeds or repeats: their means and how far they scatter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from rich.table import Table
from rich.text import Text

from tercet.evaluation.metrics import Scores
from tercet.evaluation.report import plain_table
from tercet.ground.streams import printable

SPREAD = (
    "accuracy",
    "balanced_accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "kappa",
    "top5",
    "log_loss",
    "brier",
    "ece",
)
"""The scores whose spread is told."""
_SHOWN = {"accuracy": "accuracy", "macro_f1": "macro F1", "log_loss": "log loss"}


def spread_of(values: Sequence[float]) -> dict[str, Any] | None:
    """Return the `mean`, the sample standard deviation `sd` (None for one value) and the number `n`; None for none."""
    if not values:
        return None
    return {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else None, "n": len(values)}


def spread(scores: Sequence[Scores]) -> dict[str, Any]:
    """Return `mean` and `sd` of each score over folds (n - 1 in the denominator; None where there is one fold)."""
    found = {key: spread_of([float(getattr(one, key)) for one in scores]) or {} for key in SPREAD}
    return {what: {key: values[what] for key, values in found.items()} for what in ("mean", "sd")}


def spread_table(rows: Mapping[str, Sequence[Scores]], *, title: str = "", unit: str = "folds") -> Table:
    """Return mean ± standard deviation, a line a name.

    Args:
        rows: Names, and the scores of each fold that has them.
        title: Line above the table.
        unit: What the scores are of.
    """
    table = plain_table(title)
    table.add_column("name", overflow="fold")
    table.add_column(unit, justify="right", no_wrap=True)
    for header in _SHOWN.values():
        table.add_column(header, justify="right", no_wrap=True)
    for name, scores in rows.items():
        found = spread(scores)
        cells = (_cell(found["mean"][key], found["sd"][key]) for key in _SHOWN)
        table.add_row(Text(printable(name)), f"{len(scores)}", *cells)
    return table


def _cell(centre: float, deviation: float | None) -> str:
    return f"{centre:.4f}" if deviation is None else f"{centre:.4f} ± {deviation:.4f}"
