"""What the server accepts, and how long it waits: every limit in one place."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.ground.errors import require

MEBIBYTE = 2**20
DECODING_BYTES = 24
"""Bytes a pixel that decoding may take at its worst (WebP; the others stay below 17)."""
DECODED_BYTES = 3
"""Bytes a pixel of an image that waits for the model."""


@dataclass(frozen=True)
class Limits:
    """What is refused, how many images may wait, and how long anything may take."""

    max_upload: int = 32
    """Largest request body, in MiB."""
    max_images: int = 32
    """Images in one request."""
    max_pixels: int = 25_000_000
    """Largest image, in pixels; told from its header before anything is decoded."""
    memory: int = 640
    """MiB that uploads and decoded images may take together; beyond it requests are sent away."""
    queue: int = 64
    """Images that may wait, be decoded or be computed at once; beyond it requests are sent away."""
    max_batch: int = 32
    """Images that the model sees at once, all of one height and width."""
    batch_time: float = 100.0
    """Milliseconds that the model should take at once; slower models see fewer images at once."""
    batch_wait: float = 2.0
    """Milliseconds that an image waits for others that are on their way; alone it never waits."""
    deadline: float = 10.0
    """Seconds from a whole request to its answer; then it is dropped."""
    receive_timeout: float = 15.0
    """Seconds in which a request must arrive, headers and body, and a client must take its answer."""
    keep_alive: float = 5.0
    """Seconds that a connection may stay open between requests."""
    grace: float = 10.0
    """Seconds that requests under way get after SIGTERM."""
    connections: int = 20_000
    """Open connections; beyond it new ones are sent away."""

    def __post_init__(self) -> None:
        numbers = vars(self)
        need = (self.max_pixels * DECODING_BYTES + self.max_upload * MEBIBYTE) // MEBIBYTE + 1
        require(
            [
                *(f"{name} {value} must be positive" for name, value in numbers.items() if not self._fits(name, value)),
                self.memory < need and f"memory {self.memory} is too small: one upload and one image may take {need}",
                self.queue < self.max_images and f"queue {self.queue} must hold max_images {self.max_images}",
            ]
        )

    @staticmethod
    def _fits(name: str, value: float) -> bool:
        return value >= 0 if name in ("batch_wait", "grace") else value > 0

    @property
    def upload_bytes(self) -> int:
        """Largest request body, in bytes."""
        return self.max_upload * MEBIBYTE
