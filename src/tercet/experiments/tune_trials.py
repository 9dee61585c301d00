"""Trials of a search: training, pruning, and the table of results."""

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

from tercet.config.training import Monitor
from tercet.core.errors import DivergedError
from tercet.core.files import csv_text
from tercet.core.history import TIME_LIMIT, EpochRow, History
from tercet.core.output import printable
from tercet.core.training_progress import TrainingLength
from tercet.core.untrusted_files import escape_formula
from tercet.data.data_module import DataModule
from tercet.experiments.jobs import length_of
from tercet.experiments.member import train_member
from tercet.experiments.plan import Plan
from tercet.experiments.pool import FailedJob, report_to_parent
from tercet.experiments.tune_folder import SearchFolder, TrialFolder, TrialLog, TrialOutcome
from tercet.experiments.tune_study import SearchStudy
from tercet.metrics.metric import is_better
from tercet.metrics.run_tables import rank_trials, trials_table
from tercet.training.callbacks import Callback, EventStream, TrainingProgress


class TrialPruned(Exception):
    """The pruner stops the trial."""


class TrialPruner:
    """Callback that reports each epoch's scores to Optuna, and stops the training if the pruner says so.

    It reads the history file, so that after a kill no epoch is missing or reported twice.

    Args:
        folder: The trial's folder.
        log: The trials of the search.
        number: Number of the trial; trial 0, the baseline, is never pruned.
        plan: The trial's plan.
    """

    def __init__(self, folder: TrialFolder, log: TrialLog, number: int, plan: Plan) -> None:
        self.folder, self.log, self.number = folder, log, number
        (self.member,) = plan.members

    def on_train_batch_end(self, progress: TrainingProgress) -> None:
        """Do nothing: trials are pruned after epochs only."""

    def on_epoch_end(self, row: EpochRow) -> None:
        """Report the epoch's scores."""
        self.report()

    def report(self) -> None:
        """Report new epochs.

        Raises:
            DivergedError: The scores are not finite.
            TrialPruned: The pruner stops the trial.
        """
        history = self.folder.history(self.member.name)
        if not len(history):
            return
        scores = history.rows[-1].validation
        if not all(map(math.isfinite, scores.values())):
            raise DivergedError(f"the validation scores are not finite after epoch {len(history)}: {scores}")
        self.log.report(self.number, [row.validation for row in history])
        if self.number and not self.finished(history) and self.log.is_pruned(self.number):
            raise TrialPruned

    def finished(self, history: History) -> bool:
        """Return whether the training ends with the last epoch anyway."""
        last = history.rows[-1]
        final = last.stage + 1 == len(self.member.training.stage_list()) or last.note == TIME_LIMIT
        return bool(last.note) and final


