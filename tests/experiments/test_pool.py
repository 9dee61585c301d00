"""The process pool, with child processes that load nothing and report scripted events."""

import io
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from tercet.core import training_progress
from tercet.core.errors import Interrupted
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import ThreadPlan
from tercet.core.training_progress import ProgressDisplay, TrainingLength
from tercet.experiments.pool import FailedJob, run_all

CHILD = """
import json, os, signal, sys, time

kind = sys.argv[1]
scores = {"loss": 0.5, "accuracy": 0.75}
row = {"stage": 0, "epoch": 0, "train_loss": 0.4, "validation": scores, "seconds": 0.1, "best": True}
if kind == "phases":
    for done in (0, 7):
        print(json.dumps({"event": "phase", "name": "features", "done": done, "total": 9}), flush=True)
    print(json.dumps({"event": "unknown"}), flush=True)
    step = {"stage": 0, "num_stages": 1, "epoch": 0, "step": 1, "total_steps": 3, "rate": 0.1, "loss": 0.5}
    print(json.dumps({"event": "step", **step}), flush=True)
print(json.dumps({"event": "epoch", **row}), flush=True)
if kind == "error":
    print(json.dumps({"event": "error", "message": "bad weights", "exit_code": 4}), flush=True)
    sys.exit(4)
if kind == "crash":
    sys.exit("unexpected")
if kind == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if kind == "waits":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    open(sys.argv[2], "w").close()
    time.sleep(60)
"""


@dataclass(eq=False)
class Task:
    """A scripted child process."""

    kind: str
    folder: Path
    failures: list[FailedJob | None] = field(default_factory=list)

    @property
    def title(self) -> str:
        return self.kind

    @property
    def length(self) -> TrainingLength:
        return TrainingLength((3,), 16)

    @property
    def command(self) -> list[str]:
        return ["pool_child", self.kind, str(self.folder / f"{self.kind}.started")]

    @property
    def stderr_path(self) -> Path:
        return self.folder / f"{self.kind}.txt"

    def train(self, prepared: object, observers: Sequence[object]) -> None:
        raise AssertionError("trained in this process")

    def on_end(self, failure: FailedJob | None) -> None:
        self.failures.append(failure)


@pytest.fixture
def display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProgressDisplay:
    (tmp_path / "pool_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return ProgressDisplay(Console(file=io.StringIO()))


def output(display: ProgressDisplay) -> str:
    assert isinstance(display.console.file, io.StringIO)
    return display.console.file.getvalue()


def test_failures_are_collected_and_do_not_stop_other_jobs(
    tmp_path: Path, display: ProgressDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_progress, "PHASE_SECONDS", -1.0)
    tasks = [Task(kind, tmp_path) for kind in ("error", "crash", "killed", "finished", "phases")]
    failures = run_all(tasks, root=RunFolder(tmp_path), threads=ThreadPlan(2, 1), display=display)
    reported = {failure.job.title: (failure.exit_code, failure.message) for failure in failures}
    assert reported["error"] == (4, "bad weights")
    assert reported["crash"][0] == 1 and "status 1: unexpected" in reported["crash"][1]
    assert reported["killed"][0] == 7 and "killed" in reported["killed"][1]
    assert {task.title: task.failures for task in tasks[:3]} == {failure.job.title: [failure] for failure in failures}
    assert tasks[3].failures == tasks[4].failures == [None]
    lines = output(display).splitlines()
    epoch = "epoch 1/3: train loss 0.400, validation loss 0.500, accuracy 0.7500, 0.1 s (best so far)"
    assert f"finished: {epoch}" in lines
    assert "error: FAILED: bad weights" in lines
    assert lines.index("phases: features: 0 of 9 images") < lines.index(f"phases: {epoch}")


def test_a_signal_stops_the_children_and_names_the_folder_to_resume(tmp_path: Path, display: ProgressDisplay) -> None:
    tasks = [Task("waits", tmp_path), Task("finished", tmp_path)]

    def interrupt() -> None:
        while not (tmp_path / "waits.started").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Interrupted, match="--resume") as error:
        run_all(tasks, root=RunFolder(tmp_path), threads=ThreadPlan(2, 1), display=display)
    assert error.value.exit_code == 143 and str(tmp_path) in str(error.value)
    assert tasks[0].failures == []
    assert "saving checkpoints" in output(display)
