"""Predicting within limits of memory and time, by a process that may be lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tercet.ground.children import Child, Relay, name_of, own_command
from tercet.ground.cores import available_cores
from tercet.ground.errors import Crashed, MemoryExhausted
from tercet.ground.limits import limit_memory, limit_time

_OWN_THREADS = 2


def predict_bounded(words: Sequence[str], *, memory: int | None, seconds: float | None) -> int:
    """Let another process predict, which works `within_bounds`, and return its exit code.

    Args:
        words: The command line after `predict`.
        memory: The limit that it sets itself, in MiB.
        seconds: The time that it gives itself.

    Raises:
        MemoryExhausted: It died within a limit of memory: native code does not always find words for that.
        Crashed: It took too long, or died without such a limit.
        Interrupted: A signal ended it.
    """
    with Relay() as relay:
        code = relay.wait(Child(own_command("predict", *words)))
    if code >= 0:
        return code
    if code == -signal.SIGALRM and seconds is not None:
        raise Crashed(f"predicting took longer than the {seconds:g} s of --max-seconds", signal.SIGALRM)
    told = f"the process that predicted was ended by {name_of(-code)}"
    if memory is not None:
        raise MemoryExhausted(f"{told}, most likely for want of memory: it was given {memory} MiB (--max-memory)")
    raise Crashed(told, -code)


@contextmanager
def within_bounds(*, memory: int | None, seconds: float | None) -> Iterator[None]:
    """Limit this process: its time within the block, its memory for good. By then all is imported and nothing loaded.

    Raises:
        ConfigError: So little memory is too little.
    """
    if seconds is not None:
        limit_time(seconds)
    if memory is not None:
        limit_memory(memory, threads=available_cores() + _OWN_THREADS)
    try:
        yield
    finally:
        if seconds is not None:
            limit_time(None)  # an answer that is there is told
