"""Scores of label sets as tables for people and as plain values for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tercet.evaluation.report import short_count
from tercet.evaluation.set_metrics import SetScores, per_label
from tercet.ground.streams import printable
from tercet.records.label_sets import SetPredictions

_HEADERS = ("O-F1", "95 %\ninterval", "C-F1", "mAP", "exact\nmatch", "Ham-\nming", "time\n/ s", "para-\nmeters")


@dataclass(frozen=True)
class SetRow:
    """One line of the table of results."""

    name: str
    """Name of the member, or of the way to fuse."""
    kind: Literal["member", "ensemble"]
    """What the name stands for."""
    scores: SetScores
    """How good it is, and over how many samples."""
    seconds: float | None = None
    """What it cost to train."""
    parameters: int | None = None
    """How many learnable numbers it has."""
    chosen: bool = False
    """Whether it is the one that was chosen."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: the scores stand beside the name."""
        head = {"name": self.name, "kind": self.kind, "chosen": self.chosen}
        return {**head, **self.scores.to_dict(), "seconds": self.seconds, "parameters": self.parameters}


def set_results_table(rows: Sequence[SetRow], *, title: str = "", note: str = "chosen on validation") -> Table:
    """Return the table of results: members first, then ensembles, the chosen one marked.

    Args:
        rows: Lines in the order to show.
        title: Line above the table.
        note: What the mark means.
    """
    table = _table(title)
    table.add_column("name", overflow="fold", min_width=8)
    for header in _HEADERS:
        table.add_column(header, justify="right", no_wrap=True)
    for kind in ("member", "ensemble"):
        for row in (one for one in rows if one.kind == kind):
            name = Text(("* " if row.chosen else "") + printable(row.name))
            table.add_row(name, *_cells(row), style="bold" if row.chosen else "")
        table.add_section()
    notes = [f"n = {size} samples" for size in sorted({row.scores.n for row in rows})]
    notes += [f"* {note}"] if any(row.chosen for row in rows) else []
    table.caption = Text(printable("; ".join(notes)))
    return table


def labels_table(predictions: SetPredictions, *, title: str = "") -> Table:
    """Return one line a label: samples, precision, recall, F1, average precision; a dash where it has no sample."""
    table = _table(title)
    table.add_column("label", overflow="fold")
    for header in ("n", "precision", "recall", "F1", "AP"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in per_label(predictions):
        recall, ap = (f"{row[key]:.3f}" if row["n"] else "-" for key in ("recall", "ap"))
        name, precision, f1 = Text(printable(row["label"])), f"{row['precision']:.3f}", f"{row['f1']:.3f}"
        table.add_row(name, f"{row['n']}", precision, recall, f1, ap)
    return table


def _table(title: str) -> Table:
    heading = Text(printable(title), style="bold") if title else None
    return Table(title=heading, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, padding=0)


def _cells(row: SetRow) -> list[str]:
    scores = row.scores
    return [
        f"{scores.o_f1:.4f}",
        f"{scores.o_f1_low:.3f}-{scores.o_f1_high:.3f}",
        f"{scores.c_f1:.3f}",
        f"{scores.map:.3f}",
        f"{scores.exact_match:.3f}",
        f"{scores.hamming:.4f}",
        "-" if row.seconds is None else f"{row.seconds:.0f}" if row.seconds >= 10 else f"{row.seconds:.1f}",
        "-" if row.parameters is None else short_count(row.parameters),
    ]
