"""Structured log: one JSON line per event on standard error, written by a thread so that a slow reader cannot block."""

from __future__ import annotations

import json
import logging
import queue
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

from tercet.core.streams import SafeStream

_MAX_QUEUED_LINES = 10_000
_MAX_TEXT = 300
_MAX_LIBRARY_RECORDS = 20  # per second


class AccessLog:
    """Writes events to `stream`; drops lines while the queue is full.

    Client data is truncated and escaped to ASCII.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = SafeStream(stream)
        # `SimpleQueue.put` is reentrant, so that a signal handler may log too.
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="tercet-log", daemon=True)
        self._thread.start()

    def write(self, event: str, **values: Any) -> None:
        """Queue one event."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        short = {key: value[:_MAX_TEXT] if isinstance(value, str) else value for key, value in values.items()}
        if self._lines.qsize() < _MAX_QUEUED_LINES:
            self._lines.put(json.dumps({"time": now, "event": event, **short}, default=str) + "\n")

    def close(self) -> None:
        """Write the queued lines and stop the thread."""
        self._lines.put(None)
        self._thread.join(timeout=1)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            self._stream.write(line)


class AccessLogHandler(logging.Handler):
    """Writes warnings and errors of libraries as the event `library`, a limited number per second."""

    def __init__(self, log: AccessLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._second, self._count = 0, 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, with the exception but without its traceback."""
        if self._second != int(record.created):
            self._second, self._count = int(record.created), 0
        self._count += 1
        if self._count > _MAX_LIBRARY_RECORDS:
            return
        error = record.exc_info[1] if record.exc_info else None
        values = {} if error is None else {"error": repr(error)}
        self._log.write("library", level=record.levelname, logger=record.name, message=record.getMessage(), **values)
