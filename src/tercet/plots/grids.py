"""Image grids and thumbnails."""

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
    """Draw images with titles in rows, and return all axes.

    Args:
        target: A figure, which is cleared, or at least one axes per image; unused axes are empty.
        images: H W, H W 1 or H W 3, uint8.
        titles: One per image, a line or several lines; long lines are shortened.
        columns: Images per row of a figure.
        colours: Colours of the titles (default: black).

    Raises:
        DataError: There are no images, not one title per image, or an image of another shape.
    """
    if not images or len(images) != len(titles):
        raise DataError(f"{len(images)} images and {len(titles)} titles: give one title per image")
    if isinstance(target, Figure):
        target.clear()
        rows = -(-len(images) // columns)
        grid = list(target.subplots(rows, columns, squeeze=False).flat)
    else:
        grid = list(target)
    for axes in grid:
        axes.set_axis_off()
    title_colours = colours or ["black"] * len(images)
    for axes, image, title, title_colour in zip(grid, images, titles, title_colours, strict=False):
        grey = _plane(image).ndim == 2
        options: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255} if grey else {}
        axes.imshow(_plane(image), interpolation="nearest", **options)
        lines = [title] if isinstance(title, str) else title
        axes.set_title("\n".join(label(line, 22) for line in lines), fontsize=7, color=title_colour)
    return grid


def thumbnail(image: Pixels, size: int = 96) -> bytes:
    """Return a small copy as a JPEG file without metadata.

    Args:
        image: H W, H W 1 or H W 3, uint8.
        size: Longest side in pixels; smaller images keep their size.

    Raises:
        DataError: An image of another shape.
    """
    stream = io.BytesIO()
    Image.fromarray(shrink(image, size)).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def shrink(image: Pixels, size: int = 96) -> Pixels:
    """Return a copy, H W or H W 3, whose longer side has at most `size` pixels.

    Raises:
        DataError: An image of another shape.
    """
    copy = Image.fromarray(np.ascontiguousarray(_plane(image)))
    copy.thumbnail((size, size), Image.Resampling.LANCZOS)
    return np.array(copy)


def _plane(image: Pixels) -> Pixels:
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise DataError(f"images must be uint8 H W or H W 3, not {image.dtype} {image.shape}")
    return image
