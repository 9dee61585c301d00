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
from tests import leftovers
from tests.fixtures.runs import one_core

from tercet.cli.main import main
from tercet.core.history import History
from tercet.core.run_folder import RunFolder

PATIENCE = 60.0  # seconds until a test gives up; nothing waits that long unless it is stuck
OPTIONS = [
    "--members",
    "row-gru,row-lstm",
    "--hidden-size",
    "8",
    "--num-layers",
    "1",
    "--head-hidden-dim",
    "6",
    "--batch-size",
    "8",
]
OPTIONS += ["--lr", "0.003", "--augment", "light", "--seed", "3", "--tensorboard", "false"]
OPTIONS += ["--ensemble-methods", "average"]
EPOCHS, LONGER = 8, 24
SHORT, LONG = [*OPTIONS, "--epochs", str(EPOCHS)], [*OPTIONS, "--epochs", str(LONGER)]
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
    leftovers.end_with_parent()
    try:
        for stream, path in ((0, os.devnull), (1, output), (2, errors)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666), stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", encoding="utf-8", closefd=False) for stream in (1, 2))
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


def nobody_left(run: Path, seconds: float = PATIENCE) -> bool:
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


def undisturbed_weights(data: Path, run: Path, options: list[str]) -> dict[str, bytes]:
    with one_core():
        assert main(["train", str(data), *options, "--output", str(run)]) == 0
    found = weights(run)
    assert len(found) == 4  # each member's own bundle, and both in the chosen one
    return found


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the weights of a run that nobody stopped."""
    return undisturbed_weights(data, tmp_path_factory.mktemp("undisturbed") / "run", SHORT)


def finish(start: Start, run: Path, expected: dict[str, bytes], *, length: int = EPOCHS) -> None:
    """Resume a run, let it end, and compare it with the one that nobody stopped."""
    process = start("train", "--resume", run)
    assert process.wait() == 0, process.said()
    found = weights(run)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert not debris(run)
    for member in MEMBERS:
        rows = History.load(run / "members" / member / "history.jsonl").to_list()
        assert [row["epoch"] for row in rows] == list(range(length))


MOMENTS: dict[str, Callable[[Path], object]] = {
    "before anything is trained": lambda run: (run / "config.yaml").exists(),
    "the first checkpoint": lambda run: checkpoint(run).exists(),
    "a few epochs": lambda run: epochs(run) >= 4,
    "the second member": lambda run: epochs(run, MEMBERS[1]) >= 2,
}


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "before anything is trained"),
        (signal.SIGTERM, "before anything is trained"),
        (signal.SIGTERM, "the first checkpoint"),
        (signal.SIGKILL, "the first checkpoint"),
        (signal.SIGINT, "a few epochs"),
        (signal.SIGTERM, "the second member"),
    ],
)
def test_a_run_stopped_at_any_moment_can_be_finished(
    start: Start, data: Path, tmp_path: Path, undisturbed: dict[str, bytes], number: signal.Signals, moment: str
) -> None:
    run = tmp_path / "run"
    process = start("train", data, *SHORT, "--output", run)
    process.until(lambda: MOMENTS[moment](run))
    process.kill(number)
    assert process.wait() == (-9 if number is signal.SIGKILL else 128 + number), process.said()
    said = process.said()
    assert "Traceback" not in said and process.output.read_text() == ""
    if number is signal.SIGKILL:
        assert (run / ".lock").read_text() == str(process.number)
        (run / ".lock").write_text(str(os.getpid()))  # as if its number now were a living process of another kind
    else:
        assert "stopped by" in said
        assert not debris(run)
    finish(start, run, undisturbed)


def test_killed_again_and_again(start: Start, data: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    run = tmp_path / "run"
    generator = random.Random(1)
    process = start("train", data, *SHORT, "--output", run)
    process.until(lambda: (run / "config.yaml").exists())
    for _ in range(8):
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
    process = start("train", data, *SHORT, "--output", run)
    process.until(lambda: epochs(run) >= 2)
    process.kill(signal.SIGINT)
    process.kill(signal.SIGTERM)
    assert process.wait() in (130, 143)
    finish(start, run, undisturbed)


def test_a_second_process_on_the_run_is_refused(
    start: Start, data: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    run = tmp_path / "run"
    first = start("train", data, *SHORT, "--output", run)
    first.until(lambda: epochs(run) >= 1)
    first.kill(signal.SIGSTOP)  # it holds the run, but does not finish it meanwhile
    try:
        resumed, anew = start("train", "--resume", run), start("train", data, *SHORT, "--output", run)
        assert (resumed.wait(), anew.wait()) == (5, 5)
        assert f"process {first.number} works on {run}" in resumed.said()
    finally:
        first.kill(signal.SIGCONT)
    assert first.wait() == 0, first.said()
    assert weights(run) == undisturbed


def test_progress_that_nobody_reads_ends_no_training(
    start: Start, data: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """As after `tercet train ... 2>&1 | head -1`, or in a terminal that was closed."""

    def leave() -> None:
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 2)

    run = tmp_path / "run"
    assert start("train", data, *SHORT, "--output", run, before=leave).wait() == 0
    assert weights(run) == undisturbed


def test_a_full_disk_loses_nothing(start: Start, data: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    run, limit = tmp_path / "run", 5_000
    process = start("train", data, *SHORT, "--output", run)
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


# ------------------------------------------------------------------------------------------ cross-validation


def test_a_cross_validation_stopped_twice_can_be_finished(start: Start, data: Path, tmp_path: Path) -> None:
    """Killed while the second fold trains, and asked to stop while it goes on: nothing is lost and nothing differs."""
    options = ["--members", "row-gru", *OPTIONS[2:], "--epochs", str(EPOCHS), "--folds", "2"]
    expected, run = tmp_path / "undisturbed", tmp_path / "cv"
    with one_core():
        assert main(["crossval", str(data), *options, "--output", str(expected)]) == 0
    second = run / "folds" / "2"
    process = start("crossval", data, *options, "--output", run)
    process.until(lambda: epochs(second) >= 2)
    process.kill(signal.SIGKILL)
    assert process.wait() == -9
    first = RunFolder(run / "folds" / "1").member("row-gru").done.stat().st_mtime_ns
    process = start("crossval", "--resume", run)
    process.until(lambda: epochs(second) >= 5)
    process.kill(signal.SIGTERM)
    assert process.wait() == 143, process.said()
    assert "crossval" not in process.output.read_text() and "--resume" in process.said()
    process = start("crossval", "--resume", run)
    assert process.wait() == 0, process.said()
    assert RunFolder(run / "folds" / "1").member("row-gru").done.stat().st_mtime_ns == first  # trained once
    for path in [*expected.glob("bundle/*.safetensors"), *expected.glob("folds/*/bundle/*.safetensors")]:
        assert (run / path.relative_to(expected)).read_bytes() == path.read_bytes()
    assert not debris(run) and not list(run.rglob(".lock"))


# ------------------------------------------------------------------------------------------ members side by side


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_members_side_by_side(start: Start, data: Path, tmp_path: Path) -> None:
    """Stop the whole, kill the parent, kill a child: one run survives all three."""
    run = tmp_path / "run"
    expected = undisturbed_weights(data, tmp_path / "undisturbed", LONG)
    command = [sys.executable, "-m", "tercet", "train", str(data), *LONG, "--output", str(run)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as real:
        _wait_for(lambda: any(epochs(run, member) >= 2 for member in MEMBERS), real)
        assert len(relatives(run)) == 3  # the command, and a process a member
        real.send_signal(signal.SIGTERM)  # to the parent only
        output, errors = real.communicate(timeout=PATIENCE)
    assert (real.returncode, output) == (143, ""), errors
    assert "--resume" in errors and str(run) in errors and "Traceback" not in errors
    assert not relatives(run)  # it has waited for them

    parent = start("train", "--resume", run, cores=2)
    runner = _first_to_advance(run, parent)
    parent.kill(signal.SIGKILL)
    assert parent.wait() == -9
    assert nobody_left(run)  # the children notice that nobody reads what they say
    assert not RunFolder(run).member(runner).finished()  # they did not just go on to the end

    parent = start("train", "--resume", run, cores=2)
    runner = _first_to_advance(run, parent)
    (child,) = [number for number in relatives(run) if os.fsencode(runner) in _words(number)]
    os.kill(child, signal.SIGKILL)
    assert parent.wait() == 7, parent.said()  # what kills a process without a word is a system without memory
    said = parent.said()
    assert f"member {runner}" in said and "killed" in said and "--resume" in said and "Traceback" not in said
    assert [member for member in MEMBERS if not RunFolder(run).member(member).finished()] == [runner]
    assert nobody_left(run)
    finish(start, run, expected, length=LONGER)


def _first_to_advance(run: Path, process: Process) -> str:
    """Wait for a member to train an epoch more than it had, and return its name."""
    before = {member: epochs(run, member) for member in MEMBERS}
    process.until(lambda: any(epochs(run, member) > before[member] for member in MEMBERS))
    return next(member for member in MEMBERS if epochs(run, member) > before[member])


def _words(number: int) -> list[bytes]:
    return Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")


def _wait_for(reached: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
