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
    """Ranges of uniform random transforms, drawn per image; a single value v stands for the range [-v, v)."""

    rotation: float = 0.0
    """Angle in degrees."""
    shift: float = 0.0
    """Shift as a fraction of height and of width."""
    shear: float = 0.0
    """Shear angle in degrees."""
    zoom_range: tuple[float, float] = (1.0, 1.0)
    """Factors on the coordinates, independent for height and width; above 1 the image shrinks."""
    channel_shift: float = 0.0
    """Value added to all channels, on the [0, 1] scale, clipped to the image's own range."""
    horizontal_flip: bool = False
    """Flip left to right with probability 0.5."""
    vertical_flip: bool = False
    """Flip top to bottom with probability 0.5."""
    same_zoom: bool = False
    """Use one zoom factor for height and width."""
    contrast: float = 0.0
    """Relative change of all values."""
    brightness: float = 0.0
    """Value added to all channels after the contrast change, on the [0, 1] scale, clipped to [0, 1]."""

    @property
    def is_geometric(self) -> bool:
        """Whether the affine map is not the identity."""
        return bool(self.rotation or self.shift or self.shear) or self.zoom_range != (1.0, 1.0)


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
"""Presets by name. `paper` is the published one, whose shear of 0.3 is in degrees (almost none). `leaves` has the
transforms of the fifth place in the leaf competition, with common ranges, since none were published."""


def augment(images: Tensor, preset: str | Preset, generator: torch.Generator) -> Tensor:
    """Augment each image of a batch at random.

    In this order: one affine map about the centre (rotation, shift, shear, zoom; bilinear, border padding), channel
    shift, contrast and brightness, flips.

    Args:
        images: B C H W in [0, 1].
        preset: A name of `PRESETS`, or custom ranges.
        generator: CPU generator; the draws depend only on its state and B.

    Returns:
        B C H W.

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
    augmented = _affine(images, preset, draws) if preset.is_geometric else images
    if preset.channel_shift:
        shift = _symmetric(draws[:, 6], preset.channel_shift).to(images.device).view(-1, 1, 1, 1)
        low, high = augmented.amin((1, 2, 3), keepdim=True), augmented.amax((1, 2, 3), keepdim=True)
        augmented = torch.minimum(torch.maximum(augmented + shift, low), high)
    if preset.contrast or preset.brightness:
        light = torch.rand(len(images), 2, generator=generator).to(images)  # drawn last: other presets stay unchanged
        factor = 1 + _symmetric(light[:, 0], preset.contrast).view(-1, 1, 1, 1)
        augmented = (augmented * factor + _symmetric(light[:, 1], preset.brightness).view(-1, 1, 1, 1)).clamp(0, 1)
    for flip, column, axis in ((preset.horizontal_flip, 7, 3), (preset.vertical_flip, 8, 2)):
        if flip:
            flipped = (draws[:, column] < 0.5).to(images.device).view(-1, 1, 1, 1)
            augmented = torch.where(flipped, augmented.flip(axis), augmented)
    return augmented


def _symmetric(draws: Tensor, limit: float) -> Tensor:
    """Map draws in [0, 1) to [-limit, limit)."""
    return (2 * draws - 1) * limit


def _affine(images: Tensor, preset: Preset, draws: Tensor) -> Tensor:
    """Apply rotation x shift x shear x zoom to each image by its own draws (B 9)."""
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
"""Fraction of the image area that an erased box covers."""
ASPECT_RANGE = (0.3, 1 / 0.3)
"""Height over width of an erased box."""
_TRIES = 10  # boxes drawn per image, of which the first that fits is used; about one in twenty exceeds the image


def erase(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Fill a box of some images with uniform noise (Zhong et al. 2017, arXiv:1708.04896, variant RE-R).

    Area and aspect ratio are uniform in the paper's ranges; the position is uniform where the box fits.

    Args:
        images: B C H W in [0, 1].
        probability: Probability of a box per image.
        generator: CPU generator; the choice of images and relative boxes depends only on its state and B.
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
    erased = fits.any(1) & (draws[:, 0] < probability)  # B
    top, bottom = _erased_span(rows.gather(1, first), height, draws[:, 1:2])  # B 1
    left, right = _erased_span(columns.gather(1, first), width, draws[:, 2:3])
    row, column = torch.arange(height), torch.arange(width)
    inside_rows = (top <= row) & (row < bottom)  # B H
    inside_columns = (left <= column) & (column < right)  # B W
    box = (erased[:, None, None] & inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]  # B 1 H W
    noise = torch.rand(images.shape, generator=generator)
    return torch.where(box.to(images.device), noise.to(images), images)


def _erased_span(length: Tensor, size: int, position: Tensor) -> tuple[Tensor, Tensor]:
    """Return start and end (exclusive) of a span; `position` in [0, 1) selects one of the starts at which it fits."""
    start = (position * (size - length + 1)).long()
    return start, start + length


def mixup(images: Tensor, targets: Tensor, *, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blend every image with another image of the batch (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        images: B C H W.
        targets: B K, soft labels.
        alpha: Parameter of Beta(alpha, alpha), from which the mixing weight is drawn; positive.
        generator: CPU generator; the draws depend only on its state and B.

    Returns:
        Images B C H W and soft labels B K.
    """
    weight, partners = _draw(len(images), alpha, generator)
    return images.lerp(images[partners], 1 - weight), targets.lerp(targets[partners], 1 - weight)


def cutmix(images: Tensor, targets: Tensor, *, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste a box of another image into every image (Yun et al. 2019, arXiv:1905.04899).

    The targets are mixed in proportion to the pasted pixels.

    Args:
        images: B C H W.
        targets: B K, soft labels.
        alpha: Parameter of Beta(alpha, alpha), from which the mixing weight is drawn; positive.
        generator: CPU generator; the draws depend only on its state and B.

    Returns:
        Images B C H W and soft labels B K.
    """
    weight, partners = _draw(len(images), alpha, generator)
    centre = torch.rand(2, generator=generator).tolist()
    side = (1 - weight) ** 0.5
    height, width = images.shape[-2:]
    top, bottom = _box_span(centre[0], side, height)
    left, right = _box_span(centre[1], side, width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[partners, :, top:bottom, left:right]
    pasted = (bottom - top) * (right - left) / (height * width)
    return mixed, targets.lerp(targets[partners], pasted)


def _draw(count: int, alpha: float, generator: torch.Generator) -> tuple[float, Tensor]:
    """Draw the weight of the original image from Beta(alpha, alpha), and the partner of each image (B)."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    weight = float(np.random.default_rng(seed).beta(alpha, alpha))
    return weight, torch.randperm(count, generator=generator)


def _box_span(centre: float, side: float, size: int) -> tuple[int, int]:
    """Return start and end (exclusive) of an interval; `centre` and `side` are fractions of the size."""
    low, high = (round((centre + sign * side / 2) * size) for sign in (-1, 1))
    return max(0, low), min(size, high)
