"""Numbers about the work, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text that `Metrics.text` returns."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server; labels come from lists of ours, never from what a client sent.

    Args:
        restarts: How often the server died and was started again; all other numbers begin anew then.
    """

    def __init__(self, *, restarts: int = 0) -> None:
        self.registry = CollectorRegistry()
        made = self.registry
        ProcessCollector(registry=made)
        self._requests = Counter("tercet_requests", "Answered requests.", ["path", "status"], registry=made)
        self._seconds = Histogram(
            "tercet_request_seconds",
            "From a request's headers to its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=made,
        )
        self._images = Counter("tercet_images", "Images by what became of them.", ["outcome"], registry=made)
        self._batches = Histogram("tercet_batch_size", "Images computed at once.", buckets=_SIZES, registry=made)
        self._model = Histogram("tercet_model_seconds", "One batch in the model.", buckets=_SECONDS, registry=made)
        Counter("tercet_restarts", "New starts after the server died.", registry=made).inc(restarts)
        for outcome in ("answered", "refused", "dropped"):
            self._images.labels(outcome)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a number that is read when it is asked for."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def images(self, outcome: str, count: int = 1) -> None:
        """Count images: `answered`, `refused`, or `dropped` because of time, room or a client that left."""
        self._images.labels(outcome).inc(count)

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self._batches.observe(size)
        self._model.observe(seconds)

    def text(self) -> bytes:
        """Return all numbers in Prometheus' text form."""
        return generate_latest(self.registry)
