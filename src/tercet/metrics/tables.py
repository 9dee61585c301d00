"""Text tables of metrics, with confidence intervals or mean ± standard deviation."""

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

from tercet.core.output import printable
from tercet.core.predictions import Predictions
from tercet.metrics.classification import Scores, confused_pairs, per_class
from tercet.metrics.significance import Comparison

_HEADERS = ("accu-\nracy", "95 %\ninterval", "macro\nF1", "kappa", "log\nloss", "ECE")


class MeasuredRow(Protocol):
    """Single-label or multi-label scores."""

    @property
    def n(self) -> int:
        """Number of samples."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""


RowKind = Literal["member", "ensemble"]
S = TypeVar("S", bound=MeasuredRow)


@dataclass(frozen=True)
class TableRow(Generic[S]):
    """A row of a table of results."""

    name: str
    """Name of the member or ensemble method."""
    kind: RowKind
    scores: S
    seconds: float | None = None
    """Training time."""
    parameters: int | None = None
    """Number of parameters."""
    chosen: bool = False
    """Whether it was selected."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        head = {"name": self.name, "kind": self.kind, "chosen": self.chosen}
        return {**head, **self.scores.to_dict(), "seconds": self.seconds, "parameters": self.parameters}

    def costs(self) -> list[str]:
        """Return the table cells of training time and number of parameters."""
        seconds = "-" if self.seconds is None else f"{self.seconds:.{0 if self.seconds >= 10 else 1}f}"
        return [seconds, "-" if self.parameters is None else short_count(self.parameters)]


ResultRow = TableRow[Scores]
"""A row with single-label scores."""


def results_table(rows: Sequence[ResultRow], *, title: str = "", note: str = "chosen on validation") -> Table:
    """Return the table of results: members first, then ensembles; the chosen row is marked.

    Args:
        rows: Rows in order; the number of samples is below the table if it is the same for all.
        title: Title, such as data and split.
        note: Meaning of the mark.
    """
    return rows_table(rows, _HEADERS, _cells, title=title, note=note)


def rows_table(
    rows: Sequence[TableRow[S]], headers: Sequence[str], cells: Callable[[S], list[str]], *, title: str, note: str
) -> Table:
    """Return a table of results with the given columns of scores; see `results_table`.

    Args:
        rows: Rows in order.
        headers: Headers of the scores.
        cells: Returns the cells of these columns.
        title: Title.
        note: Meaning of the mark.
    """
    table = plain_table(title)
    sizes = sorted({row.scores.n for row in rows})
    table.add_column("name", overflow="fold", min_width=8)
    for header in (*(["n"] if len(sizes) > 1 else []), *headers, "time\n/ s", "para-\nmeters"):
        table.add_column(header, justify="right", no_wrap=True)
    for kind in ("member", "ensemble"):
        for row in (row for row in rows if row.kind == kind):
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
    """A row of the table of test-time augmentation."""

    views: str
    """Description of the views."""
    passes: int
    """Forward passes per image."""
    scores: Scores
    chosen: bool = False
    """Whether it was selected."""


def tta_table(rows: Sequence[TTARow], *, title: str = "") -> Table:
    """Return the table of test-time augmentation; `rows[0]` is plain prediction, gains are percentage points."""
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
    table.caption = Text(f"n = {rows[0].scores.n} samples; * selected")
    return table


def classes_table(predictions: Predictions, *, title: str = "") -> Table:
    """Return precision, recall and F1 per class; a dash if the class has no samples."""
    table = plain_table(title)
    table.add_column("class", overflow="fold")
    for header in ("n", "precision", "recall", "F1"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in per_class(predictions):
        recall = f"{row['recall']:.3f}" if row["n"] else "-"
        name = Text(printable(row["class"]))
        table.add_row(name, f"{row['n']}", f"{row['precision']:.3f}", recall, f"{row['f1']:.3f}")
    return table


def pairs_table(predictions: Predictions, *, limit: int = 10, title: str = "") -> Table:
    """Return the table of the most frequent errors; see `confused_pairs`."""
    table = plain_table(title)
    for header in ("truth", "predicted"):
        table.add_column(header, overflow="fold")
    for header in ("n", "share"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in confused_pairs(predictions, limit=limit):
        names = (Text(printable(row[side])) for side in ("truth", "predicted"))
        table.add_row(*names, f"{row['n']}", f"{100 * row['share']:.1f} %")
    return table


def comparison_text(comparison: Comparison, a: str, b: str) -> str:
    """Return the comparison of the predictions named `a` and `b` as a sentence."""
    a, b = printable(a), printable(b)
    verdict = "significant" if comparison.p_value < 0.05 else "not significant"
    return (
        f"{a} against {b} on {comparison.n} samples: {100 * comparison.difference:+.2f} points of accuracy "
        f"(95 % interval {100 * comparison.low:+.2f} to {100 * comparison.high:+.2f}); only {a} correct "
        f"{comparison.only_a}, only {b} correct {comparison.only_b}; McNemar p = {comparison.p_value:.3g}: {verdict}."
    )


def as_text(table: Table, *, width: int = 80) -> str:
    """Return a table as plain text without colours, for files and logs."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def plain_table(title: str) -> Table:
    """Return an empty table in the common style."""
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
    """Return a count in at most five characters, such as 216k or 51.3M."""
    for unit, size in (("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)):
        # 999,950 would be 1000.0k: the next unit starts a little earlier
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.0f}{unit}" if value >= 99.95 else f"{value:.1f}{unit}"
    return str(count)


AGGREGATED = (
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
"""Metrics that are reported as mean ± standard deviation."""
_COLUMNS = {"accuracy": "accuracy", "macro_f1": "macro F1", "log_loss": "log loss"}


def spread_of(values: Sequence[float]) -> dict[str, Any] | None:
    """Return `mean`, sample standard deviation `sd` (None for one value) and number `n`; None without values."""
    if not values:
        return None
    return {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else None, "n": len(values)}


def spread(scores: Sequence[Scores]) -> dict[str, Any]:
    """Return `mean` and sample standard deviation `sd` (None for one fold) of each score over folds."""
    spreads = {key: spread_of([float(getattr(fold, key)) for fold in scores]) or {} for key in AGGREGATED}
    return {part: {key: values[part] for key, values in spreads.items()} for part in ("mean", "sd")}


def spread_table(rows: Mapping[str, Sequence[Scores]], *, title: str = "", unit: str = "folds") -> Table:
    """Return the table of mean ± standard deviation.

    Args:
        rows: Scores of each fold, by name.
        title: Title.
        unit: Header of the number of scores.
    """
    table = plain_table(title)
    table.add_column("name", overflow="fold")
    table.add_column(unit, justify="right", no_wrap=True)
    for header in _COLUMNS.values():
        table.add_column(header, justify="right", no_wrap=True)
    for name, scores in rows.items():
        values = spread(scores)
        cells = (_cell(values["mean"][key], values["sd"][key]) for key in _COLUMNS)
        table.add_row(Text(printable(name)), f"{len(scores)}", *cells)
    return table


def _cell(mean: float, sd: float | None) -> str:
    return f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"
