"""Prometheus metrics of the server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

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
