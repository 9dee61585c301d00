"""One line of JSON an event on standard error, written by a thread so that a slow reader never holds up an answer."""

from __future__ import annotations

import json
import logging
import queue
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

from tercet.core.streams import SafeStream

_WAITING_LINES = 10_000
_LONGEST = 300
_A_SECOND = 20  # lines of libraries


class AccessLog:
    """Writes events; what a client sent is in them only escaped and cut short. Lines that find no room are dropped.

    Args:
        stream: Where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = SafeStream(stream)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # its `put` may interrupt itself
        self._thread = threading.Thread(target=self._write, name="tercet-journal", daemon=True)
        self._thread.start()

    def tell(self, event: str, **values: Any) -> None:
        """Write an event; texts are escaped by JSON down to ASCII."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        short = {key: value[:_LONGEST] if isinstance(value, str) else value for key, value in values.items()}
        if self._lines.qsize() < _WAITING_LINES:
            self._lines.put(json.dumps({"time": now, "event": event, **short}, default=str) + "\n")

    def close(self) -> None:
        """Write what waits, and end."""
        self._lines.put(None)
        self._thread.join(timeout=1)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            self._stream.write(line)


class AccessLogHandler(logging.Handler):
    """Sends what libraries log to a journal, as the event `library`.

    Args:
        journal: Where to.
    """

    def __init__(self, journal: AccessLog) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal
        self._second, self._told = 0, 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, with the last line of its traceback where it has one; only so many a second."""
        if self._second != int(record.created):
            self._second, self._told = int(record.created), 0
        self._told += 1
        if self._told > _A_SECOND:
            return
        error = record.exc_info[1] if record.exc_info else None
        values = {} if error is None else {"error": repr(error)}
        self._journal.tell("library", level=record.levelname, logger=record.name, message=record.getMessage(), **values)
