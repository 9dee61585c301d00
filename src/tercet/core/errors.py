"""Exceptions, each with its exit code on the command line.

    TercetError
    ├── ConfigError        2   invalid option, key, or combination of options (also ValueError)
    ├── DataError          3   invalid images, tables, labels or splits (also ValueError)
    ├── ModelError         4   corrupt, unknown or mismatched weights, bundles or checkpoints (also ValueError)
    ├── StorageError       5   disk full, no permission, output exists (also OSError)
    ├── DivergedError      6   the loss is not finite (also ArithmeticError)
    ├── MemoryExhausted    7   out of memory (also MemoryError)
    ├── PartError          8   a network, loss, callback, ... of the caller's raised an exception
    ├── Interrupted  130/143   Ctrl-C or SIGTERM; the state is saved
    └── Crashed    128+signal  a child process was killed by a signal: crash of native code, or out of memory

Messages are one line: what is wrong, where, and what to do; errors about several members have a line for each.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class TercetError(Exception):
    """Base of every error that Tercet raises on purpose."""

    exit_code = 1


class Problem(str):
    """The text of a problem, with the names of the configuration fields that it concerns."""

    fields: tuple[str, ...]

    def __new__(cls, text: str, *fields: str) -> Problem:
        """Create a problem about the given fields."""
        problem = super().__new__(cls, text)
        problem.fields = fields
        return problem


class ConfigError(TercetError, ValueError):
    """Invalid option, key, or combination of options."""

    exit_code = 2

    def __init__(self, message: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or (Problem(message),)


class DataError(TercetError, ValueError):
    """Invalid images, tables, labels or splits."""

    exit_code = 3


class ModelError(TercetError, ValueError):
    """Weights, bundles or checkpoints that are missing, corrupt, of an unknown format, or do not match the network."""

    exit_code = 4

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or (message,)
        """The lines to print; most errors have one."""


class StorageError(TercetError, OSError):
    """Full disk, missing permission, or existing output."""

    exit_code = 5


class DivergedError(TercetError, ArithmeticError):
    """The loss is not finite."""

    exit_code = 6


class MemoryExhausted(TercetError, MemoryError):
    """Out of memory."""

    exit_code = 7


class PartError(TercetError):
    """A network, loss, callback or other part of the caller's raised an exception, or returned an unusable value."""

    exit_code = 8


class Interrupted(TercetError):
    """A signal stopped the work after the state was saved.

    `exit_code` is 128 + signal number: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Crashed(TercetError):
    """A child process was killed by a signal that no user sent; `exit_code` is 128 + signal number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Terminated(KeyboardInterrupt):
    """SIGTERM. Derives from KeyboardInterrupt so that `except Exception` does not catch it."""


def to_interrupted(stop: KeyboardInterrupt, saved: str) -> Interrupted:
    """Return the error for a signal that arrived outside a training."""
    number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
    return stopped_by(number, saved)


def stopped_by(number: int, saved: str) -> Interrupted:
    """Return the error for a signal; `saved` is what the message says of the saved state."""
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    return Interrupted(f"stopped by {name}: {saved}", number)


def raise_problems(problems: Iterable[str | bool | None], *, separator: str = "; ") -> None:
    """Raise one `ConfigError` that lists all problems once; False, None and '' are ignored."""
    texts = list(dict.fromkeys(text for text in problems if isinstance(text, str) and text))
    if texts:
        raise ConfigError(
            separator.join(texts), tuple(item if isinstance(item, Problem) else Problem(item) for item in texts)
        )


def problems_of(check: Callable[[], object], *fields: str) -> list[Problem]:
    """Return the problems for which a check raises `ConfigError`; they concern the given fields."""
    try:
        check()
    except ConfigError as error:
        return [Problem(text, *fields) for text in error.problems]
    return []


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error, also from native code, means out of memory."""
    text = str(error).lower()
    phrases = ("can't allocate memory", "out of memory", "failed to allocate", "bad_alloc", "bad allocation")
    return isinstance(error, MemoryError) or any(phrase in text for phrase in phrases)


def to_tercet_error(error: Exception) -> TercetError | None:
    """Convert a system error to a `TercetError`; None for unexpected errors (bugs).

    PyTorch raises RuntimeError if the CPU runs out of memory.
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


def describe_result(value: object) -> str:
    """Return type and shape of what a part of the caller's returned, for messages."""
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__} of shape {tuple(shape)}" if shape is not None else f"{type(value).__name__}"


@contextmanager
def naming_part(part: str) -> Iterator[None]:
    """Turn an exception within the block into a `PartError` that names the part, with the exception as its cause.

    Args:
        part: Kind and name, such as "loss 'focal'".
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, TercetError) or is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()
        raise PartError(f"{part} raised {type(error).__name__}{f': {reason[0]}' if reason else ''}") from error
