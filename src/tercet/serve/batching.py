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
from tercet.serve.errors import Overloaded
from tercet.serve.model import ServedOutput


@dataclass(frozen=True)
class BatchItem:
    """What the model said of one image: row `index` of a batch."""

    output: ServedOutput
    index: int
    size: tuple[int, int]
    """Height and width of the image."""


class BatchObserver(Protocol):
    """Who is told of the batches, for the metrics."""

    def batch(self, size: int, seconds: float) -> None:
        """A batch was computed."""


@dataclass(eq=False)
class BatchJob:
    """An image that waits for the model."""

    pixels: NDArray[np.uint8]
    future: asyncio.Future[BatchItem]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """One thread that runs the model, and the queue before it.

    Args:
        run: The model: B H W 3 to its output.
        limits: How many images may wait, and be computed at once.
        watcher: Is told of every batch.
    """

    def __init__(
        self, run: Callable[[NDArray[np.uint8]], ServedOutput], limits: ServerLimits, watcher: BatchObserver
    ) -> None:
        self._run, self._limits, self._watcher = run, limits, watcher
        self._queue: deque[BatchJob] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._each = 0.0  # seconds an image, lately
        self._thread = threading.Thread(target=self._work, name="tercet-model", daemon=True)
        self.admitted = 0
        """Images that have a place; changed by the event loop only, as is `coming`."""
        self.coming = 0
        """Images that are being decoded, and will wait here soon."""

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """How many images wait."""
        return len(self._queue)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the batch that it is at."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout=self._limits.grace)

    def admit(self, count: int) -> None:
        """Give `count` images a place; `leave` must follow.

        Raises:
            Busy: There is none.
        """
        if self.admitted + count > self._limits.queue:
            raise Overloaded("the server is busy: try again", reason="queue")
        self.admitted += count

    def leave(self, count: int) -> None:
        """Give the places of images back."""
        self.admitted -= count

    async def answer(self, pixels: NDArray[np.uint8]) -> BatchItem:
        """Return what the model says of one admitted image, H W 3; cancelling takes it out of the queue.

        Raises:
            TercetError: The model has no answer for it.
        """
        job = BatchJob(pixels, asyncio.get_running_loop().create_future())
        with self._changed:
            self._queue.append(job)
            self._changed.notify()
        return await job.future

    # ------------------------------------------------------------------------------------------ in the thread

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            if batch:
                self._compute(batch)

    def _next(self) -> list[BatchJob] | None:
        """Wait for work and return it; None when it is over."""
        with self._changed:
            while not self._queue and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            latest = self._queue[0].since + self._limits.batch_wait / 1000
            while self._more_to_come() and (left := latest - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._take()

    def _more_to_come(self) -> bool:
        return not self._stopping and self.coming > 0 and len(self._queue) < self._room()

    def _take(self) -> list[BatchJob]:
        """Take the oldest job and those of its shape out of the queue; forget those nobody waits for."""
        batch: list[BatchJob] = []
        rest: deque[BatchJob] = deque()
        room = self._room()
        for job in self._queue:
            if job.future.cancelled():
                continue
            if not batch:
                height, width = job.pixels.shape[:2]
                room = max(1, min(room, self._limits.max_pixels // (height * width)))
            if len(batch) < room and (not batch or job.pixels.shape == batch[0].pixels.shape):
                batch.append(job)
            else:
                rest.append(job)
        self._queue = rest
        return batch

    def _room(self) -> int:
        """Return how many images the model may see at once; who comes next should not wait too long for them."""
        allowed = self._limits.max_batch
        return min(allowed, max(1, int(self._limits.batch_time / 1000 / self._each))) if self._each else allowed

    def _compute(self, batch: Sequence[BatchJob]) -> None:
        start = time.perf_counter()
        try:
            output = self._run(np.stack([job.pixels for job in batch]))
        except Exception as error:
            self._fail(batch, error)
            return
        taken = time.perf_counter() - start
        latest = taken / len(batch)
        self._each = latest if not self._each else 0.8 * self._each + 0.2 * latest
        self._watcher.batch(len(batch), taken)
        height, width = batch[0].pixels.shape[:2]
        self._tell(batch[0], [(job, BatchItem(output, index, (height, width))) for index, job in enumerate(batch)])

    def _fail(self, batch: Sequence[BatchJob], error: Exception) -> None:
        """Tell who asked; where several images were computed at once, find the one that is at fault."""
        if isinstance(error, TercetError) and len(batch) > 1:
            for job in batch:
                self._compute([job])
        else:
            self._tell(batch[0], [(job, error) for job in batch])

    @staticmethod
    def _tell(first: BatchJob, results: Sequence[tuple[BatchJob, BatchItem | Exception]]) -> None:
        try:
            first.future.get_loop().call_soon_threadsafe(_deliver, results)
        except RuntimeError:  # the event loop has ended: nobody is left to be told
            return


def _deliver(results: Sequence[tuple[BatchJob, BatchItem | Exception]]) -> None:
    for job, result in results:
        if job.future.done():
            continue
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)


class MemoryBudget:
    """Bytes that may be held at once.

    Args:
        total: The budget.
    """

    def __init__(self, total: int) -> None:
        self.total, self.held = total, 0
        self.lock = threading.Lock()


class MemoryLease:
    """What one request, or one image, holds of the budget; given back at the end of the block.

    Args:
        memory: The budget.
    """

    def __init__(self, memory: MemoryBudget) -> None:
        self._memory, self.held, self._closed = memory, 0, False

    def resize(self, count: int) -> None:
        """Hold `count` bytes from now on.

        Raises:
            Busy: They are not there at the moment, or the lease has ended: a thread may still be at work for a client
                that has left.
        """
        with self._memory.lock:
            more = count - self.held
            if self._closed or (more > 0 and self._memory.held + more > self._memory.total):
                raise Overloaded("the server is busy: try again", reason="memory", close=True)
            self._memory.held += more
            self.held = count

    def close(self) -> None:
        """Give everything back, for good."""
        with self._memory.lock:
            self._memory.held -= self.held
            self.held, self._closed = 0, True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
