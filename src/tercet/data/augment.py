"""Augmentation of whole batches: one composed affine move, changes of brightness and contrast, flips.

Everything is drawn in relative units (fractions of the size, degrees), a fixed number of draws an image, so that the
same generator state moves the same picture alike at any size. Shapes: B images, C channels, H x W pixels in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tercet.ground.errors import ConfigError
from tercet.ground.registry import nearest

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
                f"unknown augmentation '{preset}'{nearest(preset, PRESETS)} (known: {', '.join(PRESETS)})"
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
