"""Ends what an interrupted pytest leaves behind: run as a script, it waits for pytest's end and kills its processes.

Every process that pytest starts inherits a mark in its environment, so that also those of a killed pytest (SIGKILL, a
time limit, a second Ctrl-C) are found, however deep. A copy made by `os.fork` keeps the environment of pytest itself,
which has no mark: it calls `end_with_parent`.
"""

import ctypes
import os
import signal
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

MARK = "TERCET_TEST_PROCESS"
_PR_SET_PDEATHSIG = 1


def watch() -> None:
    """Mark what this process starts from now on, and start the process that ends it (Linux only)."""
    if sys.platform != "linux":
        return
    os.environ[MARK] = f"{os.getpid()}-{uuid.uuid4().hex}"
    words = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
    nothing = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)]
    os.posix_spawn(sys.executable, words, os.environ, file_actions=nothing, setsid=True)  # no Ctrl-C reaches it


def end_with_parent() -> None:
    """Let the system kill this process when the thread that forked it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """Return the processes, other than this one, that inherited a mark."""
    entry, numbers = f"{MARK}={mark}".encode(), []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            with suppress(OSError):
                if entry in (path / "environ").read_bytes().split(b"\0"):
                    numbers.append(int(path.name))
    return numbers


if __name__ == "__main__":
    while os.getppid() == int(sys.argv[1]):
        time.sleep(0.2)
    while numbers := marked(os.environ[MARK]):  # again, for what they started meanwhile
        for number in numbers:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.05)
