import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leftovers import MARK

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found under /proc")
TIMEOUT = 60.0
ROOT = Path(__file__).parents[1]
CONFTEST = "from tests.leftovers import watch\ndef pytest_configure(): watch()\n"
STARTS = """
import os, subprocess, sys, time
from tests.leftovers import end_with_parent

def test_starts_processes():
    child = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True).wait()"
    subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
    if not os.fork():
        end_with_parent()
        time.sleep(600)
    time.sleep(600)
"""


def processes_of(session: int) -> Iterator[int]:
    """Yield the processes with the mark of a pytest process, and the forks of that process."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                environment = (path / "environ").read_bytes()
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if f"{MARK}={session}-".encode() in environment or parent == session:
                yield int(path.name)


@pytest.mark.parametrize(
    "kind",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
    ids=lambda number: number.name,
)
def test_an_interrupted_pytest_leaves_no_processes(kind: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_starts.py").write_text(STARTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(tmp_path)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored if this run is a background job
    )
    end = time.monotonic() + TIMEOUT
    while len(started := set(processes_of(process.pid))) < 4:  # the script, two processes, and a fork of pytest
        assert process.poll() is None and time.monotonic() < end, started
        time.sleep(0.05)
    process.send_signal(kind)
    process.wait(TIMEOUT)
    while any(pid in started for pid in processes_of(process.pid)) or any(map(alive, started)):
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
