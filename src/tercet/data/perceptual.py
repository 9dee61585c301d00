"""What is left of a picture when it is re-encoded, resized or turned: a small grey copy, and its perceptual hashes.

Shapes: N images, H x W pixels, C channels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tercet.data.images import Pixels
from tercet.ground.errors import ConfigError

try:
    import imagehash
except ImportError:  # an extra: `pip install tercet[audit]`
    imagehash = None

Hashes = NDArray[np.uint64]
SIDE = 32
"""Pixels a side of the small grey copy: what a perceptual hash of 64 bits is made from."""
ORIENTATIONS = (
    "as it is",
    "mirrored",
    "upside down",
    "turned by 90°",
    "turned by 180°",
    "turned by 270°",
    "transposed",
    "transposed and turned by 180°",
)
"""The ways in which a rectangle can lie, in words; the first leaves it alone."""
_FLATTEST = 2.0  # standard deviation, in grey levels, below which noise alone would make the hash


def require_imagehash() -> None:
    """Refuse to look for near duplicates without imagehash.

    Raises:
        ConfigError: It is not installed.
    """
    if imagehash is None:
        raise ConfigError(
            "near duplicates need imagehash, which is not installed: pip install 'tercet[audit]', or leave them out "
            "with --max-hash-distance null"
        )


def shrink(image: Pixels) -> Pixels:
    """Return the small grey copy (SIDE SIDE) of an image H W C."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def oriented(image: Pixels, way: int) -> Pixels:
    """Return an image (H W, or H W C) as it lies in one of the `ORIENTATIONS` (a view)."""
    if way in (1, 2):
        return image[:, ::-1] if way == 1 else image[::-1]
    if way in (3, 4, 5):
        return np.rot90(image, way - 2)
    return image if way == 0 else (image if way == 6 else image[::-1, ::-1]).swapaxes(0, 1)


def turned(grey: Pixels) -> Pixels:
    """Return a small grey copy in its eight orientations (8 SIDE SIDE), in the order of `ORIENTATIONS`."""
    return np.stack([oriented(grey, way) for way in range(len(ORIENTATIONS))])


def hashes(grey: Pixels) -> Hashes:
    """Return the perceptual hashes of a small grey copy in its eight orientations (8), 64 bits each."""
    bits = np.stack([imagehash.phash(Image.fromarray(one)).hash.reshape(-1) for one in turned(grey)])
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def is_flat(grey: Pixels) -> bool:
    """Tell whether a picture is of one colour, so that there is nothing to know it by."""
    return bool(grey.std() < _FLATTEST)
