"""Dynamic batching of requests within a memory limit."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tercet.config.deployment import ServerLimits
from tercet.core.errors import TercetError
from tercet.inference.exported_model import ModelOutput
from tercet.serve.errors import Overloaded


@dataclass(frozen=True)
class BatchItem:
    """Output of the model for one image: row `index` of a batch."""

    output: ModelOutput
    index: int
    size: tuple[int, int]
    """Height and width of the image."""


class BatchObserver(Protocol):
    """Receives batch statistics."""

    def batch(self, size: int, seconds: float) -> None:
        """Called after every batch."""


@dataclass(eq=False)
class BatchJob:
    """An image that waits for the model."""

    pixels: NDArray[np.uint8]
    future: asyncio.Future[BatchItem]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """The queue, and the one thread that runs the model.

    Args:
        run: The model: images B H W 3 to its output.
        limits: Queue length, batch size and batch time.
        observer: Called after every batch.
    """

    def __init__(
        self, run: Callable[[NDArray[np.uint8]], ModelOutput], limits: ServerLimits, observer: BatchObserver
    ) -> None:
        self._run, self._limits, self._observer = run, limits, observer
        self._queue: deque[BatchJob] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._seconds_per_image = 0.0  # moving average
        self._thread = threading.Thread(target=self._work, name="tercet-model", daemon=True)
        self.admitted = 0
        """Images with a queue slot; changed by the event loop only, like `decoding`."""
        self.decoding = 0
        """Images that are being decoded and will be queued soon."""

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Number of queued images."""
        return len(self._queue)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after the current batch."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout=self._limits.grace)

    def admit(self, count: int) -> None:
        """Reserve queue slots; `release` must follow.

        Raises:
            Overloaded: The queue is full.
        """
        if self.admitted + count > self._limits.queue:
            raise Overloaded("the queue is full: try again", reason="queue")
        self.admitted += count

    def release(self, count: int) -> None:
        """Free queue slots."""
        self.admitted -= count

    async def predict(self, pixels: NDArray[np.uint8]) -> BatchItem:
        """Run the model on one admitted image (H W 3); cancellation removes it from the queue.

        Raises:
            TercetError: The model fails on this image.
        """
        job = BatchJob(pixels, asyncio.get_running_loop().create_future())
        with self._changed:
            self._queue.append(job)
            self._changed.notify()
        return await job.future

    # ------------------------------------------------------------------------------------------ in the thread

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            if batch:
                self._compute(batch)

    def _next_batch(self) -> list[BatchJob] | None:
        """Wait for jobs and return a batch, which may be empty; None when stopping."""
        with self._changed:
            while not self._queue and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            end = self._queue[0].since + self._limits.batch_wait / 1000
            while self._should_wait() and (remaining := end - time.monotonic()) > 0:
                self._changed.wait(remaining)
            return self._take_batch()

    def _should_wait(self) -> bool:
        return not self._stopping and self.decoding > 0 and len(self._queue) < self._max_batch()

    def _take_batch(self) -> list[BatchJob]:
        """Remove the oldest job and others of its shape from the queue; drop cancelled jobs."""
        batch: list[BatchJob] = []
        rest: deque[BatchJob] = deque()
        limit = self._max_batch()
        for job in self._queue:
            if job.future.cancelled():
                continue
            if not batch:
                height, width = job.pixels.shape[:2]
                limit = max(1, min(limit, self._limits.max_pixels // (height * width)))
            if len(batch) < limit and (not batch or job.pixels.shape == batch[0].pixels.shape):
                batch.append(job)
            else:
                rest.append(job)
        self._queue = rest
        return batch

    def _max_batch(self) -> int:
        """Return the batch size that fits into `batch_time` at the measured speed."""
        maximum = self._limits.max_batch
        if not self._seconds_per_image:
            return maximum
        return min(maximum, max(1, int(self._limits.batch_time / 1000 / self._seconds_per_image)))

    def _compute(self, batch: Sequence[BatchJob]) -> None:
        start = time.perf_counter()
        try:
            output = self._run(np.stack([job.pixels for job in batch]))
        except Exception as error:
            self._fail(batch, error)
            return
        seconds = time.perf_counter() - start
        latest = seconds / len(batch)
        self._seconds_per_image = (
            latest if not self._seconds_per_image else 0.8 * self._seconds_per_image + 0.2 * latest
        )
        self._observer.batch(len(batch), seconds)
        height, width = batch[0].pixels.shape[:2]
        self._send([(job, BatchItem(output, index, (height, width))) for index, job in enumerate(batch)])

    def _fail(self, batch: Sequence[BatchJob], error: Exception) -> None:
        """Return the error to the callers; a failed batch is repeated image by image to find the faulty one."""
        if isinstance(error, TercetError) and len(batch) > 1:
            for job in batch:
                self._compute([job])
        else:
            self._send([(job, error) for job in batch])

    @staticmethod
    def _send(results: Sequence[tuple[BatchJob, BatchItem | Exception]]) -> None:
        """Set the futures in the event loop."""
        try:
            results[0][0].future.get_loop().call_soon_threadsafe(_set_futures, results)
        except RuntimeError:  # the event loop is closed
            return


def _set_futures(results: Sequence[tuple[BatchJob, BatchItem | Exception]]) -> None:
    for job, result in results:
        if job.future.done():
            continue
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)


class MemoryBudget:
    """Bytes that all `MemoryLease`s together may hold."""

    def __init__(self, total: int) -> None:
        self.total, self.held = total, 0
        self.lock = threading.Lock()


class MemoryLease:
    """Share of the budget held by one request or one image, released at the end of the block."""

    def __init__(self, memory: MemoryBudget) -> None:
        self._memory, self.held, self._closed = memory, 0, False

    def resize(self, count: int) -> None:
        """Hold `count` bytes instead of the current number.

        Raises:
            Overloaded: The budget is exhausted, or the lease is closed: a decoding thread may outlive its client.
        """
        with self._memory.lock:
            more = count - self.held
            if self._closed or (more > 0 and self._memory.held + more > self._memory.total):
                raise Overloaded("the server is out of memory for images: try again", reason="memory", close=True)
            self._memory.held += more
            self.held = count

    def close(self) -> None:
        """Release everything; later calls of `resize` raise."""
        with self._memory.lock:
            self._memory.held -= self.held
            self.held, self._closed = 0, True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
