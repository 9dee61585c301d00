"""Trials of a search, and their table."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from tercet.config.fields import quote_value
from tercet.config.training import Monitor
from tercet.core.errors import DivergedError
from tercet.core.files import csv_text
from tercet.core.history import EpochRow, History
from tercet.core.streams import printable
from tercet.core.untrusted_files import escape_formula
from tercet.data.data_module import DataModule
from tercet.experiments.member import report_to_parent, train_member
from tercet.experiments.plan import Plan
from tercet.experiments.pool import FailedJob
from tercet.experiments.tune_folder import SearchFolder, TrialFolder, TrialOutcome
from tercet.experiments.tune_log import TrialLog
from tercet.experiments.tune_study import SearchStudy
from tercet.metrics.classification import is_better
from tercet.metrics.tables import as_text, plain_table, short_count
from tercet.training.callbacks import Callback, EventStream, TrainingProgress


class TrialPruned(Exception):
    """The trial is given up."""


class TrialScorer:
    """An observer that enters every epoch's score in the journal, and ends the training where the pruner says so.

    It reads the history that the training has just written: after a kill no epoch is missing, and none counts twice.

    Args:
        folder: The trial's folder.
        journal: The search's journal.
        number: The trial; number 0, the options as they are, is never given up.
        plan: The trial's plan.
    """

    def __init__(self, folder: TrialFolder, journal: TrialLog, number: int, plan: Plan) -> None:
        self.folder, self.journal, self.number = folder, journal, number
        (self.member,) = plan.members

    def on_train_batch_end(self, progress: TrainingProgress) -> None:
        """Updates are not judged."""

    def on_epoch_end(self, row: EpochRow) -> None:
        """Judge the trial as it stands."""
        self.judge()

    def judge(self) -> None:
        """Enter what is new, and raise where the trial is to end before its time.

        Raises:
            DivergedError: The scores are not numbers.
            Pruned: The pruner gives it up.
        """
        history = self.folder.history(self.member.name)
        if not len(history):
            return
        last = history.rows[-1].validation
        if not all(map(math.isfinite, last.values())):
            raise DivergedError(f"the validation scores are not finite after epoch {len(history)}: {last}")
        self.journal.report(self.number, [row.validation for row in history])
        if self.number and not self.finished(history) and self.journal.hopeless(self.number):
            raise TrialPruned

    def finished(self, history: History) -> bool:
        """Tell whether the last epoch ended the training anyway."""
        last = history.rows[-1]
        final = last.stage + 1 == len(self.member.training.stage_list()) or last.note == "training time limit"
        return bool(last.note) and final


def run_trial(
    study: SearchFolder,
    journal: TrialLog,
    number: int,
    *,
    prepared: DataModule | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train a trial to its end, going on where an earlier attempt stopped, and record how it ended.

    Args:
        study: The search's folder.
        journal: The search's journal.
        number: The trial.
        prepared: The data of the search, if they are at hand.
        callbacks: Told how it goes.
    """
    folder = study.trial(number)
    plan = Plan.load(folder.run)
    judge = TrialScorer(folder, journal, number, plan)
    name = judge.member.name
    try:
        judge.judge()
        data = prepared or plan.open_data(study.run)
        train_member(folder.run, name, callbacks=[*callbacks, judge], prepared=data, keep=False)
    except TrialPruned:
        folder.end(TrialOutcome.of_epochs("pruned", folder.keep_history(name), plan.monitor))
        return
    summary = folder.run.member(name).summary()
    scores = {key: value for key, value in summary["best"].items() if key not in ("stage", "epoch")}
    folder.end(TrialOutcome("complete", scores, summary["epochs"], summary["seconds"], summary["parameters"]))


@dataclass(frozen=True, eq=False)
class TrialWork:
    """A trial as a piece of work for the pool."""

    study: SearchFolder
    journal: TrialLog
    number: int
    settle: Callable[[int, FailedJob | None], None]
    """Told the number, and the failure if it was one, when the trial has ended."""

    @property
    def title(self) -> str:
        """What the progress bar is called."""
        return f"trial {self.number}"

    @property
    def command(self) -> list[str]:
        """The module that trains in a process of its own, and its words."""
        return ["tercet.experiments.tune_trials", str(self.study.path), str(self.number)]

    @property
    def stderr_path(self) -> Path:
        """What that process writes on standard error."""
        return self.study.trial(self.number).path / "stderr.txt"

    def train(self, prepared: DataModule | None, callbacks: Sequence[Callback]) -> None:
        """Train here."""
        run_trial(self.study, self.journal, self.number, prepared=prepared, callbacks=callbacks)

    def on_end(self, failure: FailedJob | None) -> None:
        """Settle what came of it."""
        self.settle(self.number, failure)


def main() -> int:
    """Train one trial as a process of its own, reporting events on standard output."""
    parser = argparse.ArgumentParser(prog="python -m tercet.experiments.tune_trials")
    parser.add_argument("study")
    parser.add_argument("number", type=int)
    arguments = parser.parse_args()

    def work(events: EventStream) -> None:
        study = SearchFolder.open(arguments.study)
        torch.set_num_threads(Plan.load(study.run).threads)
        journal = TrialLog(study.journal, SearchStudy.load(study.search))
        run_trial(study, journal, arguments.number, callbacks=[events])

    return report_to_parent(work)


if __name__ == "__main__":
    sys.exit(main())


_COLUMNS = ("number", "state", "score", "epochs", "seconds", "parameters", "reason")


@dataclass(frozen=True)
class TrialRow:
    """One trial."""

    number: int
    """0 is the options as they are."""
    options: Mapping[str, Any]
    """The options that vary, with their values here."""
    outcome: TrialOutcome
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
        lines.append([escape_formula(cell) if isinstance(cell, str) else cell for cell in cells])
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
    return value if isinstance(value, str) else quote_value(value)


def _rank(row: TrialRow, monitor: Monitor) -> tuple[int, float, int]:
    """Order trials: finished ones from best to worst, then those given up, then those that failed."""
    group = ("complete", "pruned", "failed").index(row.outcome.state)
    score = row.score if row.score is not None else math.nan
    value = math.inf if math.isnan(score) else score if monitor == "loss" else -score
    return group, value, row.number
