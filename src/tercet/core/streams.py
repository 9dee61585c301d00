"""Standard output and error: names cannot break a line, and a reader that has gone ends no work."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from typing import TextIO

Stream = TextIO | io.TextIOBase


def printable(text: str) -> str:
    """Return `text` with everything that is not printable escaped: a file name cannot move the cursor."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def write(stream: Stream, text: str) -> None:
    """Write text whose file names may hold what the stream's encoding cannot.

    Raises:
        BrokenPipeError: The reader has gone.
        OSError: The disk behind the stream is full.
    """
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError:
        _discard(stream)
        raise


def _discard(stream: Stream) -> None:
    """Send what is still to be written nowhere, or the interpreter would stumble over it when it ends."""
    with suppress(OSError):  # the streams of a notebook have no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class SafeStream(io.TextIOBase):
    """A stream for progress and complaints, which must not end a training when they cannot be written.

    Args:
        stream: Where to write while that is possible.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's own."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Tell whether a terminal is behind it."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write at once, or not at all."""
        with suppress(OSError):
            write(self._stream, text)
        return len(text)

    def flush(self) -> None:
        """Nothing waits: `write` has flushed."""
