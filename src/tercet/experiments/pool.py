"""Work side by side: a process each, a progress bar each, and a signal reaches them all.

One that fails leaves the others alone. Where one at a time is wanted, it is done in this process.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from tercet.core.errors import Interrupted, to_tercet_error
from tercet.core.history import EpochRow
from tercet.core.progress import ProgressDisplay, print_status
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import ThreadPlan
from tercet.data.data_module import DataModule
from tercet.training.callbacks import Callback
from tercet.training.callbacks import TrainingProgress as StepProgress
from tercet.training.signals import StopSignal


class PoolTask(Protocol):
    """One training, to be done here or in a process of its own."""

    @property
    def title(self) -> str:
        """What the progress bar is called."""
        ...

    @property
    def command(self) -> list[str]:
        """The module that does the work in a process of its own, and its words."""
        ...

    @property
    def complaints(self) -> Path:
        """What that process writes on standard error."""
        ...

    def train(self, prepared: DataModule | None, callbacks: Sequence[Callback]) -> None:
        """Do the work here."""
        ...

    def ended(self, failure: FailedJob | None) -> None:
        """Hear that the work ended, by itself or with a failure, but not by a signal."""
        ...


@dataclass
class FailedJob(Exception):
    """Why a training ended early."""

    job: PoolTask
    message: str
    exit_code: int


@dataclass
class _InProcess:
    """Bars fed by a training in this process."""

    bars: ProgressDisplay
    job: PoolTask

    def on_train_batch_end(self, progress: StepProgress) -> None:
        self.bars.step(
            self.job.title,
            step=progress.step,
            total_steps=progress.total_steps,
            rate=progress.rate,
            loss=progress.loss,
        )

    def on_epoch_end(self, row: EpochRow) -> None:
        self.bars.epoch(self.job.title, row.__dict__)


def run_all(
    jobs: Iterable[PoolTask],
    *,
    whole: RunFolder,
    threads: ThreadPlan,
    bars: ProgressDisplay,
    prepared: DataModule | None = None,
) -> list[FailedJob]:
    """Do work as `run_jobs` does; the next is asked for when there is room for it, after the last one `ended`."""
    with bars.progress:
        if threads.jobs > 1:
            return _Pool(whole, iter(jobs), threads, bars).run()
        failures = [_do_here(job, whole, threads, prepared, bars) for job in jobs]
        return [failure for failure in failures if failure is not None]


def _do_here(
    job: PoolTask, whole: RunFolder, threads: ThreadPlan, prepared: DataModule | None, bars: ProgressDisplay
) -> FailedJob | None:
    failure = None
    try:
        with torch_threads(threads.threads):
            job.train(prepared, [_InProcess(bars, job)])
    except Interrupted as error:
        raise Interrupted(f"{error} {whole.path}", error.exit_code - 128) from None
    except Exception as error:
        known = to_tercet_error(error)
        if known is None:
            raise
        failure = FailedJob(job, str(known), known.exit_code)
    finally:
        bars.end(job.title)
    job.ended(failure)
    return failure


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

    whole: RunFolder
    waiting: Iterator[PoolTask]
    threads: ThreadPlan
    bars: ProgressDisplay
    running: dict[PoolTask, subprocess.Popen[str]] = field(default_factory=dict)
    failures: list[FailedJob] = field(default_factory=list)
    errors: dict[PoolTask, tuple[str, int]] = field(default_factory=dict)
    events: queue.Queue[tuple[PoolTask, dict[str, Any] | None]] = field(default_factory=queue.Queue)
    told: bool = False

    def run(self) -> list[FailedJob]:
        """Work until nothing is left."""
        with StopSignal() as interruption:
            while True:
                while len(self.running) < self.threads.jobs and interruption.requested is None:
                    if (job := next(self.waiting, None)) is None:
                        break
                    self.start(job)
                if interruption.requested is not None:
                    self.tell()
                if not self.running:
                    break
                try:
                    self.hear(*self.events.get(timeout=0.2))
                except queue.Empty:
                    continue
            interruption.raise_if_requested(f"every member has saved itself; continue with --resume {self.whole.path}")
        return self.failures

    def start(self, job: PoolTask) -> None:
        """Start a child in a session of its own, so that a Ctrl-C reaches it once, through us."""
        job.complaints.parent.mkdir(parents=True, exist_ok=True)
        with open(job.complaints, "w", encoding="utf-8") as complaints:
            process = subprocess.Popen(
                [sys.executable, "-m", *job.command],
                stdout=subprocess.PIPE,
                stderr=complaints,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.threads.environment()},
                text=True,
                start_new_session=True,
            )
        self.running[job] = process
        threading.Thread(target=self.listen, args=(job, process), daemon=True).start()

    def listen(self, job: PoolTask, process: subprocess.Popen[str]) -> None:
        """Pass a child's events on; its end is an event too."""
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if line.startswith("{"):
                    self.events.put((job, json.loads(line)))
        self.events.put((job, None))

    def hear(self, job: PoolTask, event: dict[str, Any] | None) -> None:
        """Act on an event."""
        if event is None:
            self.finish(job)
        elif event["event"] == "step":
            self.bars.step(job.title, **{key: event[key] for key in ("step", "total_steps", "rate", "loss")})
        elif event["event"] == "epoch":
            self.bars.epoch(job.title, event)
        else:
            self.errors[job] = (event["message"], event["exit_code"])

    def finish(self, job: PoolTask) -> None:
        """Note how a child ended."""
        code = self.running.pop(job).wait()
        self.bars.end(job.title)
        if code and self.told:
            return  # it saved itself, and a resume goes on with it
        failure = FailedJob(job, *self.errors.get(job, self.crash(job, code))) if code else None
        self.failures += [failure] if failure is not None else []
        job.ended(failure)

    def crash(self, job: PoolTask, code: int) -> tuple[str, int]:
        """Describe an end that the child could not describe itself."""
        if code == -signal.SIGKILL:
            return "its process was killed, most often for want of memory: use a smaller --batch-size or --threads 2", 7
        lines = job.complaints.read_text("utf-8", "replace").strip().splitlines()
        return f"its process ended with status {code}: {lines[-1] if lines else 'no message'} (see {job.complaints})", 1

    def tell(self) -> None:
        """Ask every child, once, to save and leave."""
        if not self.told:
            self.told = True
            print_status(self.bars.console, "saving, please wait ...")
            for process in self.running.values():
                process.send_signal(signal.SIGTERM)
