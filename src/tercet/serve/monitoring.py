"""Access log (JSON lines) and Prometheus metrics."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from tercet.core.output import SafeStream

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


CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of `Metrics.text`."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Metrics of one server process. Label values are fixed and never come from a client.

    Args:
        restarts: Restarts after a crash; all other metrics start from zero.
    """

    def __init__(self, *, restarts: int = 0) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        self._requests = Counter("tercet_requests", "Requests.", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "tercet_request_seconds",
            "Time from the headers of a request to its response.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._images = Counter("tercet_images", "Images by outcome.", ["outcome"], registry=registry)
        self._batches = Histogram("tercet_batch_size", "Images per batch.", buckets=_SIZES, registry=registry)
        self._model = Histogram("tercet_model_seconds", "Model time per batch.", buckets=_SECONDS, registry=registry)
        Counter("tercet_restarts", "Restarts after a crash.", registry=registry).inc(restarts)
        for outcome in ("predicted", "failed", "dropped"):
            self._images.labels(outcome)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that calls `read` on every scrape."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def images(self, outcome: str, count: int = 1) -> None:
        """Count images: `predicted`, `failed`, or `dropped` (timeout or client disconnected)."""
        self._images.labels(outcome).inc(count)

    def batch(self, size: int, seconds: float) -> None:
        """Record a batch."""
        self._batches.observe(size)
        self._model.observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus text format."""
        return generate_latest(self.registry)


LIBRARY_LEVELS = {
    "uvicorn": logging.ERROR,
    "fastapi": logging.WARNING,
    "asyncio": logging.WARNING,
    "python_multipart": logging.CRITICAL,
}
"""Log levels of libraries; invalid input of clients is logged by the server itself."""


def redirect_logs(log: AccessLog) -> AccessLogHandler:
    """Send the records of libraries to the log, and nowhere else."""
    handler = AccessLogHandler(log)
    for library in LIBRARY_LEVELS:
        logger = logging.getLogger(library)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(LIBRARY_LEVELS[library])
    return handler
