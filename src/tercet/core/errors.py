"""What can go wrong, as one small tree; each leaf knows the exit code of the command line.

    TercetError
    ├── ConfigError        2   an option, a key or a combination that cannot be (also ValueError)
    ├── DataError          3   files, tables, labels, splits (also ValueError)
    ├── ModelError         4   weights, bundles, checkpoints: corrupt, foreign, or not fitting (also ValueError)
    ├── StorageError       5   disk full, no permission, an output that exists (also OSError)
    ├── DivergedError      6   the loss is no longer finite (also ArithmeticError)
    ├── MemoryExhausted    7   the machine has no memory for this (also MemoryError)
    ├── Interrupted  130/143   Ctrl-C or SIGTERM, after the state was saved
    └── Crashed    128+signal  a process of ours died by a signal: native code, or the system for want of memory

A message says what, where, and what to do, in one line.
"""

from __future__ import annotations

from collections.abc import Iterable


class TercetError(Exception):
    """Base of every error that Tercet raises on purpose."""

    exit_code = 1


class ConfigError(TercetError, ValueError):
    """An option, a key or a combination of them that cannot be."""

    exit_code = 2


class DataError(TercetError, ValueError):
    """Images, tables, labels or splits that cannot be used as they are."""

    exit_code = 3


class ModelError(TercetError, ValueError):
    """Weights, bundles or checkpoints that are corrupt, foreign, or do not fit the network."""

    exit_code = 4


class StorageError(TercetError, OSError):
    """A disk that is full, a folder without permission, an output that already exists."""

    exit_code = 5


class DivergedError(TercetError, ArithmeticError):
    """A loss that is no longer finite."""

    exit_code = 6


class MemoryExhausted(TercetError, MemoryError):
    """A computation that does not fit this machine's memory."""

    exit_code = 7


class Interrupted(TercetError):
    """A signal ended the work; what was reached has been saved.

    `exit_code` is 128 + the signal's number: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Crashed(TercetError):
    """A process of ours was ended by a signal that nobody sent on purpose; `exit_code` is 128 + its number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def raise_problems(problems: Iterable[str | bool | None]) -> None:
    """Raise one `ConfigError` that lists every problem given; False and None are no problems."""
    found = [problem for problem in problems if isinstance(problem, str) and problem]
    if found:
        raise ConfigError("; ".join(found))


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error, also one of native code, says that there is no memory."""
    text = str(error).lower()
    words = ("can't allocate memory", "out of memory", "failed to allocate", "bad_alloc", "bad allocation")
    return isinstance(error, MemoryError) or any(word in text for word in words)


def to_tercet_error(error: Exception) -> TercetError | None:
    """Return what an error of the system means for the user, or None for a fault of our own.

    PyTorch reports exhausted memory on the CPU as a RuntimeError, and a full disk likewise.
    """
    if isinstance(error, TercetError):
        return error
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if is_out_of_memory(error):
        return MemoryExhausted(
            f"not enough memory ({text}): use a smaller --batch-size, --micro-batches 2 or --input.size"
        )
    if isinstance(error, OSError):
        return StorageError(f"{error.strerror or text}: {error.filename}" if error.filename else text)
    return None
