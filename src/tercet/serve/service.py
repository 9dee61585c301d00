"""Processing of one request: read the uploads, decode them in threads, predict in batches, build the response."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tercet.config.deployment import MEBIBYTE, ServerLimits
from tercet.core.errors import TercetError
from tercet.data.decoding import Decoding
from tercet.inference.exported_model import ExportedModel
from tercet.serve.batching import Batcher, BatchItem, MemoryBudget, MemoryLease
from tercet.serve.errors import ClientDisconnected, Overloaded, RequestError
from tercet.serve.monitoring import Metrics
from tercet.serve.responses import ResponseBuilder
from tercet.serve.uploads import Receive, Upload, decode_upload, read_uploads


@dataclass
class RequestResult:
    """Predictions and errors of one request."""

    predictions: list[dict[str, Any]] = field(default_factory=list)
    """One JSON document per image; a failed image has `file` and `error` only."""
    errors: list[RequestError] = field(default_factory=list)
    log_fields: dict[str, Any] = field(default_factory=dict)


class Service:
    """The model with its queue, decoding threads and memory budget."""

    def __init__(self, model: ExportedModel, limits: ServerLimits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._responses = ResponseBuilder(model)
        self._decoding = Decoding.of_card(model.card)
        self._memory = MemoryBudget(limits.memory * MEBIBYTE)
        self._decoders = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="tercet-decoder")
        self.batcher = Batcher(model.run, limits, metrics)
        self.stopping = False
        """Whether new requests are rejected."""
        metrics.gauge("tercet_queue_images", "Images waiting, decoding or computing.", lambda: self.batcher.admitted)
        metrics.gauge("tercet_held_bytes", "Bytes of uploads and decoded images.", lambda: self._memory.held)

    @property
    def ready(self) -> bool:
        """Whether prediction requests are accepted."""
        return self.batcher.alive and not self.stopping

    def start(self) -> None:
        """Start the model thread."""
        self.batcher.start()

    def close(self) -> None:
        """Stop the threads; queued images are dropped."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self.batcher.stop()

    async def predict(self, headers: Mapping[str, str], receive: Receive) -> RequestResult:
        """Classify the images of one request; errors of single images are in the result.

        Raises:
            RequestError: The request as a whole is rejected.
            ClientDisconnected: The client closed the connection.
        """
        if not self.ready:
            raise Overloaded("the server is stopping", reason="stopping", close=True)
        if self.batcher.admitted >= self._limits.queue:  # reject before the body is read
            raise Overloaded("the queue is full: try again", reason="queue")
        with MemoryLease(self._memory) as lease:
            uploads = await read_uploads(receive, headers, self._limits, lease)
            self.batcher.admit(len(uploads))
            try:
                return await self._predict_in_time(uploads, receive)
            finally:
                self.batcher.release(len(uploads))

    async def _predict_in_time(self, uploads: Sequence[Upload], receive: Receive) -> RequestResult:
        """Predict; raise at the deadline or when the client disconnects."""
        result = RequestResult()
        prediction = asyncio.ensure_future(self._predict_all(uploads, result))
        disconnect = asyncio.ensure_future(receive())  # after the body, the only message is the disconnect
        try:
            await asyncio.wait(
                {prediction, disconnect}, timeout=self._limits.deadline, return_when=asyncio.FIRST_COMPLETED
            )
            if prediction.done():
                await prediction
                return result
            self._metrics.images("dropped", len(uploads))
            if disconnect.done():
                raise ClientDisconnected("the client closed the connection")
            raise Overloaded("timeout: no prediction before the deadline, try again", reason="deadline")
        finally:
            for task in (prediction, disconnect):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await prediction

    async def _predict_all(self, uploads: Sequence[Upload], result: RequestResult) -> None:
        failed: list[dict[str, Any]] = []
        outcomes = await asyncio.gather(*map(self._predict_one, uploads), return_exceptions=True)
        for upload, outcome in zip(uploads, outcomes, strict=True):
            if isinstance(outcome, BatchItem):
                result.predictions.append(self._responses.prediction(upload.name, outcome))
                continue
            if not isinstance(outcome, RequestError):
                raise outcome
            result.predictions.append({"file": upload.name, "error": str(outcome)})
            result.errors.append(outcome)
            digest = await asyncio.get_running_loop().run_in_executor(self._decoders, _digest, upload)
            failed.append({"sha256": digest, "bytes": len(upload.content), "reason": outcome.reason or str(outcome)})
        self._metrics.images("predicted", len(uploads) - len(failed))
        self._metrics.images("failed", len(failed))
        result.log_fields = {"images": len(uploads), **({"failed": failed} if failed else {})}

    async def _predict_one(self, upload: Upload) -> BatchItem:
        """Decode one upload and run the model on it."""
        try:
            with MemoryLease(self._memory) as lease:
                loop, decode = asyncio.get_running_loop(), partial(decode_upload, decoding=self._decoding)
                self.batcher.decoding += 1
                try:
                    pixels = await loop.run_in_executor(self._decoders, decode, upload, self._limits, lease)
                finally:
                    self.batcher.decoding -= 1
                return await self.batcher.predict(pixels)
        except RequestError:
            raise
        except MemoryError as error:  # raised by the decoder or the model
            raise Overloaded("the server is out of memory: try again", reason=str(error)) from error
        except TercetError as error:
            raise RequestError(422, "the model's output for this image is not finite", reason=str(error)) from error


def _digest(upload: Upload) -> str:
    return hashlib.sha256(upload.content).hexdigest()
