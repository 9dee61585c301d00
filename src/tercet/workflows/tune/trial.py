"""One trial of a search: an ordinary training of one member, which a pruner may end early."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tercet.ground.errors import DivergedError
from tercet.records.history import EpochRow, History
from tercet.training.observers import EventStream, Observer, Progress
from tercet.workflows.train.member import report_to_parent, train_member
from tercet.workflows.train.plan import Plan
from tercet.workflows.train.pool import JobFailure
from tercet.workflows.train.prepared import PreparedData
from tercet.workflows.tune.folder import Outcome, SearchFolder, TrialFolder
from tercet.workflows.tune.journal import Journal
from tercet.workflows.tune.search import Search


class Pruned(Exception):
    """The trial is given up."""


class Judge:
    """An observer that enters every epoch's score in the journal, and ends the training where the pruner says so.

    It reads the history that the training has just written: after a kill no epoch is missing, and none counts twice.

    Args:
        folder: The trial's folder.
        journal: The search's journal.
        number: The trial; number 0, the options as they are, is never given up.
        plan: The trial's plan.
    """

    def __init__(self, folder: TrialFolder, journal: Journal, number: int, plan: Plan) -> None:
        self.folder, self.journal, self.number = folder, journal, number
        (self.member,) = plan.members

    def step(self, progress: Progress) -> None:
        """Updates are not judged."""

    def epoch(self, row: EpochRow) -> None:
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
            raise Pruned

    def finished(self, history: History) -> bool:
        """Tell whether the last epoch ended the training anyway."""
        last = history.rows[-1]
        final = last.stage + 1 == len(self.member.training.stage_list()) or last.note == "training time limit"
        return bool(last.note) and final


def run_trial(
    study: SearchFolder,
    journal: Journal,
    number: int,
    *,
    prepared: PreparedData | None = None,
    observers: Sequence[Observer] = (),
) -> None:
    """Train a trial to its end, going on where an earlier attempt stopped, and record how it ended.

    Args:
        study: The search's folder.
        journal: The search's journal.
        number: The trial.
        prepared: The data of the search, if they are at hand.
        observers: Told how it goes.
    """
    folder = study.trial(number)
    plan = Plan.load(folder.run)
    judge = Judge(folder, journal, number, plan)
    name = judge.member.name
    try:
        judge.judge()
        data = prepared or plan.open_data(study.run)
        train_member(folder.run, name, observers=[*observers, judge], prepared=data, keep=False)
    except Pruned:
        folder.end(Outcome.of_epochs("pruned", folder.keep_history(name), plan.monitor))
        return
    summary = folder.run.member(name).summary()
    scores = {key: value for key, value in summary["best"].items() if key not in ("stage", "epoch")}
    folder.end(Outcome("complete", scores, summary["epochs"], summary["seconds"], summary["parameters"]))


@dataclass(frozen=True, eq=False)
class TrialWork:
    """A trial as a piece of work for the pool."""

    study: SearchFolder
    journal: Journal
    number: int
    settle: Callable[[int, JobFailure | None], None]
    """Told the number, and the failure if it was one, when the trial has ended."""

    @property
    def title(self) -> str:
        """What the progress bar is called."""
        return f"trial {self.number}"

    @property
    def command(self) -> list[str]:
        """The module that trains in a process of its own, and its words."""
        return ["tercet.workflows.tune.trial", str(self.study.path), str(self.number)]

    @property
    def complaints(self) -> Path:
        """What that process writes on standard error."""
        return self.study.trial(self.number).path / "stderr.txt"

    def train(self, prepared: PreparedData | None, observers: Sequence[Observer]) -> None:
        """Train here."""
        run_trial(self.study, self.journal, self.number, prepared=prepared, observers=observers)

    def ended(self, failure: JobFailure | None) -> None:
        """Settle what came of it."""
        self.settle(self.number, failure)


def main() -> int:
    """Train one trial as a process of its own, reporting events on standard output."""
    parser = argparse.ArgumentParser(prog="python -m tercet.workflows.tune.trial")
    parser.add_argument("study")
    parser.add_argument("number", type=int)
    arguments = parser.parse_args()

    def work(events: EventStream) -> None:
        study = SearchFolder.open(arguments.study)
        torch.set_num_threads(Plan.load(study.run).threads)
        journal = Journal(study.journal, Search.load(study.search))
        run_trial(study, journal, arguments.number, observers=[events])

    return report_to_parent(work)


if __name__ == "__main__":
    sys.exit(main())
