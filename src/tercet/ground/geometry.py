"""The one resize: used by loaders, by models and by exported files, so that they agree.

Shapes: B images, C channels, H x W pixels. Pixels are floats in [0, 1].
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Resize = Literal["squash", "shorter", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]


def scale(images: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Resample B C H W to B C *size*, antialiased where it shrinks; a no-op at the right size."""
    if tuple(images.shape[-2:]) == size:
        return images
    if interpolation == "nearest":
        return functional.interpolate(images, size, mode="nearest")
    resampled = functional.interpolate(images, size, mode=interpolation, align_corners=False, antialias=True)
    return resampled.clamp(0.0, 1.0) if interpolation == "bicubic" else resampled


def fit(
    images: Tensor,
    size: tuple[int, int],
    *,
    resize: Resize = "squash",
    crop_fraction: float = 1.0,
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """Bring B C H W to B C *size*.

    Args:
        images: Float images of one size.
        size: Height and width to reach, in pixels.
        resize: `squash` ignores the aspect ratio; `shorter` crops the centre to the aspect ratio;
            `pad` scales the longer side and repeats the border.
        crop_fraction: Share of that which is kept, centred (`squash` and `shorter`), in (0, 1].
        interpolation: Resampling filter.
    """
    height, width = images.shape[-2:]
    if resize == "pad":
        ratio = min(size[0] / height, size[1] / width)
        inner = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        return _pad(scale(images, inner, interpolation), size)
    kept = (float(height), float(width))
    if resize == "shorter":
        ratio = min(height / size[0], width / size[1])
        kept = (size[0] * ratio, size[1] * ratio)
    # cropping first costs nothing for a strip of 1 x 50,000 pixels, where scaling first would need gigabytes
    window = (max(1, round(kept[0] * crop_fraction)), max(1, round(kept[1] * crop_fraction)))
    return scale(_crop(images, window), size, interpolation)


def _crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = (images.shape[-2] - size[0]) // 2, (images.shape[-1] - size[1]) // 2
    return images[..., top : top + size[0], left : left + size[1]]


def _pad(images: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = size[0] - images.shape[-2], size[1] - images.shape[-1]
    margins = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return functional.pad(images, margins, mode="replicate")


def to_channels(images: Tensor, channels: int) -> Tensor:
    """Bring B C H W to `channels`: grey is repeated, colour becomes luma (ITU-R 601), anything else must match.

    Raises:
        ValueError: The channels can be neither repeated nor reduced.
    """
    have = images.shape[1]
    if have == channels:
        return images
    if have == 1:
        return images.expand(-1, channels, -1, -1)
    if have == 3 and channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114], dtype=images.dtype, device=images.device)
        return (images * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)
    raise ValueError(f"images have {have} channels, the network reads {channels}: set --input.channels")
