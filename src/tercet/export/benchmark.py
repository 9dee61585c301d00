"""How fast a model answers: from decoded images to probabilities, by every road that there is.

A bundle computes its members one after the other in eager PyTorch; an exported file runs in onnxruntime, or is a
program that PyTorch computes. All begin with the same bytes and prepare them themselves. Where several are measured
they take turns, so that a busy machine slows all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from tercet.core.errors import raise_problems
from tercet.core.model_formats import Format, format_of
from tercet.core.resource_limits import available_cores
from tercet.data.input_batches import InputBatches
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.export.verification import ImageInput
from tercet.export.verify import load_file
from tercet.metrics.tables import as_text

BATCHES = (1, 8, 32)
_WARM_UP, _FEWEST = 2, 5
_RUNTIMES: dict[Format, str] = {"onnx": "onnxruntime", "torch": "PyTorch, exported"}

RunModel = Callable[[Sequence[ImageInput]], object]


@dataclass(frozen=True)
class BenchmarkModel:
    """One way to an answer."""

    runtime: str
    """onnxruntime, an exported program in PyTorch, or eager PyTorch with the members one after the other."""
    model: str
    """What answers."""
    ask: RunModel
    """Answers pictures of one size."""
    size: tuple[int, int]
    """Height and width of the images that it was made for."""


@dataclass(frozen=True)
class Latency:
    """One road with one number of images."""

    runtime: str
    """onnxruntime, an exported program in PyTorch, or eager PyTorch with the members one after the other."""
    model: str
    """What was measured."""
    batch: int
    """Images an answer."""
    threads: int
    """Threads an answer."""
    p50: float
    """Median latency of an answer, in milliseconds."""
    p95: float
    """95 of 100 answers take no longer."""
    images_per_second: float
    """At the median."""
    answers: int
    """How many were timed."""


@dataclass(frozen=True)
class BenchmarkResult:
    """What was measured."""

    size: tuple[int, int]
    """Height and width of the images."""
    rows: tuple[Latency, ...]
    """The measurements."""

    def to_text(self) -> str:
        """Return what people read."""
        table = Table(title=f"images of {self.size[0]} x {self.size[1]} pixels, from bytes to probabilities")
        for column in ("runtime", "model", "threads", "images", "p50 ms", "p95 ms", "images/s"):
            table.add_column(column, justify="left" if column in ("runtime", "model") else "right")
        for row in self.rows:
            numbers = f"{row.p50:.2f}", f"{row.p95:.2f}", f"{row.images_per_second:.1f}"
            table.add_row(row.runtime, row.model, str(row.threads), str(row.batch), *numbers)
        return as_text(table)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"size": list(self.size), "rows": [asdict(row) for row in self.rows]}


def benchmark(
    models: Sequence[str | Path],
    *,
    threads: int | None = None,
    seconds: float = 3.0,
    size: tuple[int, int] | None = None,
    batches: Sequence[int] = BATCHES,
) -> BenchmarkResult:
    """Measure latency and throughput of models, round-robin.

    Args:
        models: Exported files, bundles' folders, runs' folders.
        threads: Threads an answer (default: one a core).
        seconds: Time for each model and number of images.
        size: Height and width of the images (default: what the first member of the first model wants).
        batches: Numbers of images an answer.

    Raises:
        ConfigError: Numbers that cannot be.
        ModelError: One of them is neither an exported file nor a bundle.
    """
    raise_problems(
        [
            not seconds > 0 and f"seconds {seconds} must be positive",
            min([threads or 1, *batches, *(size or (1, 1))]) < 1 and "threads, batches and size must be positive",
        ]
    )
    used = threads or available_cores()
    roads = [load_model(model, used) for model in models]
    shape = size or roads[0].size
    found = [speed for batch in batches for speed in measure(roads, batch, threads=used, seconds=seconds, size=shape)]
    order = {road.model: place for place, road in enumerate(roads)}
    return BenchmarkResult(shape, tuple(sorted(found, key=lambda row: (order[row.model], row.batch))))


def load_model(model: str | Path, threads: int) -> BenchmarkModel:
    """Load a model.

    Raises:
        ModelError: It is neither an exported file nor a bundle.
    """
    form = format_of(model)
    if form is not None:
        file = load_file(model, threads=threads)
        height, width = file.metadata["members"][0].get("input", {}).get("size", (224, 224))
        return BenchmarkModel(
            _RUNTIMES[form], str(model), lambda pictures: file.run(np.stack(pictures)), (height, width)
        )
    bundle = load_bundle(model)
    return BenchmarkModel("PyTorch, eager", str(model), lambda pictures: _eager(bundle, pictures), bundle.specs[0].size)


def _eager(bundle: Bundle, pictures: Sequence[ImageInput]) -> object:
    return bundle.predict_batches(InputBatches(list(pictures), bundle.specs, batch_size=len(pictures)))


def measure(
    roads: Sequence[BenchmarkModel], batch: int, *, threads: int, seconds: float, size: tuple[int, int]
) -> list[Latency]:
    """Let every road answer in turns.

    Args:
        roads: What is measured.
        batch: Images an answer.
        threads: Of PyTorch; an ONNX file has its own since it was loaded.
        seconds: Time for each road.
        size: Height and width of the images.
    """
    pictures = list(np.random.default_rng(0).integers(0, 256, (batch, *size, 3), dtype=np.uint8))
    taken: list[list[float]] = [[] for _ in roads]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for road in roads:
            for _ in range(_WARM_UP):
                road.ask(pictures)
        end = time.perf_counter() + seconds * len(roads)
        while len(taken[0]) < _FEWEST or time.perf_counter() < end:
            for road, times in zip(roads, taken, strict=True):
                started = time.perf_counter()
                road.ask(pictures)
                times.append(1000 * (time.perf_counter() - started))
    finally:
        torch.set_num_threads(before)
    speeds = []
    for road, times in zip(roads, taken, strict=True):
        p50, p95 = (float(value) for value in np.percentile(times, (50, 95)))
        speeds.append(Latency(road.runtime, road.model, batch, threads, p50, p95, 1000 * batch / p50, len(times)))
    return speeds
