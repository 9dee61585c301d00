"""Pictures in rows and columns, and small copies of pictures that carry nothing but pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from tercet.core.errors import DataError
from tercet.plots.style import label

Pixels = NDArray[np.uint8]


def image_grid(
    target: Figure | Sequence[Axes],
    images: Sequence[Pixels],
    titles: Sequence[str | Sequence[str]],
    *,
    columns: int,
    colours: Sequence[str] | None = None,
) -> list[Axes]:
    """Draw images in rows, a title over each, and return their axes.

    Args:
        target: A figure, which is cleared, or an axes for each image; axes that are left over stay empty.
        images: H W, H W 1 or H W 3, uint8.
        titles: One an image: a line, or several; each is shortened.
        columns: Images a row, where a figure is given.
        colours: Colours of the titles (default: black).

    Raises:
        DataError: Not one title an image, no image, or an image of another shape.
    """
    if not images or len(images) != len(titles):
        raise DataError(f"{len(images)} images and {len(titles)} titles: one each is needed, and at least one")
    if isinstance(target, Figure):
        target.clear()
        rows = -(-len(images) // columns)
        places = list(target.subplots(rows, columns, squeeze=False).flat)
    else:
        places = list(target)
    for axes in places:
        axes.set_axis_off()
    shades = colours or ["black"] * len(images)
    for axes, image, title, shade in zip(places, images, titles, shades, strict=False):
        grey = _plane(image).ndim == 2
        options: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255} if grey else {}
        axes.imshow(_plane(image), interpolation="nearest", **options)
        lines = [title] if isinstance(title, str) else title
        axes.set_title("\n".join(label(line, 22) for line in lines), fontsize=7, color=shade)
    return places


def thumbnail(image: Pixels, size: int = 96) -> bytes:
    """Return a small copy as a JPEG file that holds pixels and nothing else.

    Args:
        image: H W, H W 1 or H W 3, uint8.
        size: Longest side in pixels; smaller images keep their size.

    Raises:
        DataError: An image of another shape.
    """
    picture = Image.fromarray(is_small(image, size))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def is_small(image: Pixels, size: int = 96) -> Pixels:
    """Return a copy, H W or H W 3, whose longer side has at most `size` pixels.

    Raises:
        DataError: An image of another shape.
    """
    picture = Image.fromarray(np.ascontiguousarray(_plane(image)))
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    return np.array(picture)


def _plane(image: Pixels) -> Pixels:
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise DataError(f"an image to draw is uint8 H W or H W 3, got {image.dtype} {image.shape}")
    return image
