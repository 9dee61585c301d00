"""Random erasing: a box of an image becomes noise, so that no single part of it may be relied on.

Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

AREA_RANGE = (0.02, 0.4)
"""Share of the image that a box covers."""
ASPECT_RANGE = (0.3, 1 / 0.3)
"""Height over width of a box, in pixels."""
_TRIES = 10  # boxes drawn for each image; about one in twenty is longer than the image and drawn again


def erase(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Fill a box of some images with uniform noise (Zhong et al. 2017, arXiv:1708.04896, their RE-R).

    Area and aspect ratio are drawn uniformly from the paper's ranges, then the place, among those where the box fits.

    Args:
        images: B C H W in [0, 1].
        probability: That an image loses a box.
        generator: On the CPU; which images and boxes, as fractions of the size, depends on its state and B only.
    """
    count, _, height, width = images.shape
    draws = torch.rand(count, 3 + 2 * _TRIES, generator=generator)
    area, aspect = (
        low + draws[:, start::2][:, :_TRIES] * (high - low)
        for start, (low, high) in ((3, AREA_RANGE), (4, ASPECT_RANGE))
    )  # B tries
    rows = (area * height * width * aspect).sqrt().round().long()
    columns = (area * height * width / aspect).sqrt().round().long()
    fits = (rows < height) & (columns < width) & (rows > 0) & (columns > 0)
    first = fits.int().argmax(1, keepdim=True)
    chosen = fits.any(1) & (draws[:, 0] < probability)  # B
    top, bottom = _span(rows.gather(1, first), height, draws[:, 1:2])  # B 1
    left, right = _span(columns.gather(1, first), width, draws[:, 2:3])
    row, column = torch.arange(height), torch.arange(width)
    inside_rows = (top <= row) & (row < bottom)  # B H
    inside_columns = (left <= column) & (column < right)  # B W
    box = (chosen[:, None, None] & inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]  # B 1 H W
    noise = torch.rand(images.shape, generator=generator)
    return torch.where(box.to(images.device), noise.to(images), images)


def _span(length: Tensor, size: int, place: Tensor) -> tuple[Tensor, Tensor]:
    """Return first and last + 1 of a stretch of pixels, put at a fraction of the places where it fits."""
    start = (place * (size - length + 1)).long()
    return start, start + length
