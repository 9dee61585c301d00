"""Text tables of metrics, with intervals or mean ± standard deviation."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Generic, Literal, Protocol, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tercet.core.predictions import Predictions
from tercet.core.streams import printable
from tercet.metrics.classification import Scores, confused_pairs, per_class
from tercet.metrics.significance import Comparison

_HEADERS = ("accu-\nracy", "95 %\ninterval", "macro\nF1", "kappa", "log\nloss", "ECE")


class MeasuredRow(Protocol):
    """Scores of one class an image, or of sets of labels."""

    @property
    def n(self) -> int:
        """Samples they are over."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""


RowKind = Literal["member", "ensemble"]
S = TypeVar("S", bound=MeasuredRow)


@dataclass(frozen=True)
class TableRow(Generic[S]):
    """One line of a table of results."""

    name: str
    """Name of the member, or of the way to combine."""
    kind: RowKind
    """What the name stands for."""
    scores: S
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

    def costs(self) -> list[str]:
        """Return the cells of time and size."""
        seconds = "-" if self.seconds is None else f"{self.seconds:.{0 if self.seconds >= 10 else 1}f}"
        return [seconds, "-" if self.parameters is None else short_count(self.parameters)]


ResultRow = TableRow[Scores]
"""A line of scores of one class an image."""


def results_table(rows: Sequence[ResultRow], *, title: str = "", note: str = "chosen on validation") -> Table:
    """Return the table of results: members first, then ensembles, the chosen one marked.

    Args:
        rows: Lines in the order to show; where all have the same number of samples, it stands below the table.
        title: Line above the table, such as the data and split.
        note: What the mark means.
    """
    return rows_table(rows, _HEADERS, _cells, title=title, note=note)


def rows_table(
    rows: Sequence[TableRow[S]], headers: Sequence[str], cells: Callable[[S], list[str]], *, title: str, note: str
) -> Table:
    """Return a table of results as `results_table` does.

    Args:
        rows: Lines in the order to show.
        headers: Headers of the scores.
        cells: What stands below them.
        title: Line above the table.
        note: What the mark means.
    """
    table = plain_table(title)
    sizes = sorted({row.scores.n for row in rows})
    table.add_column("name", overflow="fold", min_width=8)
    for header in (*(["n"] if len(sizes) > 1 else []), *headers, "time\n/ s", "para-\nmeters"):
        table.add_column(header, justify="right", no_wrap=True)
    for kind in ("member", "ensemble"):
        for row in (one for one in rows if one.kind == kind):
            name = Text(("* " if row.chosen else "") + printable(row.name))
            size = [f"{row.scores.n}"] if len(sizes) > 1 else []
            table.add_row(name, *size, *cells(row.scores), *row.costs(), style="bold" if row.chosen else "")
        table.add_section()
    notes = [f"n = {sizes[0]} samples"] if len(sizes) == 1 else []
    notes += [f"* {note}"] if any(row.chosen for row in rows) else []
    table.caption = Text(printable("; ".join(notes)))
    return table


@dataclass(frozen=True)
class TTARow:
    """One line of the table of test-time augmentation."""

    views: str
    """What each image is shown as."""
    passes: int
    """Forward passes an image."""
    scores: Scores
    """How good it is."""
    chosen: bool = False
    """Whether it is used."""


def tta_table(rows: Sequence[TTARow], *, title: str = "") -> Table:
    """Return the table of test-time augmentation: plain prediction first, gains in points of accuracy against it."""
    table = plain_table(title)
    table.add_column("views", overflow="fold", min_width=8)
    for header in ("passes", "accuracy", "gain", "macro F1", "log loss", "ECE"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        scores, gain = row.scores, 100 * (row.scores.accuracy - rows[0].scores.accuracy)
        cells = (f"{scores.accuracy:.4f}", f"{gain:+.2f}" if row is not rows[0] else "", f"{scores.macro_f1:.3f}")
        more = (f"{scores.log_loss:.3f}", f"{scores.ece:.3f}")
        name = Text(("* " if row.chosen else "") + printable(row.views))
        table.add_row(name, f"{row.passes}", *cells, *more, style="bold" if row.chosen else "")
    table.caption = Text(f"n = {rows[0].scores.n} samples; * used from here on")
    return table


def classes_table(predictions: Predictions, *, title: str = "") -> Table:
    """Return one line a class: samples, precision, recall, F1; a dash where a class has no sample."""
    table = plain_table(title)
    table.add_column("class", overflow="fold")
    for header in ("n", "precision", "recall", "F1"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in per_class(predictions):
        recall = f"{row['recall']:.3f}" if row["n"] else "-"
        name = Text(printable(row["class"]))
        table.add_row(name, f"{row['n']}", f"{row['precision']:.3f}", recall, f"{row['f1']:.3f}")
    return table


def pairs_table(predictions: Predictions, *, most: int = 10, title: str = "") -> Table:
    """Return the commonest mistakes: truth, what was said instead, how often, and the share of the true class."""
    table = plain_table(title)
    for header in ("truth", "predicted"):
        table.add_column(header, overflow="fold")
    for header in ("n", "share"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in confused_pairs(predictions, most=most):
        names = (Text(printable(row[side])) for side in ("truth", "predicted"))
        table.add_row(*names, f"{row['n']}", f"{100 * row['share']:.1f} %")
    return table


def comparison_text(comparison: Comparison, a: str, b: str) -> str:
    """Return the comparison of predictions `a` and `b` as one sentence of plain text."""
    one, other = printable(a), printable(b)
    verdict = "more than chance explains" if comparison.p_value < 0.05 else "no more than chance explains"
    return (
        f"{one} against {other} on {comparison.n} samples: {100 * comparison.difference:+.2f} points of accuracy "
        f"(95 % interval {100 * comparison.low:+.2f} to {100 * comparison.high:+.2f}); only {one} right "
        f"{comparison.only_a}, only {other} right {comparison.only_b}; McNemar p = {comparison.p_value:.3g}: {verdict}."
    )


def as_text(table: Table, *, width: int = 80) -> str:
    """Return a table as plain text without colours, for files and logs."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def plain_table(title: str) -> Table:
    """Return an empty table in the house style; `title` is the line above it."""
    heading = Text(printable(title), style="bold") if title else None
    return Table(title=heading, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, padding=0)


def _cells(scores: Scores) -> list[str]:
    return [
        f"{scores.accuracy:.4f}",
        f"{scores.accuracy_low:.3f}-{scores.accuracy_high:.3f}",
        f"{scores.macro_f1:.3f}",
        f"{scores.kappa:.3f}",
        f"{scores.log_loss:.3f}",
        f"{scores.ece:.3f}",
    ]


def short_count(count: int) -> str:
    """Return a number of parameters in at most five characters, such as 216k or 51.3M."""
    for unit, size in (("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)):
        # 999,950 rounds to 1000.0k: the next unit begins a little early
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.0f}{unit}" if value >= 99.95 else f"{value:.1f}{unit}"
    return str(count)


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