def run_trial(
    folder: SearchFolder,
    log: TrialLog,
    number: int,
    *,
    prepared: DataModule | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train or resume a trial, and record its outcome; `prepared` is the data of the search, if already loaded."""
    trial = folder.trial(number)
    plan = Plan.load(trial)
    pruner = TrialPruner(trial, log, number, plan)
    name = pruner.member.name
    try:
        pruner.report()
        data = prepared or Plan.load(folder).open_data(folder)  # the trial has no samples of its own
        train_member(trial, name, callbacks=[*callbacks, pruner], prepared=data, keep=False)
    except TrialPruned:
        trial.end(TrialOutcome.of_epochs("pruned", trial.keep_history(name), plan.monitor))
        return
    summary = trial.member(name).summary()
    scores = {key: value for key, value in summary["best"].items() if key not in ("stage", "epoch")}
    trial.end(TrialOutcome("complete", scores, summary["epochs"], summary["seconds"], summary["parameters"]))


@dataclass(frozen=True, eq=False)
class TrialTask:
    """A trial as a task of the process pool."""

    folder: SearchFolder
    log: TrialLog
    number: int
    report_end: Callable[[int, FailedJob | None], None]
    """Called with the number, and the failure if there was one."""

    @property
    def title(self) -> str:
        """Title of the progress bar."""
        return f"trial {self.number}"

    @property
    def length(self) -> TrainingLength:
        """Length of the training."""
        return length_of(Plan.load(self.folder.trial(self.number)).members[0])

    @property
    def command(self) -> list[str]:
        """Module and arguments of the child process."""
        return ["tercet.experiments.tune_trials", str(self.folder.path), str(self.number)]

    @property
    def stderr_path(self) -> Path:
        """File of the child's standard error."""
        return self.folder.trial(self.number).path / "stderr.txt"

    def train(self, prepared: DataModule | None, callbacks: Sequence[Callback]) -> None:
        """Train in this process."""
        run_trial(self.folder, self.log, self.number, prepared=prepared, callbacks=callbacks)

    def on_end(self, failure: FailedJob | None) -> None:
        """Call `report_end`."""
        self.report_end(self.number, failure)


def main() -> int:
    """Train one trial in a child process; events are written to standard output."""
    parser = argparse.ArgumentParser(prog="python -m tercet.experiments.tune_trials")
    parser.add_argument("folder")
    parser.add_argument("number", type=int)
    arguments = parser.parse_args()

    def work(events: EventStream) -> None:
        folder = SearchFolder.open(arguments.folder)
        torch.set_num_threads(Plan.load(folder).threads)
        log = TrialLog(folder.journal, SearchStudy.load(folder))
        run_trial(folder, log, arguments.number, callbacks=[events])

    return report_to_parent(work)


_COLUMNS = ("number", "state", "score", "epochs", "seconds", "parameters", "reason")


@dataclass(frozen=True)
class TrialRow:
    """One finished trial."""

    number: int
    """0 is the baseline with the unchanged options."""
    options: Mapping[str, Any]
    """Values of the varying options."""
    outcome: TrialOutcome
    monitor: Monitor
    """The score that trials are compared by."""

    @property
    def score(self) -> float | None:
        """The monitored score of the best epoch, if finite."""
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
    """Return the best completed trial; the earliest one of equals."""
    best: TrialRow | None = None
    for row in rows:
        if row.outcome.state == "complete" and row.score is not None:
            rival = best.outcome.scores if best is not None else None
            if is_better(row.monitor, row.outcome.scores, rival):
                best = row
    return best


def as_csv(rows: Sequence[TrialRow]) -> str:
    """Return one line per trial, with one column per varying option."""
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
    """Return the trials from best to worst, the improvement over the baseline, and the next command."""
    first, name = rows[0], best.monitor
    trials = rank_trials([row.to_dict() for row in rows], best.to_dict())
    table = trials_table(trials, name, best.number, title=f"{data}: {len(rows)} trials, {name} on validation")
    parts = [table.to_text()]
    if first.score is None:
        parts.append(f"The baseline (trial 0) failed: {printable(first.outcome.reason)}\n")
    elif best is first:
        parts.append(f"No trial is better than the baseline (trial 0): {name} {first.score:.4f}.\n")
    else:
        assert best.score is not None
        parts.append(
            f"Baseline (trial 0): {name} {first.score:.4f}\nBest (trial {best.number}): {best.score:.4f}, "
            f"{best.score - first.score:+.4f} on validation.\n"
            f"The best of {len(rows)} trials is slightly optimistic; the test split was not used.\n"
        )
    if importance:
        shares = ", ".join(f"{key} {share:.2f}" for key, share in importance.items())
        parts.append(textwrap.fill(f"Importance of the options (PED-ANOVA): {shares}", 80) + "\n")
    parts.append(
        f"Train the best configuration and evaluate it on the test split:\n  {train_command(data, best_file)}\n"
    )
    return "\n".join(parts)


def train_command(data: str, best_file: str) -> str:
    """Return the command that trains the best trial."""
    return shlex.join(["tercet", "train", data, "--config", best_file])


if __name__ == "__main__":
    sys.exit(main())
