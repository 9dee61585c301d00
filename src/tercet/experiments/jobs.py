"""The trainings of runs: members, and members without one fold, each a piece of work for the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tercet.core.errors import TercetError
from tercet.core.progress import ProgressDisplay
from tercet.core.run_folder import MemberFolder, RunFolder
from tercet.core.runtime import ThreadPlan
from tercet.data.data_module import DataModule
from tercet.experiments.member import train_member
from tercet.experiments.plan import Plan
from tercet.experiments.pool import FailedJob, run_all
from tercet.training.callbacks import Callback


@dataclass(frozen=True)
class Job:
    """One training: a member of a run, or that member without one fold of the run's training rows."""

    run: RunFolder
    name: str
    fold: int | None = None
    part: str = ""
    """What the run is called where several are trained side by side."""

    @property
    def folder(self) -> MemberFolder:
        """Where the training's files are."""
        member = self.run.member(self.name)
        return member if self.fold is None else member.fold(self.fold)

    @property
    def command(self) -> list[str]:
        """The module that trains in a process of its own, and its words."""
        fold = [] if self.fold is None else ["--fold", str(self.fold)]
        return ["tercet.experiments.member", str(self.run.path), self.name, *fold]

    @property
    def complaints(self) -> Path:
        """What the training's process wrote on standard error."""
        return self.run.member(self.name).path / f"stderr{'' if self.fold is None else self.fold + 1}.txt"

    @property
    def title(self) -> str:
        """What the progress bar is called."""
        whole = f"{self.name} of {self.part}" if self.part else self.name
        return whole if self.fold is None else f"{whole}, fold {self.fold + 1}"

    def train(self, prepared: DataModule | None, callbacks: Sequence[Callback]) -> None:
        """Train here."""
        train_member(self.run, self.name, fold=self.fold, callbacks=callbacks, prepared=prepared)

    def ended(self, failure: FailedJob | None) -> None:
        """The training's own files tell all there is to tell."""


def planned_jobs(run: RunFolder, plan: Plan, *, part: str = "") -> list[Job]:
    """Return every training of a run, finished or not."""
    jobs = [Job(run, member.name, part=part) for member in plan.members]
    if plan.needs_folds():
        jobs += [Job(run, member.name, fold, part) for member in plan.members for fold in range(plan.fusion.folds)]
    return jobs


def run_jobs(
    jobs: Sequence[Job],
    *,
    whole: RunFolder,
    threads: ThreadPlan,
    console: Console,
    prepared: DataModule | None = None,
) -> list[FailedJob]:
    """Run trainings, as many side by side as the plan says; return the ones that failed.

    Args:
        jobs: Trainings of one run, or of several with the same split that chooses.
        whole: What is continued after an interruption: the run, or the folder that holds the runs.
        threads: How many at once.
        console: Where to report progress.
        prepared: The data, where all are of one run and it is at hand.

    Raises:
        Interrupted: A signal came; every training has saved itself.
    """
    bars = ProgressDisplay(console, split=Plan.load(jobs[0].run).monitor_split)
    threads = threads if len(jobs) > 1 else ThreadPlan(1, threads.threads)
    return run_all(jobs, whole=whole, threads=threads, bars=bars, prepared=prepared)


def raise_failures(failures: Sequence[FailedJob], run: RunFolder) -> None:
    """Raise one error that names every member that failed.

    Raises:
        TercetError: With the exit code of the first failure.
    """
    if failures:
        lines = "; ".join(f"member {failure.job.title}: {failure.message}" for failure in failures)
        error = TercetError(f"{lines}. The other members are kept: continue with --resume {run.path}")
        error.exit_code = failures[0].exit_code
        raise error
