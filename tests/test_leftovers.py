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
PATIENCE = 60.0
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


def of_session(session: int) -> Iterator[int]:
    """Return the processes that have the mark of a pytest process, zombies aside, and its own copies."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                environment = (path / "environ").read_bytes()
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if f"{MARK}={session}-".encode() in environment or parent == session:
                yield int(path.name)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=str)
def test_an_interrupted_pytest_leaves_no_process(kind: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_starts.py").write_text(STARTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(tmp_path)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE
    while len(started := set(of_session(process.pid))) < 4:  # the watch, two processes, and a copy of pytest
        assert process.poll() is None and time.monotonic() < end, started
        time.sleep(0.05)
    process.send_signal(kind)
    process.wait(PATIENCE)
    while any(number in started for number in of_session(process.pid)) or any(map(alive, started)):
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
