"""Kills processes that an interrupted pytest leaves behind; runs as a script that waits for the end of pytest.

All processes that pytest starts, directly or indirectly, inherit a mark in their environment, by which they are found
even if pytest was killed (SIGKILL, time limit, second Ctrl-C). Forks of pytest have the environment of pytest itself,
without the mark, so they must call `end_with_parent`.
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
    """Mark all processes started from now on, and start the process that kills them (Linux only)."""
    if sys.platform != "linux":
        return
    os.environ[MARK] = f"{os.getpid()}-{uuid.uuid4().hex}"
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
    null_streams = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)]
    # A new session, so that Ctrl-C does not end it.
    os.posix_spawn(sys.executable, command, os.environ, file_actions=null_streams, setsid=True)


def end_with_parent() -> None:
    """Request SIGKILL for this process when the thread that forked it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """Return the IDs of other processes with the mark."""
    entry, pids = f"{MARK}={mark}".encode(), []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            with suppress(OSError):
                if entry in (path / "environ").read_bytes().split(b"\0"):
                    pids.append(int(path.name))
    return pids


if __name__ == "__main__":
    while os.getppid() == int(sys.argv[1]):
        time.sleep(0.2)
    while pids := marked(os.environ[MARK]):  # repeated for processes that were started meanwhile
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
