"""Trainings of runs as jobs of the pool: members, and members without one fold of the training rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tercet.config.run import MemberConfig
from tercet.core.errors import TercetError
from tercet.core.output import count
from tercet.core.progress import print_status
from tercet.core.run_folder import MemberFolder, RunFolder
from tercet.core.runtime import ThreadPlan, plan_threads
from tercet.core.training_progress import ProgressDisplay, TrainingLength
from tercet.data.data_module import DataModule
from tercet.experiments.member import train_member
from tercet.experiments.plan import Plan
from tercet.experiments.pool import FailedJob, run_all
from tercet.experiments.task import task_of
from tercet.models.registry import has_fitted_head
from tercet.training.callbacks import Callback


@dataclass(frozen=True)
class Job:
    """One training: a member of a run, or that member without one fold of the run's training rows."""

    run: RunFolder
    name: str
    fold: int | None = None
    run_title: str = ""
    """Name of the run in the progress display, if several runs train together."""

    @property
    def folder(self) -> MemberFolder:
        """Folder with the files of the training."""
        member = self.run.member(self.name)
        return member if self.fold is None else member.fold(self.fold)

    @property
    def command(self) -> list[str]:
        """Module and arguments of the child process."""
        fold = [] if self.fold is None else ["--fold", str(self.fold)]
        return ["tercet.experiments.member", str(self.run.path), self.name, *fold]

    @property
    def stderr_path(self) -> Path:
        """File for the standard error of the child process."""
        return self.run.member(self.name).path / f"stderr{'' if self.fold is None else self.fold + 1}.txt"

    @property
    def title(self) -> str:
        """Label of the progress bar."""
        member = f"{self.name} of {self.run_title}" if self.run_title else self.name
        return member if self.fold is None else f"{member}, fold {self.fold + 1}"

    @property
    def length(self) -> TrainingLength:
        """Length of the training."""
        return length_of(Plan.load(self.run).member(self.name))

    def train(self, prepared: DataModule | None, callbacks: Sequence[Callback]) -> None:
        """Train in this process."""
        train_member(self.run, self.name, fold=self.fold, callbacks=callbacks, prepared=prepared)

    def on_end(self, failure: FailedJob | None) -> None:
        """Nothing to do: the training has written its own files."""


def length_of(member: MemberConfig) -> TrainingLength:
    """Return the length of a member's training; a fitted head has no epochs."""
    if has_fitted_head(member.network, member.model):
        return TrainingLength()
    stages = member.training.stage_list()
    epochs = tuple(None if stage.epochs is None else math.ceil(stage.epochs) for stage in stages)
    return TrainingLength(epochs, member.training.batch_size)


def planned_jobs(run: RunFolder, plan: Plan, *, run_title: str = "") -> list[Job]:
    """Return all trainings of a run, finished or not."""
    jobs = [Job(run, member.name, run_title=run_title) for member in plan.members]
    if plan.needs_folds():
        jobs += [Job(run, member.name, fold, run_title) for member in plan.members for fold in range(plan.fusion.folds)]
    return jobs


def run_jobs(
    jobs: Sequence[Job],
    *,
    root: RunFolder,
    threads: ThreadPlan,
    console: Console,
    prepared: DataModule | None = None,
) -> list[FailedJob]:
    """Run trainings, `threads.jobs` at a time; return the ones that failed.

    Args:
        jobs: Trainings of one run, or of several runs with the same `monitor_split`.
        root: Folder to resume after an interruption: the run, or the folder of the runs.
        threads: Number of processes, and of threads per process.
        console: For the progress display.
        prepared: The data, if all jobs are of one run and it is loaded.

    Raises:
        Interrupted: A signal arrived; every training has saved a checkpoint.
    """
    display = ProgressDisplay(console, split=Plan.load(jobs[0].run).monitor_split, total=len(jobs))
    if len(jobs) == 1 or _share_features(jobs):
        threads = ThreadPlan(1, threads.threads)
    return run_all(jobs, root=root, threads=threads, display=display, prepared=prepared)


def _share_features(jobs: Sequence[Job]) -> bool:
    """Whether fitted heads share networks, as in folds: fitting them takes less time than starting processes."""
    if not all(job.run.plan.is_file() for job in jobs):
        return False  # the job raises the error
    members = [Plan.load(job.run).member(job.name) for job in jobs]
    networks = {(member.network, repr(member.model.input), member.model.weights) for member in members}
    return len(networks) < len(jobs) and all(has_fitted_head(member.network, member.model) for member in members)


def train_waiting(run: RunFolder, plan: Plan, prepared: DataModule, console: Console) -> list[FailedJob]:
    """Run the unfinished trainings of a run; return the ones that failed.

    Raises:
        Interrupted: A signal arrived; every training has saved a checkpoint.
    """
    details = split_sizes(prepared) if plan.rung is None else None  # the ladder prints them before its plan
    return train_jobs(planned_jobs(run, plan), plan, root=run, details=details, console=console, prepared=prepared)


def split_sizes(prepared: DataModule) -> str:
    """Return the numbers of images of the splits."""
    counts = ", ".join(f"{len(prepared.rows(split))} {split}" for split in ("train", "validation", "test"))
    return f"{counts} images"


def train_jobs(
    jobs: Sequence[Job],
    plan: Plan,
    *,
    root: RunFolder,
    details: str | None,
    console: Console,
    prepared: DataModule | None = None,
) -> list[FailedJob]:
    """Print data, unless `details` is None, and resources, and run the unfinished jobs; return the ones that failed."""
    waiting = [job for job in jobs if not job.folder.finished()]
    if not waiting:
        return []
    threads = plan_threads(len(waiting), threads=plan.threads, device=plan.device)  # a resume keeps its number
    if details is not None:
        print_data(plan, details, console)
    print_status(console, f"{count(len(waiting), 'training')} on {plan.device}: {threads}")
    return run_jobs(waiting, root=root, threads=threads, console=console, prepared=prepared)


def print_data(plan: Plan, details: str, console: Console) -> None:
    """Print what the data are, and skipped files."""
    classes = count(len(plan.classes), task_of(plan).noun)
    print_status(console, f"{plan.data}: {classes}; {details}")
    for note in plan.notes[:10]:
        print_status(console, f"data: {note}")
    if len(plan.notes) > 10:
        print_status(console, f"data: ... and {len(plan.notes) - 10} more (see metrics.json)")


def raise_failures(failures: Sequence[FailedJob], run: RunFolder) -> None:
    """Raise one error that lists every failed member.

    Raises:
        TercetError: With the exit code of the first failure.
    """
    if failures:
        lines = "; ".join(f"member {failure.job.title}: {failure.message}" for failure in failures)
        error = TercetError(f"{lines}. What is finished is kept: continue with --resume {run.path}")
        error.exit_code = failures[0].exit_code
        raise error from failures[0].cause
