"""Image sources without files: arrays, and the digests that a run recorded.

Shapes: N images, H x W pixels, C channels.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tercet.core.errors import DataError
from tercet.data.pixel_values import Pixels
from tercet.data.sources import digest_of


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images in memory; locations are indices, as text."""

    images: Pixels | Sequence[Pixels]
    """N H W C, or N arrays H W C of different sizes."""

    def pixels(self, location: str, *, max_pixels: int) -> Pixels:
        """Return one image."""
        return np.asarray(self.images[int(location)])

    def checksum(self, location: str) -> int:
        """Return the CRC-32 of one image's pixels."""
        return zlib.crc32(self.images[int(location)].tobytes())

    def digest(self, location: str) -> bytes:
        """Return the digest of one image's pixels."""
        return digest_of(self.images[int(location)].tobytes())

    def describe(self) -> dict[str, str]:
        """Raise: an array exists in one process only; `ImageCache.save` shares it."""
        raise DataError("images in memory are not on disk: save the ImageCache instead")


@dataclass(frozen=True)
class DigestSource:
    """Source of a table read from a run: digests only, since the decoded images are in the run's image cache."""

    digests: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Digests by location."""

    def pixels(self, location: str, *, max_pixels: int) -> Pixels:
        """Raise a `DataError`."""
        raise DataError(f"the image {location} is in the run's image cache, not in its table")

    def checksum(self, location: str) -> int:
        """Raise a `DataError`."""
        raise DataError(f"the image {location} is in the run's image cache, not in its table")

    def digest(self, location: str) -> bytes:
        """Return the digest that the run recorded."""
        return self.digests[location]

    def describe(self) -> dict[str, str]:
        """Raise a `DataError`."""
        raise DataError("a table read from a run has no image source")
