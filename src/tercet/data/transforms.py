"""Training augmentation: per image (flip, crop, colour, random erasing) and per batch (Mixup, CutMix)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tercet.core.errors import ConfigError
from tercet.core.registry import did_you_mean

_NUM_DRAWS = 9  # rotation, two shifts, shear, two zooms, channel shift, two flips


@dataclass(frozen=True)
class Preset:
    """Ranges that are drawn from uniformly, for each image anew."""

    rotation: float = 0.0
    """Largest angle, in degrees, either way."""
    shift: float = 0.0
    """Largest shift, as a fraction of height and of width, either way."""
    shear: float = 0.0
    """Largest shear angle, in degrees, either way."""
    zoom_range: tuple[float, float] = (1.0, 1.0)
    """Factors on the coordinates, drawn for height and width independently; above 1 the picture shrinks."""
    channel_shift: float = 0.0
    """Largest brightness added to all channels alike, on the [0, 1] scale, either way."""
    horizontal_flip: bool = False
    """Mirror half of the images left to right."""
    vertical_flip: bool = False
    """Mirror half of the images top to bottom."""

    @property
    def moves(self) -> bool:
        """Tell whether the affine map is anything but the identity."""
        return bool(self.rotation or self.shift or self.shear) or self.zoom_range != (1.0, 1.0)

    same_zoom: bool = False
    """Zoom height and width by one factor."""
    contrast: float = 0.0
    """Largest relative change of all values, either way."""
    brightness: float = 0.0
    """Largest value then added to all channels alike, on the [0, 1] scale, either way; the sum is cut to [0, 1]."""


_LIGHT = {"rotation": 8.0, "shift": 0.08, "zoom_range": (0.92, 1.08)}
_PAPER = {"rotation": 30.0, "shift": 0.3, "shear": 0.3, "zoom_range": (0.7, 1.3), "channel_shift": 10 / 255}

PRESETS: dict[str, Preset] = {
    "none": Preset(),
    "flip": Preset(horizontal_flip=True),
    "light": Preset(**_LIGHT),  # type: ignore[arg-type]
    "light-flip": Preset(**_LIGHT, horizontal_flip=True),  # type: ignore[arg-type]
    "paper": Preset(**_PAPER, horizontal_flip=True, vertical_flip=True),  # type: ignore[arg-type]
    "paper-noflip": Preset(**_PAPER),  # type: ignore[arg-type]
    "leaves": Preset(
        rotation=45.0,
        shift=1 / 16,
        zoom_range=(0.9, 1.1),
        same_zoom=True,
        contrast=0.2,
        brightness=0.2,
        horizontal_flip=True,
        vertical_flip=True,
    ),
}
"""The presets by name; `paper` is the published one, whose shear of 0.3 is in degrees (practically none). `leaves` has
the kinds of the leaf competition's fifth place, within the usual ranges: it published none."""


