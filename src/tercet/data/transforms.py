"""Training augmentation: per image (flip, crop, colour, random erasing) and per batch (Mixup, CutMix)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tercet.core.errors import PartError, describe_result, naming_part
from tercet.core.registry import accepts
from tercet.core.runtime import seeded_generators
from tercet.data.augmentations import AUGMENTATIONS, Augmentation, Preset

_NUM_DRAWS = 9  # rotation, two shifts, shear, two zooms, channel shift, two flips


def augment(images: Tensor, augmentation: str | Augmentation, generator: torch.Generator) -> Tensor:
    """Augment each image of a batch at random.

    Ranges are applied in this order: one affine map about the centre (rotation, shift, shear, zoom; bilinear, border
    padding), channel shift, contrast and brightness, flips.

    Args:
        images: B C H W in [0, 1].
        augmentation: A registered name, ranges, or a function.
        generator: CPU generator; the draws depend only on its state and B. A function without a parameter of this name
            draws from the global generators, which are seeded by it for the call.

    Returns:
        B C H W.

    Raises:
        ConfigError: The name is unknown.
        PartError: A function raises an exception, or returns another shape.
    """
    name = augmentation if isinstance(augmentation, str) else getattr(augmentation, "__name__", "of the caller")
    preset = AUGMENTATIONS[augmentation] if isinstance(augmentation, str) else augmentation
    if not isinstance(preset, Preset):
        return _call(preset, name, images, generator)
    if preset == Preset():
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


def _call(function: Callable[..., Tensor], name: str, images: Tensor, generator: torch.Generator) -> Tensor:
    """Augment images by a function of the caller's."""
    with naming_part(f"augmentation '{name}'"):
        if accepts(function, "generator"):
            augmented = function(images, generator=generator)
        else:
            with seeded_generators(int(torch.randint(2**62, (1,), generator=generator))):
                augmented = function(images)
    if not isinstance(augmented, Tensor) or augmented.shape != images.shape:
        raise PartError(
            f"augmentation '{name}' returned {describe_result(augmented)}, expected the images' {tuple(images.shape)}"
        )
    return augmented.to(images)


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
