"""`tercet benchmark`: latency and throughput of models, from decoded images to probabilities.

A bundle computes its members one after the other in eager PyTorch; an exported file runs in onnxruntime, or as a
program in PyTorch. All start from the same uint8 images and include preprocessing. Models take turns, so that other
load on the machine affects all of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tercet.core.errors import raise_problems
from tercet.core.resource_limits import available_cores
from tercet.inference.predictor import Predictor, model_label, open_predictor
from tercet.metrics.table import Table

BATCHES = (1, 8, 32)
_WARM_UP, _MIN_RUNS = 2, 5


@dataclass(frozen=True)
class Latency:
    """Latency of one model at one batch size."""

    runtime: str
    """onnxruntime, PyTorch (exported), or PyTorch (eager)."""
    model: str
    """Path of the model."""
    batch: int
    """Images per batch."""
    threads: int
    """Threads per batch."""
    p50: float
    """Median latency of a batch, in milliseconds."""
    p95: float
    """95th percentile of the latency, in milliseconds."""
    images_per_second: float
    """At the median latency."""
    answers: int
    """Number of timed batches."""


@dataclass(frozen=True)
class BenchmarkResult:
    """Result of a benchmark."""

    size: tuple[int, int]
    """Height and width of the images."""
    rows: tuple[Latency, ...]
    """One row per model and batch size."""

    def to_text(self) -> str:
        """Return a table in plain text."""
        header = ("runtime", "model", "threads", "batch", "p50 ms", "p95 ms", "images/s")
        rows = []
        for row in self.rows:
            numbers = f"{row.p50:.2f}", f"{row.p95:.2f}", f"{row.images_per_second:.1f}"
            rows.append((row.runtime, row.model, f"{row.threads}", f"{row.batch}", *numbers))
        title = f"images of {self.size[0]} x {self.size[1]} pixels, from bytes to probabilities"
        return Table(header, rows, "llrrrrr", title).to_text()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"size": list(self.size), "rows": [asdict(row) for row in self.rows]}


def benchmark(
    models: Sequence[str | Path | Predictor],
    *,
    threads: int | None = None,
    seconds: float = 3.0,
    size: tuple[int, int] | None = None,
    batches: Sequence[int] = BATCHES,
) -> BenchmarkResult:
    """Measure latency and throughput of models, round-robin.

    Args:
        models: Exported files, folders of bundles or runs, and loaded models.
        threads: Threads per batch (default: one per core).
        seconds: Time per model and batch size.
        size: Height and width of the images (default: the input size of the first model's first member).
        batches: Batch sizes.

    Raises:
        ConfigError: A number is not positive.
        ModelError: A model is neither an exported file nor a bundle.
    """
    raise_problems(
        [
            not seconds > 0 and f"seconds {seconds} must be positive",
            min([threads or 1, *batches, *(size or (1, 1))]) < 1 and "threads, batches and size must be positive",
        ]
    )
    num_threads = threads or available_cores()
    loaded = [(model_label(model), open_predictor(model, threads=num_threads)) for model in models]
    shape = size or loaded[0][1].input_size
    by_batch = [measure(loaded, batch, threads=num_threads, seconds=seconds, size=shape) for batch in sorted(batches)]
    return BenchmarkResult(shape, tuple(row for rows in zip(*by_batch, strict=True) for row in rows))


def measure(
    models: Sequence[tuple[str, Predictor]], batch: int, *, threads: int, seconds: float, size: tuple[int, int]
) -> list[Latency]:
    """Time all models round-robin at one batch size.

    Args:
        models: Names and loaded models.
        batch: Images per batch.
        threads: Threads of PyTorch; those of an ONNX file are fixed when it is loaded.
        seconds: Time per model.
        size: Height and width of the images.
    """
    images = np.random.default_rng(0).integers(0, 256, (batch, *size, 3), dtype=np.uint8)
    times: list[list[float]] = [[] for _ in models]
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _, model in models:
            for _ in range(_WARM_UP):
                model.run(images)
        end = time.perf_counter() + seconds * len(models)
        while len(times[0]) < _MIN_RUNS or time.perf_counter() < end:
            for (_, model), milliseconds in zip(models, times, strict=True):
                start = time.perf_counter()
                model.run(images)
                milliseconds.append(1000 * (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads_before)
    rows = []
    for (name, model), milliseconds in zip(models, times, strict=True):
        p50, p95 = (float(value) for value in np.percentile(milliseconds, (50, 95)))
        rows.append(Latency(model.runtime, name, batch, threads, p50, p95, 1000 * batch / p50, len(milliseconds)))
    return rows
