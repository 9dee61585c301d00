"""Filters and feature maps as small images with values in [0, 1].

Shapes: O filters over I channels of k x k weights, N tiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MAX_TILES, COLUMNS, MAX_CHANNELS = 64, 8, 16


def filter_tiles(weights: Floats, *, filters: int = MAX_TILES, channels: int = MAX_CHANNELS) -> tuple[Floats, int, str]:
    """Return tiles of a convolution's filters, the number of columns, and a note on what is drawn.

    Filters over one or three channels (grey, RGB) are one tile each. Of others, columns are filters and rows are the
    first input channels.

    Args:
        weights: O I k k.
        filters: Largest number of filters.
        channels: Largest number of input channels.
    """
    count, depth = weights.shape[:2]
    part = scaled(weights[:filters])
    drawn = f"{len(part)} of {count}" if count > len(part) else f"{count}"
    if depth in (1, 3):
        tiles = part.transpose(0, 2, 3, 1)
        return (tiles if depth == 3 else tiles[..., 0]), COLUMNS, f"{drawn} filters"
    part = part[:, :channels].transpose(1, 0, 2, 3)  # I O k k
    note = f"{drawn} filters (columns), {part.shape[0]} of {depth} channels (rows)"
    return part.reshape(-1, *part.shape[2:]), part.shape[1], note


def scaled(tiles: Floats) -> Floats:
    """Scale each of O I k k to [0, 1] over all its channels; constant ones become grey."""
    low = tiles.min(axis=(1, 2, 3), keepdims=True)
    spread = tiles.max(axis=(1, 2, 3), keepdims=True) - low
    result: Floats = np.where(spread > 0, (tiles - low) / np.where(spread > 0, spread, 1), 0.5)
    return result
