"""Run trainings in parallel: one process and one progress bar each; signals reach all of them.

A training that fails does not stop the others. With one job at a time, it runs in this process.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from tercet.core.errors import Interrupted, PartError, to_tercet_error
from tercet.core.history import EpochRow
from tercet.core.progress import ProgressDisplay, print_status
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import ThreadPlan
from tercet.data.data_module import DataModule
from tercet.experiments.custom_parts import UnsendableError, child_environment, pack_parts, receive_parts
from tercet.training.callbacks import Callback, EventStream
from tercet.training.callbacks import TrainingProgress as StepProgress
from tercet.training.signals import StopSignal


class PoolTask(Protocol):
    """A training that can run in this process or in a child process."""

    @property
    def title(self) -> str:
        """Label of the progress bar."""
        ...

    @property
    def command(self) -> list[str]:
        """Module and arguments of the child process, as for `python -m`."""
        ...

    @property
    def stderr_path(self) -> Path:
        """File for the standard error of the child process."""
        ...

    def train(self, prepared: DataModule | None, callbacks: Sequence[Callback]) -> None:
        """Train in this process."""
        ...

    def on_end(self, failure: FailedJob | None) -> None:
        """Called when the training finished or failed, but not when a signal stopped it."""
        ...


@dataclass(frozen=True)
class FailedJob:
    """A training that ended with an error."""

    job: PoolTask
    message: str
    exit_code: int
    cause: Exception | None = None
    """The error, if the training ran in this process."""


@dataclass
class _ProgressCallback:
    """Updates the progress display from a training in this process."""

    display: ProgressDisplay
    job: PoolTask

    def on_train_batch_end(self, progress: StepProgress) -> None:
        self.display.step(
            self.job.title,
            step=progress.step,
            total_steps=progress.total_steps,
            rate=progress.rate,
            loss=progress.loss,
        )

    def on_epoch_end(self, row: EpochRow) -> None:
        self.display.epoch(self.job.title, row.__dict__)


def run_all(
    jobs: Iterable[PoolTask],
    *,
    root: RunFolder,
    threads: ThreadPlan,
    display: ProgressDisplay,
    prepared: DataModule | None = None,
) -> list[FailedJob]:
    """Run jobs as `run_jobs` does; the next job is drawn only when a process is free, after the previous `on_end`."""
    with display.progress:
        if threads.jobs > 1:
            try:
                return _Pool(root, iter(jobs), threads, display, pack_parts()).run()
            except UnsendableError as error:
                print_status(display.console, f"{error}: the trainings run one after another in this process")
        failures = [_run_here(job, root, threads, prepared, display) for job in jobs]
        return [failure for failure in failures if failure is not None]


def _run_here(
    job: PoolTask, root: RunFolder, threads: ThreadPlan, prepared: DataModule | None, display: ProgressDisplay
) -> FailedJob | None:
    failure = None
    try:
        with _torch_threads(threads.threads):
            job.train(prepared, [_ProgressCallback(display, job)])
    except Interrupted as error:
        raise Interrupted(f"{error} {root.path}", error.exit_code - 128) from None
    except Exception as error:
        explained = to_tercet_error(error)
        if explained is None:
            raise
        failure = FailedJob(job, str(explained), explained.exit_code, error)
    finally:
        display.end(job.title)
    job.on_end(failure)
    return failure


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Pool:
    """Child processes and the events that they report."""

    root: RunFolder
    jobs: Iterator[PoolTask]
    threads: ThreadPlan
    display: ProgressDisplay
    parts: bytes | None = None
    """Parts of the caller's for the children."""
    running: dict[PoolTask, subprocess.Popen[bytes]] = field(default_factory=dict)
    failures: list[FailedJob] = field(default_factory=list)
    errors: dict[PoolTask, tuple[str, int]] = field(default_factory=dict)
    events: queue.Queue[tuple[PoolTask, dict[str, Any] | None]] = field(default_factory=queue.Queue)
    stopping: bool = False

    def run(self) -> list[FailedJob]:
        """Run all jobs; on a signal, stop the children and raise `Interrupted`."""
        with StopSignal() as interruption:
            while True:
                while len(self.running) < self.threads.jobs and interruption.requested is None:
                    if (job := next(self.jobs, None)) is None:
                        break
                    self.start(job)
                if interruption.requested is not None:
                    self.stop()
                if not self.running:
                    break
                try:
                    self.on_event(*self.events.get(timeout=0.2))
                except queue.Empty:
                    continue
            interruption.raise_if_requested(
                f"all members have saved a checkpoint; continue with --resume {self.root.path}"
            )
        return self.failures

    def start(self, job: PoolTask) -> None:
        # a session of its own, so that the child gets Ctrl-C once, from this process, and not from the terminal too
        job.stderr_path.parent.mkdir(parents=True, exist_ok=True)
        with open(job.stderr_path, "w", encoding="utf-8") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", *job.command],
                stdout=subprocess.PIPE,
                stderr=stderr,
                stdin=subprocess.DEVNULL if self.parts is None else subprocess.PIPE,
                env={**os.environ, **self.threads.environment(), **child_environment(self.parts)},
                start_new_session=True,
            )
        self.running[job] = process
        threading.Thread(target=self.read_events, args=(job, process), daemon=True).start()

    def read_events(self, job: PoolTask, process: subprocess.Popen[bytes]) -> None:
        """Send the parts of the caller's to a child, and queue its events; None when its output ends."""
        assert process.stdout is not None
        if process.stdin is not None and self.parts is not None:
            with suppress(BrokenPipeError), process.stdin as stream:  # a child that ended reports why
                stream.write(self.parts)
        with process.stdout as lines:
            for line in lines:
                if line.startswith(b"{"):
                    self.events.put((job, json.loads(line)))
        self.events.put((job, None))

    def on_event(self, job: PoolTask, event: dict[str, Any] | None) -> None:
        if event is None:
            self.on_exit(job)
        elif event["event"] == "step":
            self.display.step(job.title, **{key: event[key] for key in ("step", "total_steps", "rate", "loss")})
        elif event["event"] == "epoch":
            self.display.epoch(job.title, event)
        elif event["event"] == "error":
            self.errors[job] = (event["message"], event["exit_code"])

    def on_exit(self, job: PoolTask) -> None:
        code = self.running.pop(job).wait()
        self.display.end(job.title)
        if code and self.stopping:
            return  # it saved a checkpoint, from which a resume continues
        failure = FailedJob(job, *self.errors.get(job, self.describe_exit(job, code))) if code else None
        self.failures += [failure] if failure is not None else []
        job.on_end(failure)

    def describe_exit(self, job: PoolTask, code: int) -> tuple[str, int]:
        """Return message and exit code for a child that ended without reporting an error."""
        if code == -9:  # SIGKILL, which Windows lacks
            return "its process was killed, probably out of memory: use a smaller --batch-size or --threads 2", 7
        lines = job.stderr_path.read_text("utf-8", "replace").strip().splitlines()
        message = lines[-1] if lines else "no message"
        return f"its process exited with status {code}: {message} (see {job.stderr_path})", 1

    def stop(self) -> None:
        """Send SIGTERM to every child once; each saves a checkpoint and exits."""
        if not self.stopping:
            self.stopping = True
            print_status(self.display.console, "saving checkpoints, please wait ...")
            for process in self.running.values():
                process.send_signal(signal.SIGTERM)


def report_to_parent(work: Callable[[EventStream], None]) -> int:
    """Run `work` with an event stream to standard output and return the exit code of this process."""
    events = EventStream(sys.stdout)
    try:
        receive_parts()
        work(events)
    except BrokenPipeError:
        os._exit(1)  # the parent process is gone
    except Exception as error:
        explained = to_tercet_error(error)
        if explained is None:
            raise
        if isinstance(explained, PartError):
            traceback.print_exc()  # for the author of the part, in the file of standard error
        events.error(str(explained), explained.exit_code)
        return explained.exit_code
    return 0
