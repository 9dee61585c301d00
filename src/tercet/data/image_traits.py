"""Traits that identify an image and its copies: a digest of the decoded pixels, and a downscaled grey image.

They are computed while the images are decoded, since images that do not fit in memory are decoded once per epoch.
N images, H x W pixels, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.config.run import DataConfig
from tercet.data.perceptual_hashes import SIDE, downscale
from tercet.data.pixel_values import Pixels
from tercet.data.sources import ImageSource

DIGEST_BYTES = 32
MAX_NEAR = 50_000
"""Images up to which near copies are searched by default: the search is quadratic, and takes seconds up to there."""
MIN_SIDE = 64
"""Height and width from which images are compared by perceptual hash: smaller images of similar objects are alike."""


def pixel_digest(pixels: Pixels) -> bytes:
    """Return the SHA-256 of the shape and the pixels H W C of an image; the same for grey images stored as RGB."""
    if pixels.shape[2] == 3 and _is_grey(pixels[:1]) and _is_grey(pixels):
        pixels = pixels[..., :1]
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _is_grey(pixels: Pixels) -> bool:
    return bool((pixels == pixels[..., :1]).all())


@dataclass(frozen=True)
class ImageTraits:
    """Traits of N images."""

    digests: tuple[bytes, ...]
    """N digests of the decoded pixels, see `pixel_digest`."""
    grey: Pixels
    """N SIDE SIDE, zero for an image smaller than `MIN_SIDE`; 0 SIDE SIDE if near copies are not searched."""

    @classmethod
    def of(cls, pixels: Pixels, *, near: bool) -> ImageTraits:
        """Return the traits of one image H W C (N = 1); `near`: with the downscaled image."""
        comparable = near and min(pixels.shape[:2]) >= MIN_SIDE
        grey = downscale(pixels) if comparable else np.zeros((SIDE, SIDE), dtype=np.uint8)
        return cls((pixel_digest(pixels),), grey[None][: int(near)])

    @classmethod
    def concatenate(cls, parts: Sequence[ImageTraits]) -> ImageTraits:
        """Return the traits of several images in order."""
        grey = [part.grey for part in parts] or [np.zeros((0, SIDE, SIDE), dtype=np.uint8)]
        return cls(tuple(digest for part in parts for digest in part.digests), np.concatenate(grey))

    def without_grey(self) -> ImageTraits:
        """Return the digests only."""
        return ImageTraits(self.digests, self.grey[:0])


def searches_near(config: DataConfig, size: int) -> bool:
    """Return whether near copies are searched among so many images."""
    return config.find_copies == "near" or (config.find_copies == "auto" and size <= MAX_NEAR)


def traits_of(images: Iterable[Pixels], *, near: bool) -> ImageTraits:
    """Return the traits of decoded images (H W C each); `near`: with downscaled images."""
    return ImageTraits.concatenate([ImageTraits.of(image, near=near) for image in images])


def decode_with_traits(
    source: ImageSource, *, max_pixels: int, near: bool
) -> Callable[[str], tuple[Pixels, ImageTraits]]:
    """Return a function that decodes the image at a location, and computes its traits in the same thread."""

    def read(location: str) -> tuple[Pixels, ImageTraits]:
        pixels = source.pixels(location, max_pixels=max_pixels)
        return pixels, ImageTraits.of(pixels, near=near)

    return read
