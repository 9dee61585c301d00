"""Output of commands: results, and standard streams that tolerate closed pipes."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO


@dataclass(frozen=True, repr=False)
class CommandResult:
    """Result of a command, as text and as a JSON document."""

    text: str
    document: Any
    exit_code: int = 0
    silent: bool = False
    """Whether a child process has already printed the result."""

    def __repr__(self) -> str:
        return self.text.rstrip()  # the table itself, where a notebook or the interpreter displays the result

    @classmethod
    def from_exit_code(cls, exit_code: int) -> CommandResult:
        """Return the result of a command that ran in a child process."""
        return cls("", None, exit_code, silent=True)


def join_few(items: Sequence[object], separator: str = ", ", *, limit: int = 5) -> str:
    """Return the first items as text, with an ellipsis if there are more."""
    return separator.join(map(str, items[:limit])) + (f"{separator}..." if len(items) > limit else "")


Stream = TextIO | io.TextIOBase


def printable(text: str) -> str:
    """Return `text` with unprintable characters escaped, so that file names cannot contain control sequences."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def write(stream: Stream, text: str) -> None:
    """Write and flush text; characters that the encoding lacks are escaped.

    Raises:
        BrokenPipeError: The reader has closed the pipe.
        OSError: The disk is full.
    """
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError:
        _discard(stream)
        raise


def _discard(stream: Stream) -> None:
    """Redirect the stream to the null device; else the interpreter fails to flush it at exit."""
    with suppress(OSError):  # streams of notebooks have no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class SafeStream(io.TextIOBase):
    """Stream for progress and warnings that ignores write errors, so that they cannot stop a training.

    Args:
        stream: The underlying stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Encoding of the underlying stream."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Return whether the underlying stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor of the underlying stream."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write and flush; errors are ignored."""
        with suppress(OSError):
            write(self._stream, text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: `write` flushes."""


def count(value: int, noun: str) -> str:
    """Return a number with its noun in singular or plural."""
    return f"{value:,} {noun}{'' if value == 1 else 'es' if noun.endswith('s') else 's'}"
