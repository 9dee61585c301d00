"""Output to standard streams: escapes unprintable characters, and tolerates closed pipes."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from typing import TextIO

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
