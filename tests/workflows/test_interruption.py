"""Real processes stopped in every way at many moments: a resumed run ends in the weights of one that was let alone.

A process is a copy of this one, which has its libraries loaded already; one test starts the real command.
"""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tercet.cli import main
from tercet.workflows.run_folder import RunFolder
from tests.workflows.conftest import one_core

PATIENCE = 60.0  # seconds until a test gives up; nothing waits that long unless it is stuck
OPTIONS = ["--members", "row-gru,row-lstm", "--units", "8", "--layers", "1", "--dense", "6", "--batch-size", "8"]
OPTIONS += ["--epochs", "25", "--lr", "0.003", "--augment", "light", "--seed", "3", "--tensorboard", "false"]
OPTIONS += ["--fuse", "average,e2e", "--fusion.width", "8", "--fusion.steps", "10", "--fusion.folds", "2"]
MEMBERS = ("row-gru", "row-lstm")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return pictures of 12 x 12 pixels: one class is bright above, the other below."""
    folder = tmp_path_factory.mktemp("data") / "halves"
    generator = np.random.default_rng(0)
    for kind in ("above", "below"):
        (folder / kind).mkdir(parents=True)
        for index in range(30):
            pixels = generator.integers(0, 160, (12, 12), dtype=np.uint8)
            pixels[:6] += 60 if kind == "above" else 0
            pixels[6:] += 0 if kind == "above" else 60
            Image.fromarray(pixels).save(folder / kind / f"{index}.png")
    return folder


@dataclass
class Process:
    """A command in a process of its own."""

    number: int
    errors: Path
    output: Path
    code: int | None = None

    def wait(self) -> int:
        """Return the exit code; negative for a signal that was not handled."""
        deadline = time.monotonic() + PATIENCE
        while self.code is None:
            number, status = os.waitpid(self.number, os.WNOHANG)
            if number:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                self.kill(signal.SIGKILL)
                raise AssertionError(f"the process never ended: {self.said()}")
            else:
                time.sleep(0.01)
        return self.code

    def kill(self, number: signal.Signals) -> None:
        os.kill(self.number, number)

    def said(self) -> str:
        return self.errors.read_text("utf-8", "replace")

    def until(self, reached: Callable[[], object]) -> None:
        """Wait for something to happen while the process runs."""
        deadline = time.monotonic() + PATIENCE
        while not reached():
            number, status = os.waitpid(self.number, os.WNOHANG)
            if number:
                self.code = os.waitstatus_to_exitcode(status)
                raise AssertionError(f"it ended too early with {self.code}: {self.said()}")
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.005)


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts `tercet` with some words, on one core or on two, in a copy of this process."""
    processes: list[Process] = []

    def begin(*words: object, cores: int = 1, before: Callable[[], object] = lambda: None) -> Process:
        errors, output = (tmp_path / f"{kind}-{len(processes)}.txt" for kind in ("errors", "output"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # copies of processes with threads: this one's threads are idle
            number = os.fork()
        if not number:
            _become(list(map(str, words)), errors, output, cores, before)
        processes.append(Process(number, errors, output))
        return processes[-1]

    yield begin
    for process in processes:
        if process.code is None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                process.kill(signal.SIGKILL)
                os.waitpid(process.number, 0)


def _become(words: list[str], errors: Path, output: Path, cores: int, before: Callable[[], object]) -> None:
    """Run the command in this copied process and end it; the test's own machinery is never returned to."""
    code = 99
    try:
        for stream, path in ((0, os.devnull), (1, output), (2, errors)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666), stream)
        sys.stdout, sys.stderr = (open(stream, "w", encoding="utf-8", closefd=False) for stream in (1, 2))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        warnings.resetwarnings()
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        before()
        code = main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def relatives(run: Path) -> list[int]:
    """Return the processes whose command names the run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.fsencode(run) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def nobody_left(run: Path, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while relatives(run):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def weights(run: Path) -> dict[str, bytes]:
    """Return what the members' bundles hold, byte for byte."""
    files = sorted((run / "members").glob("*/bundle/*.safetensors")) + sorted((run / "bundle").glob("*.safetensors"))
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def checkpoint(run: Path, member: str = MEMBERS[0]) -> Path:
    return run / "members" / member / "checkpoints" / "last.ckpt"


def epochs(run: Path, member: str = MEMBERS[0]) -> int:
    log = run / "members" / member / "train.log"
    return len(log.read_text("utf-8").splitlines()) if log.exists() else 0


def debris(run: Path) -> list[Path]:
    return [path for path in run.rglob("*") if path.name.startswith(".")]


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the weights of a run that nobody stopped."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    with one_core():
        assert main(["train", str(data), *OPTIONS, "--output", str(run)]) == 0
    found = weights(run)
    assert len(found) >= 4
    return found


def finish(start: Start, run: Path, expected: dict[str, bytes]) -> None:
    """Resume a run, let it end, and compare it with the one that nobody stopped."""
    process = start("train", "--resume", run)
    assert process.wait() == 0, process.said()
    found = weights(run)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert not debris(run)
    for member in MEMBERS:
        assert epochs(run, member) >= 25


MOMENTS: dict[str, Callable[[Path], object]] = {
    "before anything is trained": lambda run: (run / "config.yaml").exists(),
    "the first checkpoint": lambda run: checkpoint(run).exists(),
    "a few epochs": lambda run: epochs(run) >= 4,
    "the second member": lambda run: epochs(run, MEMBERS[1]) >= 2,
    "the end": lambda run: list((run / "predictions").glob("average-*")),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_stopped_at_any_moment_can_be_finished(
    start: Start, data: Path, tmp_path: Path, undisturbed: dict[str, bytes], number: signal.Signals, moment: str
) -> None:
    run = tmp_path / "run"
    process = start("train", data, *OPTIONS, "--output", run)
    process.until(lambda: MOMENTS[moment](run))
    process.kill(number)
    code = process.wait()
    if code == 0 and moment == "the end":
        pytest.skip("it had finished before the signal came")
    assert code == (-9 if number is signal.SIGKILL else 128 + number), process.said()
    said = process.said()
    assert "Traceback" not in said
    if number is not signal.SIGKILL:
        assert "stopped by" in said
        assert not (run / ".lock").exists()
        assert not debris(run)
    assert process.output.read_text() == ""
    finish(start, run, undisturbed)


def test_killed_again_and_again(start: Start, data: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    run = tmp_path / "run"
    generator = random.Random(1)
    process = start("train", data, *OPTIONS, "--output", run)
    process.until(lambda: (run / "config.yaml").exists())
    for _ in range(12):
        time.sleep(generator.uniform(0.02, 0.25))
        process.kill(signal.SIGKILL)
        if process.wait() == 0:
            break
        process = start("train", "--resume", run)
    process.wait()
    finish(start, run, undisturbed)


def test_the_second_signal_ends_it_at_once(
    start: Start, data: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    run = tmp_path / "run"
    process = start("train", data, *OPTIONS, "--output", run)
    process.until(lambda: epochs(run) >= 2)
    process.kill(signal.SIGINT)
    process.kill(signal.SIGTERM)
    assert process.wait() in (130, 143)
    finish(start, run, undisturbed)


def test_a_second_process_on_the_run_is_refused(
    start: Start, data: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    run = tmp_path / "run"
    first = start("train", data, *OPTIONS, "--output", run)
    first.until(lambda: epochs(run) >= 1)
    first.kill(signal.SIGSTOP)  # it holds the run, but does not finish it meanwhile
    try:
        resumed, anew = start("train", "--resume", run), start("train", data, *OPTIONS, "--output", run)
        assert (resumed.wait(), anew.wait()) == (5, 5)
        assert f"process {first.number} works on {run}" in resumed.said()
    finally:
        first.kill(signal.SIGCONT)
    assert first.wait() == 0, first.said()
    assert weights(run) == undisturbed


def test_a_lock_that_a_dead_process_left_is_taken_over(
    start: Start, data: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    run = tmp_path / "run"
    process = start("train", data, *OPTIONS, "--output", run)
    process.until(lambda: epochs(run) >= 1)
    process.kill(signal.SIGKILL)
    process.wait()
    assert (run / ".lock").read_text() == str(process.number)
    (run / ".lock").write_text(str(os.getpid()))  # its number now is a living process of another kind
    finish(start, run, undisturbed)


@pytest.mark.parametrize("limit", [1_000, 5_000])
def test_a_full_disk_loses_nothing(
    start: Start, data: Path, tmp_path: Path, undisturbed: dict[str, bytes], limit: int
) -> None:
    run = tmp_path / "run"
    process = start("train", data, *OPTIONS, "--output", run)
    process.until(lambda: epochs(run) >= 2)
    process.kill(signal.SIGTERM)
    assert process.wait() == 143
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix != ".log"}
    assert checkpoint(run).stat().st_size > limit

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # a write beyond it fails as on a full disk

    process = start("train", "--resume", run, before=full)
    assert process.wait() == 5, process.said()
    said = process.said()
    assert "cannot write" in said and str(run) in said and "Traceback" not in said
    assert {path: path.read_bytes() for path in before if path.suffix != ".jsonl"} == {
        path: content for path, content in before.items() if path.suffix != ".jsonl"
    }
    assert not debris(run)
    finish(start, run, undisturbed)


# ------------------------------------------------------------------------------------------ members side by side


def test_members_side_by_side(start: Start, data: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Stop the whole, kill the parent, kill a child: one run survives all three."""
    run = tmp_path / "run"
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    words = ["train", str(data), *OPTIONS, "--output", str(run)]
    command = [sys.executable, "-m", "tercet", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as real:
        _wait_for(lambda: all(epochs(run, member) >= 2 for member in MEMBERS), real)
        assert len(relatives(run)) == 3  # the command, and a process a member
        real.send_signal(signal.SIGTERM)  # to the parent only
        output, errors = real.communicate(timeout=PATIENCE)
    assert (real.returncode, output) == (143, ""), errors
    assert "--resume" in errors and str(run) in errors and "Traceback" not in errors
    assert nobody_left(run, 0.5)  # it has waited for them
    reached = {member: epochs(run, member) for member in MEMBERS}
    assert all(checkpoint(run, member).exists() for member in MEMBERS)

    parent = start("train", "--resume", run, cores=2)
    parent.until(lambda: all(epochs(run, member) > reached[member] for member in MEMBERS))
    parent.kill(signal.SIGKILL)
    assert parent.wait() == -9
    assert nobody_left(run)  # the children notice that nobody reads what they say
    reached = {member: epochs(run, member) for member in MEMBERS}
    assert max(reached.values()) < 25  # they did not just finish

    parent = start("train", "--resume", run, cores=2)
    parent.until(lambda: any(epochs(run, member) > reached[member] for member in MEMBERS))
    victim = next(
        number for number in relatives(run) if b"row-lstm" in Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    )
    os.kill(victim, signal.SIGKILL)
    assert parent.wait() == 7, parent.said()  # what kills a process without a word is the system out of memory
    said = parent.said()
    assert "member row-lstm" in said and "killed" in said and "--resume" in said and "Traceback" not in said
    assert RunFolder(run).member("row-gru").finished() and not RunFolder(run).member("row-lstm").finished()
    assert nobody_left(run)
    finish(start, run, undisturbed)


def _wait_for(reached: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
