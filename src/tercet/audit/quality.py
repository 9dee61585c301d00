"""Images that differ from the others of a data set: dark, bright, blurred, or of an unusual size. M images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tercet.data.pixel_values import Pixels
from tercet.data.table import Ints

_SIDE = 256  # longer side in pixels at which sharpness is measured
_DARK, _BRIGHT = 20, 240  # mean grey levels
_BLURRED = 0.04  # of the median sharpness of the data
_STRETCHED = 2.5  # times the median ratio of width and height, or its inverse
_SMALL = 0.25  # of the median number of pixels of the shorter side
_MIN_IMAGES = 10  # with fewer, no image is usual
RULES = (
    f"Dark and bright images have a mean grey level below {_DARK} or above {_BRIGHT} of 255. Blurred ones have less "
    f"than {_BLURRED:.0%} of the median sharpness (variance of the Laplacian at {_SIDE} pixels). Sizes are unusual if "
    f"width by height differs from the median by a factor of {_STRETCHED}, or the shorter side is below {_SMALL:.0%} "
    "of the median."
)


@dataclass(frozen=True)
class OddImages:
    """Sample names of unusual images, by what is unusual."""

    dark: tuple[str, ...] = ()
    bright: tuple[str, ...] = ()
    blurred: tuple[str, ...] = ()
    unusual_size: tuple[str, ...] = ()

    def by_kind(self) -> dict[str, tuple[str, ...]]:
        """Return the kinds that occur, in words, with the names."""
        return {kind.replace("_", " "): tuple(ids) for kind, ids in asdict(self).items() if ids}

    @property
    def ids(self) -> tuple[str, ...]:
        """All unusual images, each once."""
        return tuple(dict.fromkeys(name for ids in self.by_kind().values() for name in ids))


def sharpness(image: Pixels) -> float:
    """Return the variance of the Laplacian of an image H W C, in grey and at most `_SIDE` pixels wide and high."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert("L")
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    grey = np.asarray(picture, dtype=np.float32)
    if min(grey.shape) < 3:
        return 0.0
    inner = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner).var())


def odd_images(names: Sequence[str], grey: Pixels, sharp: NDArray[np.float64], sizes: Ints) -> OddImages:
    """Return the unusual images.

    Args:
        names: M sample names.
        grey: M downscaled grey images.
        sharp: M values of `sharpness`.
        sizes: M 2, height and width.
    """
    if len(names) < _MIN_IMAGES:
        return OddImages()
    level, ratio = grey.mean(axis=(1, 2)), np.log(sizes[:, 1] / sizes[:, 0])
    shorter = sizes.min(axis=1)
    unusual = np.abs(ratio - np.median(ratio)) > np.log(_STRETCHED)
    unusual |= shorter < _SMALL * np.median(shorter)
    dark, bright = level < _DARK, level > _BRIGHT
    masks = (dark, bright, (sharp < _BLURRED * np.median(sharp)) & ~dark & ~bright, unusual)
    return OddImages(*(tuple(names[row] for row in np.flatnonzero(mask).tolist()) for mask in masks))
