"""What happens to the images of one request: read, decoded beside the event loop, answered in a batch, told."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tercet.config.deployment import MEBIBYTE, ServerLimits
from tercet.core.errors import TercetError
from tercet.serve.batching import Batcher, BatchItem, MemoryBudget, MemoryLease
from tercet.serve.errors import ClientDisconnected, Overloaded, RequestError
from tercet.serve.metrics import Metrics
from tercet.serve.model import ServedModel
from tercet.serve.responses import ResponseBuilder
from tercet.serve.uploads import Receive, Upload, decode_upload, read_uploads


@dataclass
class RequestResult:
    """What one request gets, and what the journal says of it."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    failed: list[RequestError] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


class Service:
    """A model behind its queue.

    Args:
        model: Answers.
        limits: What is too much.
        metrics: Counts.
    """

    def __init__(self, model: ServedModel, limits: ServerLimits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._teller = ResponseBuilder(model)
        self._memory = MemoryBudget(limits.memory * MEBIBYTE)
        self._decoders = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="tercet-decoder")
        self.batcher = Batcher(model.run, limits, metrics)
        self.stopping = False
        """Whether no new work is taken."""
        metrics.gauge("tercet_queue_images", "Images that have a place.", lambda: self.batcher.admitted)
        metrics.gauge("tercet_held_bytes", "Bytes of uploads and decoded images.", lambda: self._memory.held)

    @property
    def ready(self) -> bool:
        """Whether images are answered."""
        return self.batcher.alive and not self.stopping

    def start(self) -> None:
        """Start the threads."""
        self.batcher.start()

    def close(self) -> None:
        """End the threads; what still waits is dropped."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self.batcher.stop()

    async def answer(self, headers: Mapping[str, str], receive: Receive) -> RequestResult:
        """Answer the images of one request; failures of single images are in the result.

        Raises:
            Refusal: The request as a whole gets no answer.
            Gone: The client left.
        """
        if not self.ready:
            raise Overloaded("the server is stopping", reason="stopping", close=True)
        if self.batcher.admitted >= self._limits.queue:  # told before the body is read
            raise Overloaded("the server is busy: try again", reason="queue")
        with MemoryLease(self._memory) as lease:
            uploads = await read_uploads(receive, headers, self._limits, lease)
            self.batcher.admit(len(uploads))
            try:
                return await self._in_time(uploads, receive)
            finally:
                self.batcher.leave(len(uploads))

    async def _in_time(self, uploads: Sequence[Upload], receive: Receive) -> RequestResult:
        """Do the work unless time runs out or the client leaves first."""
        told = RequestResult()
        work = asyncio.ensure_future(self._all(uploads, told))
        leaving = asyncio.ensure_future(receive())  # after the body only a client's end is received
        try:
            await asyncio.wait({work, leaving}, timeout=self._limits.deadline, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
                return told
            self._metrics.images("dropped", len(uploads))
            if leaving.done():
                raise ClientDisconnected("the client closed the connection")
            raise Overloaded("no answer in time: try again", reason="deadline")
        finally:
            for task in (work, leaving):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await work

    async def _all(self, uploads: Sequence[Upload], told: RequestResult) -> None:
        refused: list[dict[str, Any]] = []
        outcomes = await asyncio.gather(*(self._one(upload) for upload in uploads), return_exceptions=True)
        for upload, outcome in zip(uploads, outcomes, strict=True):
            if isinstance(outcome, BatchItem):
                told.answers.append(self._teller.tell(upload.name, outcome))
                continue
            if not isinstance(outcome, RequestError):
                raise outcome
            told.answers.append({"file": upload.name, "error": str(outcome)})
            told.failed.append(outcome)
            digest = await asyncio.get_running_loop().run_in_executor(self._decoders, _digest, upload)
            refused.append({"sha256": digest, "bytes": len(upload.content), "reason": outcome.reason or str(outcome)})
        self._metrics.images("answered", len(uploads) - len(refused))
        self._metrics.images("refused", len(refused))
        told.notes = {"images": len(uploads), **({"refused": refused} if refused else {})}

    async def _one(self, upload: Upload) -> BatchItem:
        """Return what the model says of one admitted image."""
        try:
            with MemoryLease(self._memory) as lease:
                loop = asyncio.get_running_loop()
                self.batcher.coming += 1
                try:
                    pixels = await loop.run_in_executor(self._decoders, decode_upload, upload, self._limits, lease)
                finally:
                    self.batcher.coming -= 1
                return await self.batcher.answer(pixels)
        except RequestError:
            raise
        except MemoryError as error:  # also the model's own
            raise Overloaded("the server is busy: try again", reason=str(error)) from error
        except TercetError as error:
            raise RequestError(422, "the model has no finite answer for this image", reason=str(error)) from error


def _digest(upload: Upload) -> str:
    return hashlib.sha256(upload.content).hexdigest()