def augment(images: Tensor, preset: str | Preset, generator: torch.Generator) -> Tensor:
    """Return B C H W moved, changed in brightness and contrast, and flipped at random.

    Each image goes through one affine map about its centre (rotation, shift, shear, zoom; bilinear, the border
    repeated outwards), then a channel shift clipped to its own range, then contrast and brightness, then flips.

    Args:
        images: B C H W in [0, 1].
        preset: A name of `PRESETS`, or ranges of one's own.
        generator: On the CPU; the draws depend on its state and B only.

    Raises:
        ConfigError: The preset's name is unknown.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ConfigError(
                f"unknown augmentation '{preset}'{did_you_mean(preset, PRESETS)} (known: {', '.join(PRESETS)})"
            )
        preset = PRESETS[preset]
    if preset == PRESETS["none"]:
        return images
    draws = torch.rand(len(images), _NUM_DRAWS, generator=generator)  # B 9
    moved = _move(images, preset, draws) if preset.moves else images
    if preset.channel_shift:
        shift = _symmetric(draws[:, 6], preset.channel_shift).to(images.device).view(-1, 1, 1, 1)
        low, high = moved.amin((1, 2, 3), keepdim=True), moved.amax((1, 2, 3), keepdim=True)
        moved = torch.minimum(torch.maximum(moved + shift, low), high)
    if preset.contrast or preset.brightness:
        light = torch.rand(len(images), 2, generator=generator).to(images)  # B 2, drawn only where it is asked for
        factor = 1 + _symmetric(light[:, 0], preset.contrast).view(-1, 1, 1, 1)
        moved = (moved * factor + _symmetric(light[:, 1], preset.brightness).view(-1, 1, 1, 1)).clamp(0, 1)
    for flip, column, axis in ((preset.horizontal_flip, 7, 3), (preset.vertical_flip, 8, 2)):
        if flip:
            mirrored = (draws[:, column] < 0.5).to(images.device).view(-1, 1, 1, 1)
            moved = torch.where(mirrored, moved.flip(axis), moved)
    return moved


def _symmetric(draws: Tensor, limit: float) -> Tensor:
    """Map draws in [0, 1) to [-limit, limit)."""
    return (2 * draws - 1) * limit


def _move(images: Tensor, preset: Preset, draws: Tensor) -> Tensor:
    """Apply rotation x shift x shear x zoom, each image with its own draws (B 9)."""
    height, width = images.shape[-2:]
    angle = torch.deg2rad(_symmetric(draws[:, 0], preset.rotation))
    shear = torch.deg2rad(_symmetric(draws[:, 3], preset.shear))
    low, high = preset.zoom_range
    zoom = low + draws[:, [4, 4] if preset.same_zoom else [4, 5]] * (high - low)  # B 2, rows and columns
    cos, sin = angle.cos(), angle.sin()
    # maps output to input pixels about the centre, as (row, column) in half sizes, so that B C H W need not be square
    shift_rows = _symmetric(draws[:, 1], preset.shift) * height
    shift_columns = _symmetric(draws[:, 2], preset.shift) * width
    row_row, row_column = cos * zoom[:, 0], (-cos * shear.sin() - sin * shear.cos()) * zoom[:, 1]
    column_row, column_column = sin * zoom[:, 0], (-sin * shear.sin() + cos * shear.cos()) * zoom[:, 1]
    row_offset = cos * shift_rows - sin * shift_columns
    column_offset = sin * shift_rows + cos * shift_columns
    x = torch.stack([column_column, column_row * height / width, column_offset * 2 / width], dim=1)
    y = torch.stack([row_column * width / height, row_row, row_offset * 2 / height], dim=1)
    theta = torch.stack([x, y], dim=1).to(images)  # B 2 3
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)  # B H W 2
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


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
    top, bottom = _erased_span(rows.gather(1, first), height, draws[:, 1:2])  # B 1
    left, right = _erased_span(columns.gather(1, first), width, draws[:, 2:3])
    row, column = torch.arange(height), torch.arange(width)
    inside_rows = (top <= row) & (row < bottom)  # B H
    inside_columns = (left <= column) & (column < right)  # B W
    box = (chosen[:, None, None] & inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]  # B 1 H W
    noise = torch.rand(images.shape, generator=generator)
    return torch.where(box.to(images.device), noise.to(images), images)


def _erased_span(length: Tensor, size: int, place: Tensor) -> tuple[Tensor, Tensor]:
    """Return first and last + 1 of a stretch of pixels, put at a fraction of the places where it fits."""
    start = (place * (size - length + 1)).long()
    return start, start + length


def mixup(images: Tensor, targets: Tensor, *, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blend every image with another of its batch (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        images: B C H W.
        targets: B K, soft labels.
        alpha: Parameter of the Beta distribution that the share is drawn from, positive.
        generator: On the CPU; the draws depend on its state and B only.

    Returns:
        Images B C H W and soft labels B K.
    """
    share, order = _draw(len(images), alpha, generator)
    return images.lerp(images[order], 1 - share), targets.lerp(targets[order], 1 - share)


def cutmix(images: Tensor, targets: Tensor, *, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste a box of another image into every image (Yun et al. 2019, arXiv:1905.04899).

    The label's share is that of the pixels that stay.

    Args:
        images: B C H W.
        targets: B K, soft labels.
        alpha: Parameter of the Beta distribution that the share is drawn from, positive.
        generator: On the CPU; the draws depend on its state and B only.

    Returns:
        Images B C H W and soft labels B K.
    """
    share, order = _draw(len(images), alpha, generator)
    centre = torch.rand(2, generator=generator).tolist()
    side = (1 - share) ** 0.5
    height, width = images.shape[-2:]
    top, bottom = _box_span(centre[0], side, height)
    left, right = _box_span(centre[1], side, width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[order, :, top:bottom, left:right]
    pasted = (bottom - top) * (right - left) / (height * width)
    return mixed, targets.lerp(targets[order], pasted)


def _draw(count: int, alpha: float, generator: torch.Generator) -> tuple[float, Tensor]:
    """Draw the share of the first image, from Beta(alpha, alpha), and the partners (B)."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    return share, torch.randperm(count, generator=generator)


def _box_span(centre: float, side: float, size: int) -> tuple[int, int]:
    """Return the pixels that an interval around `centre` (fractions of the size) covers, cut at the border."""
    low, high = (round((centre + sign * side / 2) * size) for sign in (-1, 1))
    return max(0, low), min(size, high)
