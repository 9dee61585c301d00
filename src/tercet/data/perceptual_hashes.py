"""Perceptual hashes of images in their eight orientations, and the downscaled grey images that they are computed from.

The hash of a downscaled image is the 64-bit pHash of the library imagehash: which of the 8 x 8 lowest coefficients of
its discrete cosine transform are above their median. N images, H x W pixels, C channels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tercet.data.pixel_values import Pixels

PerceptualHashes = NDArray[np.uint64]
SIDE = 32
"""Side of the downscaled grey image in pixels."""
BITS = 64
ORIENTATIONS = (
    "identity",
    "flipped horizontally",
    "flipped vertically",
    "rotated by 90°",
    "rotated by 180°",
    "rotated by 270°",
    "transposed",
    "transposed and rotated by 180°",
)
"""The eight orientations of an image (dihedral group), named by the transform from upright."""
_MIN_DEVIATION = 2.0  # standard deviation in grey levels; below it noise determines the hash
_SAMPLED, _AVERAGED = 96, 40  # least sides in pixels after sampling, and after averaging
_LOW = 8  # frequencies per direction
_CHUNK = 4096  # images transformed at a time
_PHASE = np.pi * np.outer(np.arange(_LOW), 2 * np.arange(SIDE) + 1) / (2 * SIDE)
_COSINES = 2 * np.cos(_PHASE)  # 8 SIDE, the first rows of the discrete cosine transform of type 2
_ODD = np.where(np.arange(_LOW) % 2, -1.0, 1.0)
_MIRRORED = {"none": np.ones((_LOW, _LOW)), "columns": np.tile(_ODD, (_LOW, 1)), "rows": np.tile(_ODD, (_LOW, 1)).T}
_MIRRORED["both"] = _MIRRORED["columns"] * _MIRRORED["rows"]


def downscale(image: Pixels) -> Pixels:
    """Convert H W C to grey and resize it to SIDE SIDE.

    Large images lose pixels first: the Lanczos filter of all pixels would take half as long as decoding them.
    """
    step = max(1, min(image.shape[:2]) // _SAMPLED)
    grey = Image.fromarray(_grey(image[::step, ::step]))
    factor = min(grey.size) // _AVERAGED
    small = grey.reduce(factor) if factor > 1 else grey
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _grey(image: Pixels) -> Pixels:
    """Return (R + 2 G + B) / 4, in 8-bit arithmetic, which rounds down and takes a third of the time."""
    if image.shape[2] == 1:
        return np.ascontiguousarray(image[..., 0])
    return np.asarray((image[..., 0] >> 2) + (image[..., 1] >> 1) + (image[..., 2] >> 2))


def orient(image: Pixels, orientation: int) -> Pixels:
    """Return a view of an image (H W, or H W C) in one of the `ORIENTATIONS`."""
    if orientation in (1, 2):
        return image[:, ::-1] if orientation == 1 else image[::-1]
    if orientation in (3, 4, 5):
        return np.rot90(image, orientation - 2)
    return image if orientation == 0 else (image if orientation == 6 else image[::-1, ::-1]).swapaxes(0, 1)


def all_orientations(grey: Pixels) -> Pixels:
    """Return a downscaled image in its eight orientations (8 SIDE SIDE)."""
    return np.stack([orient(grey, index) for index in range(len(ORIENTATIONS))])


def hashes(grey: Pixels) -> PerceptualHashes:
    """Return the 64-bit hashes of downscaled images (N SIDE SIDE) in their eight orientations (N 8).

    Each orientation permutes the coefficients of the cosine transform and changes signs, so one transform suffices.
    """
    parts = [_hashes(grey[start : start + _CHUNK]) for start in range(0, len(grey), _CHUNK)]
    return np.concatenate(parts) if parts else np.zeros((0, len(ORIENTATIONS)), dtype=np.uint64)


def _hashes(grey: Pixels) -> PerceptualHashes:
    low = _COSINES @ grey.astype(np.float64) @ _COSINES.T  # N 8 8
    turned = low.swapaxes(1, 2)
    ways = [low, low, low, turned, low, turned, turned, turned]
    mirrors = ["none", "columns", "rows", "rows", "both", "columns", "none", "both"]  # in the order of ORIENTATIONS
    signed = np.stack([way * _MIRRORED[mirror] for way, mirror in zip(ways, mirrors, strict=True)], axis=1)
    values = signed.round(3).reshape(len(low), len(ORIENTATIONS), BITS)  # rounding noise must not decide a bit
    bits = values > np.median(values, axis=2, keepdims=True)
    return np.packbits(bits, axis=2).view(">u8")[..., 0].astype(np.uint64)  # N 8


def is_uniform(grey: Pixels) -> NDArray[np.bool_]:
    """Return which downscaled images (N SIDE SIDE) are (almost) of one colour and so have no meaningful hash (N)."""
    return np.asarray(grey.reshape(len(grey), SIDE * SIDE).std(axis=1) < _MIN_DEVIATION)
