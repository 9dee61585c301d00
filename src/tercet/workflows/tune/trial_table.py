"""What came of a search: every trial as a row, for people and for programs."""

from __future__ import annotations

import math
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from tercet.evaluation.metrics import is_better
from tercet.evaluation.report import as_text, plain_table, short_count
from tercet.ground.files import csv_text
from tercet.ground.streams import printable
from tercet.records.entries import shown
from tercet.records.foreign_files import guarded
from tercet.records.training_config import Monitor
from tercet.workflows.tune.folder import Outcome

_COLUMNS = ("number", "state", "score", "epochs", "seconds", "parameters", "reason")


@dataclass(frozen=True)
class TrialRow:
    """One trial."""

    number: int
    """0 is the options as they are."""
    options: Mapping[str, Any]
    """The options that vary, with their values here."""
    outcome: Outcome
    """How it ended."""
    monitor: Monitor
    """What trials are compared by."""

    @property
    def score(self) -> float | None:
        """The monitor at the best epoch, or None where there is none."""
        value = self.outcome.scores.get(self.monitor)
        return value if value is not None and math.isfinite(value) else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        outcome = self.outcome
        return {
            "number": self.number,
            "state": outcome.state,
            "score": self.score,
            "scores": {name: value for name, value in outcome.scores.items() if math.isfinite(value)},
            "epochs": outcome.epochs,
            "seconds": outcome.seconds,
            "parameters": outcome.parameters,
            "reason": outcome.reason,
            "options": dict(self.options),
        }


def best_row(rows: Sequence[TrialRow]) -> TrialRow | None:
    """Return the best trial that was trained to the end; the earlier one at equal scores."""
    best: TrialRow | None = None
    for row in rows:
        if row.outcome.state == "complete" and row.score is not None:
            rival = best.outcome.scores if best is not None else None
            if is_better(row.monitor, row.outcome.scores, rival):
                best = row
    return best


def as_csv(rows: Sequence[TrialRow]) -> str:
    """Return one line a trial, and a column an option."""
    keys = list(rows[0].options)
    lines: list[list[Any]] = [[*_COLUMNS, *keys]]
    for row in rows:
        values = row.to_dict()
        cells = [values[name] for name in _COLUMNS] + [row.options[key] for key in keys]
        lines.append([guarded(cell) if isinstance(cell, str) else cell for cell in cells])
    return csv_text(lines)


def trials_report(
    rows: Sequence[TrialRow], best: TrialRow, *, data: str, best_file: str, importance: Mapping[str, float]
) -> str:
    """Return the trials from best to worst, what the search gained, and how to go on."""
    first, name = rows[0], best.monitor
    parts = [as_text(_table(rows, best, title=f"{data}: {len(rows)} trials, {name} on validation"))]
    if first.score is None:
        parts.append(f"The options as they are (trial 0) could not be trained: {printable(first.outcome.reason)}\n")
    elif best is first:
        parts.append(f"No trial is better than the options as they are (trial 0): {name} {first.score:.4f}.\n")
    else:
        assert best.score is not None
        parts.append(
            f"Before (trial 0): {name} {first.score:.4f}\nAfter (trial {best.number}): {best.score:.4f}, "
            f"{best.score - first.score:+.4f} on validation.\n"
            f"The best of {len(rows)} is a little lucky there; the test split was not looked at.\n"
        )
    if importance:
        shares = ", ".join(f"{key} {share:.2f}" for key, share in importance.items())
        parts.append(textwrap.fill(f"Share of the differences between trials (PED-ANOVA): {shares}", 80) + "\n")
    parts.append(f"Train the best, with a bundle and test scores:\n  {train_command(data, best_file)}\n")
    return "\n".join(parts)


def train_command(data: str, best_file: str) -> str:
    """Return the command that trains the best trial."""
    return shlex.join(["tercet", "train", data, "--config", best_file])


def _table(rows: Sequence[TrialRow], best: TrialRow, *, title: str) -> Table:
    table = plain_table(title)
    for header in ("trial", best.monitor, "epochs", "time\n/ s", "para-\nmeters"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("options", overflow="fold")
    for row in sorted(rows, key=lambda row: _rank(row, best.monitor)):
        outcome = row.outcome
        table.add_row(
            f"{'* ' if row is best else ''}{row.number}",
            "-" if row.score is None else f"{row.score:.4f}",
            f"{outcome.epochs}" + (" pruned" if outcome.state == "pruned" else ""),
            f"{outcome.seconds:.1f}",
            "-" if outcome.parameters is None else short_count(outcome.parameters),
            Text(printable(_said(row))),
            style="bold" if row is best else "",
        )
    table.caption = Text("* best on validation; trial 0 has the options as they are")
    return table


def _said(row: TrialRow) -> str:
    options = ", ".join(f"{key} {_short(value)}" for key, value in row.options.items())
    return f"{options}; failed: {row.outcome.reason}" if row.outcome.state == "failed" else options


def _short(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else shown(value)


def _rank(row: TrialRow, monitor: Monitor) -> tuple[int, float, int]:
    """Order trials: finished ones from best to worst, then those given up, then those that failed."""
    group = ("complete", "pruned", "failed").index(row.outcome.state)
    score = row.score if row.score is not None else math.nan
    value = math.inf if math.isnan(score) else score if monitor == "loss" else -score
    return group, value, row.number
