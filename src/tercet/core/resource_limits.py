"""Memory and CPU limits of this process, and how many cores it may use."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path

from tercet.core.errors import ConfigError, MemoryExhausted

MEBIBYTE = 2**20
MIN_MEMORY = 256
"""MiB below which nothing of ours can load."""
_MALLOPT_ARENAS = -8  # M_ARENA_MAX of glibc's malloc.h
_ARENAS = 2  # the first is the program's own heap
_ARENA = 64 * MEBIBYTE  # addresses that glibc reserves for another one
_STACK = 8 * MEBIBYTE  # where the system has no limit
_SPARE = 64 * MEBIBYTE


def limit_memory(mebibytes: int, *, threads: int) -> None:
    """Let this process have no more addresses than these, in all and for good; call it after the imports.

    Args:
        mebibytes: The most, code and stacks of threads included.
        threads: Threads that are still to be started.

    Raises:
        ConfigError: The process has more already, or may not be limited.
    """
    with suppress(OSError, AttributeError):  # only glibc reserves 64 MiB of addresses for each thread
        ctypes.CDLL(None).mallopt(_MALLOPT_ARENAS, _ARENAS)
    need = _addresses() + _ARENA + threads * _stack() + _SPARE
    if mebibytes * MEBIBYTE < need:
        raise ConfigError(
            f"max_memory {mebibytes} is too small: with {threads} threads the process has {need // MEBIBYTE + 1} MiB "
            "of addresses before it loads a model"
        )
    try:
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes * MEBIBYTE,) * 2)
    except (OSError, ValueError) as error:
        raise ConfigError(f"max_memory {mebibytes} cannot be set on this system: {error}") from error


def require_threads(count: int, what: object) -> None:
    """Refuse to start threads that the limit of memory has no room for: native pools wait for such threads for ever.

    Raises:
        MemoryExhausted: There is no room; `what` is named.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and _addresses() + count * _stack() > limit:
        raise MemoryExhausted(f"no memory for {count} thread(s) beside {what}: allow more memory, or fewer --threads")


def limit_time(seconds: float | None) -> None:
    """Let SIGALRM end this process after so many seconds, whatever it is at; None takes that back."""
    if seconds is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)


def _stack() -> int:
    limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return _STACK if limit == resource.RLIM_INFINITY else limit


def _addresses() -> int:
    """Return the bytes of addresses that this process has; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return 0
    return pages * resource.getpagesize()


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
