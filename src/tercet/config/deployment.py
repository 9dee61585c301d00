"""Limits of the server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from tercet.config.fields import Config, bounded
from tercet.core.errors import Problem

MEBIBYTE = 2**20
DECODING_BYTES = 24
"""Peak memory per pixel while decoding (WebP; below 17 for the other formats)."""
DECODED_BYTES = 3
"""Memory per pixel of a decoded image."""


@dataclass(frozen=True)
class ServerLimits(Config):
    """Limits on uploads, memory, queue, batches and time."""

    section: ClassVar[str] = "limits"
    max_upload: int = bounded(32, above=0)
    """Maximum size of a request body in MiB."""
    max_images: int = bounded(32, above=0)
    """Maximum number of images per request."""
    max_pixels: int = bounded(25_000_000, above=0)
    """Maximum image size in pixels, checked in the file header before decoding."""
    memory: int = bounded(640, above=0)
    """Maximum memory of uploads and decoded images in MiB; requests beyond it get status 503."""
    queue: int = bounded(64, above=0)
    """Maximum number of images in progress (decoding, waiting, computing); requests beyond it get status 503."""
    max_batch: int = bounded(32, above=0)
    """Maximum batch size; all images of a batch have the same height and width."""
    batch_time: float = bounded(100.0, above=0)
    """Target time per batch in milliseconds; slow models get smaller batches."""
    batch_wait: float = bounded(2.0, least=0)
    """Maximum time in milliseconds that an image waits for other uploads to fill its batch."""
    deadline: float = bounded(10.0, above=0)
    """Maximum time in seconds from a received request to its response; after it, the request is dropped."""
    receive_timeout: float = bounded(15.0, above=0)
    """Maximum time in seconds to receive a request, and to send its response."""
    keep_alive: float = bounded(5.0, above=0)
    """Seconds before an idle connection is closed."""
    grace: float = bounded(10.0, least=0)
    """Seconds to finish running requests after SIGTERM."""
    connections: int = bounded(20_000, above=0)
    """Maximum number of open connections; further ones get status 503."""

    def _rules(self) -> Iterable[Problem]:
        required = (self.max_pixels * DECODING_BYTES + self.max_upload * MEBIBYTE) // MEBIBYTE + 1
        if self.memory < required:
            text = f"is too small: one upload and one image can take {required} MiB"
            yield Problem(self.problem("memory", text), "memory", "max_pixels", "max_upload")
        if self.queue < self.max_images:
            text = f"must be at least limits.max_images {self.max_images}"
            yield Problem(self.problem("queue", text), "queue", "max_images")

    @property
    def upload_bytes(self) -> int:
        """Maximum size of a request body in bytes."""
        return self.max_upload * MEBIBYTE
