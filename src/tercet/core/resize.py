"""Resizing of images, shared by loaders, models and exported files; and projection of maps back to the image.

Shapes: B images, C channels, H x W pixels, h x w map cells. Pixels are floats in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

CropMode = Literal["squash", "center", "border"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]


def scale(images: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Resize B C H W to B C *size*, with antialiasing when shrinking; returns the input if the size fits."""
    if tuple(images.shape[-2:]) == size:
        return images
    if interpolation == "nearest":
        return functional.interpolate(images, size, mode="nearest")
    if size[1] == 1 < size[0]:  # torch.nn.functional.interpolate repeats the first row if the output has one column
        return scale(images.transpose(-2, -1), (1, size[0]), interpolation).transpose(-2, -1)
    resampled = functional.interpolate(images, size, mode=interpolation, align_corners=False, antialias=True)
    return resampled.clamp(0.0, 1.0) if interpolation == "bicubic" else resampled


def fit_size(
    images: Tensor,
    size: tuple[int, int],
    *,
    crop_mode: CropMode = "squash",
    crop_pct: float = 1.0,
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """Resize B C H W to B C *size*.

    Args:
        images: Float images of the same size.
        size: Output height and width in pixels.
        crop_mode: `squash` distorts the image; `center` crops to the aspect ratio of the output; `border` fits the
            image into the output and replicates its border pixels.
        crop_pct: Fraction of height and width that the center crop keeps (`squash` and `center`), in (0, 1].
        interpolation: Resampling filter.
    """
    image_size = (images.shape[-2], images.shape[-1])
    if crop_mode == "border":
        return _pad(scale(images, _fitted_size(image_size, size), interpolation), size)
    # Crop before scaling: scaling a strip of 1 x 50,000 pixels first would need gigabytes.
    return scale(_crop(images, _crop_size(image_size, size, crop_mode, crop_pct)), size, interpolation)


def _fitted_size(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an image scaled to fit into `size`."""
    ratio = min(size[0] / image_size[0], size[1] / image_size[1])
    return max(1, round(image_size[0] * ratio)), max(1, round(image_size[1] * ratio))


def _crop_size(
    image_size: tuple[int, int], size: tuple[int, int], crop_mode: CropMode, crop_pct: float
) -> tuple[int, int]:
    """Return height and width of the center crop that is scaled to `size`."""
    crop = (float(image_size[0]), float(image_size[1]))
    if crop_mode == "center":
        ratio = min(image_size[0] / size[0], image_size[1] / size[1])
        crop = (size[0] * ratio, size[1] * ratio)
    return max(1, round(crop[0] * crop_pct)), max(1, round(crop[1] * crop_pct))


def _crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = (images.shape[-2] - size[0]) // 2, (images.shape[-1] - size[1]) // 2
    return images[..., top : top + size[0], left : left + size[1]]


def _pad(images: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = size[0] - images.shape[-2], size[1] - images.shape[-1]
    margins = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return functional.pad(images, margins, mode="replicate")


@dataclass(frozen=True)
class Window:
    """Part of an image that a network receives, in pixels of the image; exceeds the image where `fit_size` pads."""

    top: float
    left: float
    height: float
    width: float


def visible_window(
    image_size: tuple[int, int], size: tuple[int, int], *, crop_mode: CropMode = "squash", crop_pct: float = 1.0
) -> Window:
    """Return the part of an image (height, width) that `fit_size` resizes to `size` with the same options."""
    if crop_mode == "border":
        fitted = _fitted_size(image_size, size)
        pixel = (image_size[0] / fitted[0], image_size[1] / fitted[1])
        margins = ((size[0] - fitted[0]) // 2, (size[1] - fitted[1]) // 2)
        return Window(-margins[0] * pixel[0], -margins[1] * pixel[1], size[0] * pixel[0], size[1] * pixel[1])
    height, width = _crop_size(image_size, size, crop_mode, crop_pct)
    return Window((image_size[0] - height) // 2, (image_size[1] - width) // 2, height, width)


def project_to_image(
    maps: Tensor,
    window: Window,
    image_size: tuple[int, int],
    size: tuple[int, int],
    *,
    interpolation: Literal["nearest", "bilinear"] = "bilinear",
) -> Tensor:
    """Resample maps B h w, such as class-activation maps, from the input window of a network to the whole image.

    Args:
        maps: Values on a regular grid over the window.
        window: The window in the image.
        image_size: Height and width of the image.
        size: Height and width of the result, which covers the whole image.
        interpolation: Between cell centers, or one block per cell.

    Returns:
        B *size*; NaN outside the window.
    """
    down, right = (
        (torch.arange(side, dtype=maps.dtype, device=maps.device) + 0.5)
        * (pixels / side)  # pixel centers of the result, in image pixels
        for side, pixels in zip(size, image_size, strict=True)
    )
    down, right = 2 * (down - window.top) / window.height - 1, 2 * (right - window.left) / window.width - 1
    grid = torch.stack([right.expand(size), down.unsqueeze(1).expand(size)], dim=2)  # x, y in [-1, 1]
    projected = functional.grid_sample(
        maps.unsqueeze(1),
        grid.expand(len(maps), -1, -1, -1),
        mode=interpolation,
        padding_mode="border",
        align_corners=False,
    )[:, 0]
    return projected.masked_fill((grid.abs() > 1).any(2), torch.nan)


def to_channels(images: Tensor, channels: int) -> Tensor:
    """Convert B C H W to `channels`: grayscale is repeated, RGB becomes luma (ITU-R 601), others must match.

    Raises:
        ValueError: No such conversion exists.
    """
    present = images.shape[1]
    if present == channels:
        return images
    if present == 1:
        return images.expand(-1, channels, -1, -1)
    if present == 3 and channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114], dtype=images.dtype, device=images.device)
        return (images * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)
    raise ValueError(f"images have {present} channels, the network expects {channels}: set --input.channels")
