"""Trainings side by side: one process each, one progress bar each, and a signal reaches them all.

A member that fails leaves the others alone. A single training runs in this process.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tercet.ground.errors import Interrupted, TercetError, explain
from tercet.ground.runtime import ThreadPlan
from tercet.ground.streams import printable
from tercet.records.history import EpochRow
from tercet.training.interruption import Interruption
from tercet.training.observers import Progress as StepProgress
from tercet.workflows.member import train_member
from tercet.workflows.plan import Plan
from tercet.workflows.prepared import PreparedData
from tercet.workflows.run_folder import MemberFolder, RunFolder


@dataclass(frozen=True)
class Job:
    """One training: a member, or a member without one fold."""

    name: str
    fold: int | None = None

    def folder(self, run: RunFolder) -> MemberFolder:
        """Return where the training's files are."""
        member = run.member(self.name)
        return member if self.fold is None else member.fold(self.fold)

    @property
    def title(self) -> str:
        """Return what the progress bar is called."""
        return self.name if self.fold is None else f"{self.name}, fold {self.fold + 1}"


@dataclass
class JobFailure(Exception):
    """Why a training ended early."""

    job: Job
    message: str
    exit_code: int


def say(console: Console, line: str) -> None:
    """Print one line as it is: names in it are no markup, and paths stay whole."""
    console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)


class Bars:
    """Progress bars on a terminal; plain lines an epoch where there is none."""

    def __init__(self, console: Console, *, split: str = "validation") -> None:
        self.console, self.split = console, split
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.tasks: dict[Job, TaskID] = {}

    def step(self, job: Job, *, step: int, total_steps: int, rate: float, loss: float) -> None:
        """Move a bar."""
        if job not in self.tasks:
            self.tasks[job] = self.progress.add_task(printable(job.title), total=total_steps, state="")
        self.progress.update(self.tasks[job], completed=step, state=f"rate {rate:.2g}  loss {loss:.3f}")

    def epoch(self, job: Job, row: dict[str, Any]) -> None:
        """Say how an epoch ended."""
        scores = row["validation"]
        reached = f"{self.split} {scores['loss']:.3f}, accuracy {scores['accuracy']:.4f}, " if scores else ""
        say(
            self.console,
            f"{job.title} {row['stage'] + 1}.{row['epoch'] + 1}: "
            f"train {row['train_loss']:.3f}, {reached}{row['seconds']:.1f} s{' *' if row['best'] else ''}",
        )

    def end(self, job: Job) -> None:
        """Take a bar away."""
        if job in self.tasks:
            self.progress.remove_task(self.tasks.pop(job))


@dataclass
class _InProcess:
    """Bars fed by a training in this process."""

    bars: Bars
    job: Job

    def step(self, progress: StepProgress) -> None:
        self.bars.step(
            self.job,
            step=progress.step,
            total_steps=progress.total_steps,
            rate=progress.rate,
            loss=progress.loss,
        )

    def epoch(self, row: EpochRow) -> None:
        self.bars.epoch(self.job, row.__dict__)


def run_jobs(
    run: RunFolder, jobs: Sequence[Job], *, threads: ThreadPlan, prepared: PreparedData, console: Console
) -> list[JobFailure]:
    """Run trainings, as many side by side as the plan says; return the ones that failed.

    Raises:
        Interrupted: A signal came; every training has saved itself.
    """
    bars = Bars(console, split=Plan.load(run).selection)
    with bars.progress:
        if len(jobs) == 1 or threads.jobs == 1:
            return [failure for job in jobs for failure in _run_here(run, job, threads, prepared, bars)]
        return _Pool(run, list(jobs), threads, bars).run()


