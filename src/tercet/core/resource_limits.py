"""Limits of memory, time and open files, and the number of available CPU cores."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from tercet.core.errors import ConfigError, MemoryExhausted

try:
    import resource
except ImportError:  # only POSIX has it: limits are refused, everything else works
    resource = None  # type: ignore[assignment]
_HAS_LIMITS = bool(resource)

MEBIBYTE = 2**20
MIN_MEMORY = 256
"""MiB; the libraries do not load with less."""
_M_ARENA_MAX = -8  # from malloc.h of glibc
_ARENAS = 2  # the first one is the heap of the program
_ARENA_BYTES = 64 * MEBIBYTE  # address space that glibc reserves per further arena
_DEFAULT_STACK = 8 * MEBIBYTE  # if the stack size is unlimited
_SPARE_BYTES = 64 * MEBIBYTE
_RESERVED_DESCRIPTORS = 192  # open files that are not connections


def limit_memory(mebibytes: int, *, threads: int) -> None:
    """Limit the address space of this process (RLIMIT_AS) permanently; call it after all imports.

    Args:
        mebibytes: Limit in MiB, code and thread stacks included.
        threads: Number of threads still to be started.

    Raises:
        ConfigError: The process already needs more, or the system does not allow the limit.
    """
    if not _HAS_LIMITS:
        raise ConfigError("max_memory needs Linux or macOS: this system has no limit of the address space")
    with suppress(OSError, AttributeError):  # glibc would reserve 64 MiB of address space per thread
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
    required = _address_space() + _ARENA_BYTES + threads * _stack_bytes() + _SPARE_BYTES
    if mebibytes * MEBIBYTE < required:
        raise ConfigError(
            f"max_memory {mebibytes} is too small: with {threads} threads the process needs {required // MEBIBYTE + 1} "
            "MiB of address space before it loads a model"
        )
    try:
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes * MEBIBYTE,) * 2)
    except (OSError, ValueError) as error:
        raise ConfigError(f"max_memory {mebibytes} cannot be set on this system: {error}") from error


def require_threads(count: int, what: object) -> None:
    """Check that `count` more threads fit into the memory limit; native thread pools would otherwise hang.

    Raises:
        MemoryExhausted: They do not fit; the message mentions `what`.
    """
    if not _HAS_LIMITS:
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and _address_space() + count * _stack_bytes() > limit:
        raise MemoryExhausted(
            f"no memory for {count} thread(s) beside {what}: raise the memory limit, or use fewer --threads"
        )


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard limit; return the largest possible number of connections."""
    if not _HAS_LIMITS:
        return sys.maxsize
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else max(1, hard - _RESERVED_DESCRIPTORS)


def limit_time(seconds: float | None) -> None:
    """End this process with SIGALRM after some seconds, even in native code; None cancels the limit.

    Raises:
        ConfigError: The system has no timer signals.
    """
    if not hasattr(signal, "setitimer"):
        if seconds is not None:
            raise ConfigError("a time limit of the process needs Linux or macOS")
        return
    if seconds is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)


def _stack_bytes() -> int:
    limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return _DEFAULT_STACK if limit == resource.RLIM_INFINITY else limit


def _address_space() -> int:
    """Return the size of the address space of this process in bytes; 0 if unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return 0
    return pages * resource.getpagesize()


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
