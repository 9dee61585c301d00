"""Processes stopped at many moments: a resumed run ends with the weights of an uninterrupted one.

A process is a fork of this one, which has loaded the libraries already; one test starts the real command. All but one
representative case are slow.
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

TIMEOUT = 60.0  # seconds; reached only if a process hangs
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
    """Draw images of 12 x 12 pixels that are brighter in the upper or the lower half."""
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
    """A command in a child process."""

    number: int
    errors: Path
    output: Path
    code: int | None = None

    def wait(self) -> int:
        """Return the exit code; negative after an unhandled signal."""
        deadline = time.monotonic() + TIMEOUT
        while self.code is None:
            number, status = os.waitpid(self.number, os.WNOHANG)
            if number:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                self.kill(signal.SIGKILL)
                raise AssertionError(f"the process did not end: {self.stderr()}")
            else:
                time.sleep(0.01)
        return self.code

    def kill(self, number: signal.Signals) -> None:
        os.kill(self.number, number)

    def stderr(self) -> str:
        return self.errors.read_text("utf-8", "replace")

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition while the process runs."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            number, status = os.waitpid(self.number, os.WNOHANG)
            if number:
                self.code = os.waitstatus_to_exitcode(status)
                raise AssertionError(f"the process ended early with {self.code}: {self.stderr()}")
            assert time.monotonic() < deadline, self.stderr()
            time.sleep(0.005)


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that runs `tercet` on one or two cores in a fork of this process."""
    processes: list[Process] = []

    def begin(*arguments: object, cores: int = 1, before: Callable[[], object] = lambda: None) -> Process:
        errors, output = (tmp_path / f"{kind}-{len(processes)}.txt" for kind in ("errors", "output"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about forking with threads, which are idle here
            number = os.fork()
        if not number:
            _run_command(list(map(str, arguments)), errors, output, cores, before)
        processes.append(Process(number, errors, output))
        return processes[-1]

    yield begin
    for process in processes:
        if process.code is None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                process.kill(signal.SIGKILL)
                os.waitpid(process.number, 0)


def _run_command(arguments: list[str], errors: Path, output: Path, cores: int, before: Callable[[], object]) -> None:
    """Run the command in the forked process and exit without returning to pytest."""
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
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def processes_of(run: Path) -> list[int]:
    """Return the processes with the run in their command line."""
    numbers = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.fsencode(run) in (entry / "cmdline").read_bytes():
                    numbers.append(int(entry.name))
    return numbers


def all_ended(run: Path) -> bool:
    deadline = time.monotonic() + TIMEOUT
    while processes_of(run):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def weights(run: Path) -> dict[str, bytes]:
    """Return the weights of all bundles as bytes."""
    files = sorted((run / "members").glob("*/bundle/*.safetensors")) + sorted((run / "bundle").glob("*.safetensors"))
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def checkpoint(run: Path, member: str = MEMBERS[0]) -> Path:
    return run / "members" / member / "checkpoints" / "last.ckpt"


def epochs(run: Path, member: str = MEMBERS[0]) -> int:
    log = run / "members" / member / "train.log"
    return len(log.read_text("utf-8").splitlines()) if log.exists() else 0


def temporary_files(run: Path) -> list[Path]:
    return [path for path in run.rglob("*") if path.name.startswith(".")]


def uninterrupted_weights(data: Path, run: Path, options: list[str]) -> dict[str, bytes]:
    with one_core():
        assert main(["train", str(data), *options, "--output", str(run)]) == 0
    result = weights(run)
    assert len(result) == 4  # two bundles of one member, and one of both members
    return result


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the weights of an uninterrupted run."""
    return uninterrupted_weights(data, tmp_path_factory.mktemp("uninterrupted") / "run", SHORT)


def finish(start: Start, run: Path, expected: dict[str, bytes], *, length: int = EPOCHS) -> None:
    """Resume a run to its end and compare it with the uninterrupted one."""
    process = start("train", "--resume", run)
    assert process.wait() == 0, process.stderr()
    resumed = weights(run)
    assert resumed.keys() == expected.keys()
    assert [name for name in expected if resumed[name] != expected[name]] == []
    assert not temporary_files(run)
    for member in MEMBERS:
        rows = History.load(run / "members" / member / "history.jsonl").to_list()
        assert [row["epoch"] for row in rows] == list(range(length))


MOMENTS: dict[str, Callable[[Path], object]] = {
    "before training": lambda run: (run / "run.json").exists(),
    "the first checkpoint": lambda run: checkpoint(run).exists(),
    "a few epochs": lambda run: epochs(run) >= 4,
    "the second member": lambda run: epochs(run, MEMBERS[1]) >= 2,
}


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(signal.SIGINT, "before training", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "before training", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "the first checkpoint", marks=pytest.mark.slow),
        (signal.SIGKILL, "the first checkpoint"),
        pytest.param(signal.SIGINT, "a few epochs", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "the second member", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_weights(
    start: Start, data: Path, tmp_path: Path, uninterrupted: dict[str, bytes], number: signal.Signals, moment: str
) -> None:
    run = tmp_path / "run"
    process = start("train", data, *SHORT, "--output", run)
    process.until(lambda: MOMENTS[moment](run))
    process.kill(number)
    assert process.wait() == (-9 if number is signal.SIGKILL else 128 + number), process.stderr()
    stderr = process.stderr()
    assert "Traceback" not in stderr and process.output.read_text() == ""
    if number is signal.SIGKILL:
        assert (run / ".lock").read_text() == str(process.number)
        (run / ".lock").write_text(str(os.getpid()))  # as if another process had got its number
    else:
        assert "stopped by" in stderr
        assert not temporary_files(run)
    finish(start, run, uninterrupted)


@pytest.mark.slow
def test_a_run_killed_many_times_resumes_to_the_same_weights(
    start: Start, data: Path, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    run = tmp_path / "run"
    generator = random.Random(1)
    process = start("train", data, *SHORT, "--output", run)
    process.until(lambda: (run / "run.json").exists())
    for _ in range(8):
        time.sleep(generator.uniform(0.02, 0.25))
        process.kill(signal.SIGKILL)
        if process.wait() == 0:
            break
        process = start("train", "--resume", run)
    process.wait()
    finish(start, run, uninterrupted)


@pytest.mark.slow
def test_a_second_signal_ends_the_process_at_once(
    start: Start, data: Path, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    run = tmp_path / "run"
    process = start("train", data, *SHORT, "--output", run)
    process.until(lambda: epochs(run) >= 2)
    process.kill(signal.SIGINT)
    process.kill(signal.SIGTERM)
    assert process.wait() in (130, 143)
    finish(start, run, uninterrupted)


@pytest.mark.slow
def test_a_second_process_on_the_same_run_is_an_error(
    start: Start, data: Path, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    run = tmp_path / "run"
    first = start("train", data, *SHORT, "--output", run)
    first.until(lambda: epochs(run) >= 1)
    first.kill(signal.SIGSTOP)  # so that it does not finish meanwhile
    try:
        resumed, new = start("train", "--resume", run), start("train", data, *SHORT, "--output", run)
        assert (resumed.wait(), new.wait()) == (5, 5)
        assert f"process {first.number}" in resumed.stderr() and str(run) in resumed.stderr()
    finally:
        first.kill(signal.SIGCONT)
    assert first.wait() == 0, first.stderr()
    assert weights(run) == uninterrupted


@pytest.mark.slow
def test_a_closed_stderr_does_not_stop_training(
    start: Start, data: Path, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    """As after `tercet train ... 2>&1 | head -1`, or in a closed terminal."""

    def close_stderr() -> None:
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 2)

    run = tmp_path / "run"
    assert start("train", data, *SHORT, "--output", run, before=close_stderr).wait() == 0
    assert weights(run) == uninterrupted


@pytest.mark.slow
def test_a_full_disk_loses_no_progress(
    start: Start, data: Path, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    run, limit = tmp_path / "run", 5_000
    process = start("train", data, *SHORT, "--output", run)
    process.until(lambda: epochs(run) >= 2)
    process.kill(signal.SIGTERM)
    assert process.wait() == 143
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix != ".log"}
    assert checkpoint(run).stat().st_size > limit

    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # a write beyond it fails as on a full disk

    process = start("train", "--resume", run, before=limit_file_size)
    assert process.wait() == 5, process.stderr()
    stderr = process.stderr()
    assert "cannot write" in stderr and str(run) in stderr and "Traceback" not in stderr
    assert {path: path.read_bytes() for path in before if path.suffix != ".jsonl"} == {
        path: content for path, content in before.items() if path.suffix != ".jsonl"
    }
    assert not temporary_files(run)
    finish(start, run, uninterrupted)


# ------------------------------------------------------------------------------------------ cross-validation


@pytest.mark.slow
def test_an_interrupted_cross_validation_resumes_to_the_same_weights(start: Start, data: Path, tmp_path: Path) -> None:
    """Killed while the second fold trains, then stopped by SIGTERM after a resume."""
    options = ["--members", "row-gru", *OPTIONS[2:], "--epochs", str(EPOCHS), "--folds", "2"]
    expected, run = tmp_path / "uninterrupted", tmp_path / "cv"
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
    assert process.wait() == 143, process.stderr()
    assert "crossval" not in process.output.read_text() and "--resume" in process.stderr()
    process = start("crossval", "--resume", run)
    assert process.wait() == 0, process.stderr()
    assert RunFolder(run / "folds" / "1").member("row-gru").done.stat().st_mtime_ns == first  # trained once
    for path in [*expected.glob("bundle/*.safetensors"), *expected.glob("folds/*/bundle/*.safetensors")]:
        assert (run / path.relative_to(expected)).read_bytes() == path.read_bytes()
    assert not temporary_files(run) and not list(run.rglob(".lock"))


# ------------------------------------------------------------------------------------------ parallel members


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_parallel_members_resume_to_the_same_weights(start: Start, data: Path, tmp_path: Path) -> None:
    """Interrupt all processes, kill the parent, kill a child: the run resumes after each."""
    run = tmp_path / "run"
    expected = uninterrupted_weights(data, tmp_path / "uninterrupted", LONG)
    command = [sys.executable, "-m", "tercet", "train", str(data), *LONG, "--output", str(run)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as real:
        _wait_for(lambda: any(epochs(run, member) >= 2 for member in MEMBERS), real)
        assert len(processes_of(run)) == 3  # the command and one process per member
        real.send_signal(signal.SIGTERM)  # to the parent only
        output, errors = real.communicate(timeout=TIMEOUT)
    assert (real.returncode, output) == (143, ""), errors
    assert "--resume" in errors and str(run) in errors and "Traceback" not in errors
    assert not processes_of(run)  # the parent has waited for its children

    parent = start("train", "--resume", run, cores=2)
    member = _first_to_advance(run, parent)
    parent.kill(signal.SIGKILL)
    assert parent.wait() == -9
    assert all_ended(run)  # the children exit when their output pipe closes
    assert not RunFolder(run).member(member).finished()  # they did not train to the end

    parent = start("train", "--resume", run, cores=2)
    member = _first_to_advance(run, parent)
    (child,) = [number for number in processes_of(run) if os.fsencode(member) in _arguments(number)]
    os.kill(child, signal.SIGKILL)
    assert parent.wait() == 7, parent.stderr()  # SIGKILL is taken for out of memory
    stderr = parent.stderr()
    assert f"member {member}" in stderr and "killed" in stderr
    assert "--resume" in stderr and "Traceback" not in stderr
    assert [name for name in MEMBERS if not RunFolder(run).member(name).finished()] == [member]
    assert all_ended(run)
    finish(start, run, expected, length=LONGER)


def _first_to_advance(run: Path, process: Process) -> str:
    """Wait until a member has trained one more epoch, and return its name."""
    before = {member: epochs(run, member) for member in MEMBERS}
    process.until(lambda: any(epochs(run, member) > before[member] for member in MEMBERS))
    return next(member for member in MEMBERS if epochs(run, member) > before[member])


def _arguments(number: int) -> list[bytes]:
    return Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")


def _wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