def _run_here(
    run: RunFolder, job: Job, threads: ThreadPlan, prepared: PreparedData, bars: Bars
) -> Iterator[JobFailure]:
    try:
        with torch_threads(threads.threads):
            train_member(run, job.name, fold=job.fold, observers=[_InProcess(bars, job)], prepared=prepared)
    except Interrupted as error:
        raise Interrupted(f"{error} {run.path}", error.exit_code - 128) from None
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        yield JobFailure(job, str(known), known.exit_code)
    finally:
        bars.end(job)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use this many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Pool:
    """Child processes, their events, and the signals they are owed."""

    run_folder: RunFolder
    waiting: list[Job]
    threads: ThreadPlan
    bars: Bars
    running: dict[Job, subprocess.Popen[str]] = field(default_factory=dict)
    failures: list[JobFailure] = field(default_factory=list)
    errors: dict[Job, tuple[str, int]] = field(default_factory=dict)
    events: queue.Queue[tuple[Job, dict[str, Any] | None]] = field(default_factory=queue.Queue)
    told: bool = False

    def run(self) -> list[JobFailure]:
        """Work until nothing is left."""
        with Interruption() as interruption:
            while self.waiting or self.running:
                while self.waiting and len(self.running) < self.threads.jobs and interruption.requested is None:
                    self.start(self.waiting.pop(0))
                if interruption.requested is not None:
                    self.tell()
                    if not self.running:
                        break
                try:
                    job, event = self.events.get(timeout=0.2)
                except queue.Empty:
                    continue
                self.hear(job, event)
            interruption.check(f"every member has saved itself; continue with --resume {self.run_folder.path}")
        return self.failures

    def start(self, job: Job) -> None:
        """Start a child in a session of its own, so that a Ctrl-C reaches it once, through us."""
        command = [sys.executable, "-m", "tercet.workflows.member", str(self.run_folder.path), job.name]
        command += [] if job.fold is None else ["--fold", str(job.fold)]
        folder = self.run_folder.member(job.name).path
        folder.mkdir(parents=True, exist_ok=True)
        with open(
            folder / f"stderr{'' if job.fold is None else job.fold + 1}.txt", "w", encoding="utf-8"
        ) as complaints:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=complaints,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.threads.environment()},
                text=True,
                start_new_session=True,
            )
        self.running[job] = process
        threading.Thread(target=self.listen, args=(job, process), daemon=True).start()

    def listen(self, job: Job, process: subprocess.Popen[str]) -> None:
        """Pass a child's events on; its end is an event too."""
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if line.startswith("{"):
                    self.events.put((job, json.loads(line)))
        self.events.put((job, None))

    def hear(self, job: Job, event: dict[str, Any] | None) -> None:
        """Act on an event."""
        if event is None:
            self.finish(job)
        elif event["event"] == "step":
            self.bars.step(job, **{key: event[key] for key in ("step", "total_steps", "rate", "loss")})
        elif event["event"] == "epoch":
            self.bars.epoch(job, event)
        else:
            self.errors[job] = (event["message"], event["exit_code"])

    def finish(self, job: Job) -> None:
        """Note how a child ended."""
        code = self.running.pop(job).wait()
        self.bars.end(job)
        if code and not self.told:
            self.failures.append(JobFailure(job, *self.errors.get(job, self.crash(job, code))))

    def crash(self, job: Job, code: int) -> tuple[str, int]:
        """Describe an end that the child could not describe itself."""
        suffix = "" if job.fold is None else str(job.fold + 1)
        complaints = self.run_folder.member(job.name).path / f"stderr{suffix}.txt"
        if code == -signal.SIGKILL:
            return "its process was killed, most often for want of memory: use a smaller --batch-size or --threads 2", 7
        lines = complaints.read_text("utf-8", "replace").strip().splitlines()
        return f"its process ended with status {code}: {lines[-1] if lines else 'no message'} (see {complaints})", 1

    def tell(self) -> None:
        """Ask every child, once, to save and leave."""
        if not self.told:
            self.told = True
            say(self.bars.console, "saving, please wait ...")
            for process in self.running.values():
                process.send_signal(signal.SIGTERM)


def raise_failures(failures: Sequence[JobFailure], run: RunFolder) -> None:
    """Raise one error that names every member that failed.

    Raises:
        TercetError: With the exit code of the first failure.
    """
    if failures:
        lines = "; ".join(f"member {failure.job.title}: {failure.message}" for failure in failures)
        error = TercetError(f"{lines}. The other members are kept: continue with --resume {run.path}")
        error.exit_code = failures[0].exit_code
        raise error
