"""The one resize: used by loaders, by models and by exported files, so that they agree; and the way back.

Shapes: B images, C channels, H x W pixels, h x w cells of a map. Pixels are floats in [0, 1].
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
    """Resample B C H W to B C *size*, antialiased where it shrinks; a no-op at the right size."""
    if tuple(images.shape[-2:]) == size:
        return images
    if interpolation == "nearest":
        return functional.interpolate(images, size, mode="nearest")
    if size[1] == 1 < size[0]:  # torch repeats the first row in a result of one column
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
    """Bring B C H W to B C *size*.

    Args:
        images: Float images of one size.
        size: Height and width to reach, in pixels.
        crop_mode: `squash` ignores the aspect ratio; `center` crops the centre to the aspect ratio;
            `border` scales the longer side and repeats the border.
        crop_pct: Share of that which is kept, centred (`squash` and `center`), in (0, 1].
        interpolation: Resampling filter.
    """
    picture = (images.shape[-2], images.shape[-1])
    if crop_mode == "border":
        return _pad(scale(images, _inner(picture, size), interpolation), size)
    # cropping first costs nothing for a strip of 1 x 50,000 pixels, where scaling first would need gigabytes
    return scale(_crop(images, _kept(picture, size, crop_mode, crop_pct)), size, interpolation)


def _inner(picture: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a picture scaled to lie within `size`."""
    ratio = min(size[0] / picture[0], size[1] / picture[1])
    return max(1, round(picture[0] * ratio)), max(1, round(picture[1] * ratio))


def _kept(picture: tuple[int, int], size: tuple[int, int], crop_mode: CropMode, crop_pct: float) -> tuple[int, int]:
    """Return height and width of the centre of a picture that is scaled to `size`."""
    kept = (float(picture[0]), float(picture[1]))
    if crop_mode == "center":
        ratio = min(picture[0] / size[0], picture[1] / size[1])
        kept = (size[0] * ratio, size[1] * ratio)
    return max(1, round(kept[0] * crop_pct)), max(1, round(kept[1] * crop_pct))


def _crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = (images.shape[-2] - size[0]) // 2, (images.shape[-1] - size[1]) // 2
    return images[..., top : top + size[0], left : left + size[1]]


def _pad(images: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = size[0] - images.shape[-2], size[1] - images.shape[-1]
    margins = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return functional.pad(images, margins, mode="replicate")


@dataclass(frozen=True)
class Window:
    """What of a picture a network is shown, in the picture's pixels; beyond its borders where `fit_size` padded."""

    top: float
    left: float
    height: float
    width: float


def visible_window(
    picture: tuple[int, int], size: tuple[int, int], *, crop_mode: CropMode = "squash", crop_pct: float = 1.0
) -> Window:
    """Return the part of an image (height, width) that `fit_size` brings to `size` under the same options."""
    if crop_mode == "border":
        inner = _inner(picture, size)
        pixel = (picture[0] / inner[0], picture[1] / inner[1])
        margins = ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2)
        return Window(-margins[0] * pixel[0], -margins[1] * pixel[1], size[0] * pixel[0], size[1] * pixel[1])
    height, width = _kept(picture, size, crop_mode, crop_pct)
    return Window((picture[0] - height) // 2, (picture[1] - width) // 2, height, width)


def project_to_image(
    maps: Tensor,
    window: Window,
    picture: tuple[int, int],
    frame: tuple[int, int],
    *,
    interpolation: Literal["nearest", "bilinear"] = "bilinear",
) -> Tensor:
    """Lay maps B h w of what a network was shown over the whole picture.

    Args:
        maps: Values on a grid that covers the window evenly.
        window: Where in the picture that is.
        picture: Height and width of the picture.
        frame: Height and width of the result, which shows the whole picture.
        interpolation: Between the cells' centres, or each cell as a block.

    Returns:
        B *frame*; NaN where the network was shown nothing.
    """
    down, right = (
        (torch.arange(side, dtype=maps.dtype, device=maps.device) + 0.5) * (pixels / side)  # centres, in its pixels
        for side, pixels in zip(frame, picture, strict=True)
    )
    down, right = 2 * (down - window.top) / window.height - 1, 2 * (right - window.left) / window.width - 1
    places = torch.stack([right.expand(frame), down.unsqueeze(1).expand(frame)], dim=2)  # x, y in [-1, 1]
    laid = functional.grid_sample(
        maps.unsqueeze(1),
        places.expand(len(maps), -1, -1, -1),
        mode=interpolation,
        padding_mode="border",
        align_corners=False,
    )[:, 0]
    return laid.masked_fill((places.abs() > 1).any(2), torch.nan)


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
