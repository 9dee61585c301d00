"""Test-time augmentation: a module that averages the probabilities over several views of each image.

Shapes: B images, V views, F features, C channels, H x W pixels of the image, h x w of the network's input, K classes,
L levels (numbers of crops).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.config.tta import TTAConfig
from tercet.core.predictions import Predictions
from tercet.core.resize import Interpolation, scale
from tercet.core.types import BatchSource, InputSpec
from tercet.models.forward import predict_logits


def enlarged_input_spec(spec: InputSpec, views: TTAConfig) -> InputSpec:
    """Return the input spec for a loader: that of the network, at the size from which `views` are cropped."""
    return replace(spec, size=views.enlarged_size(spec.size))


class TTAModel(nn.Module):
    """A network whose probabilities are averaged over several views of each image.

    Maps images B C H W in [0, 1] to log mean probabilities B K: logits whose softmax is the mean. For several numbers
    of crops they are concatenated, B (L K). The logits of a single view are returned unchanged, so that one crop of the
    full image gives the plain prediction, bit for bit.

    Args:
        module: Maps B C h w in [0, 1] to logits B K.
        views: Crops, flips and shifts.
        spec: Input spec of the module; its size is that of every view.
    """

    def __init__(self, module: nn.Module, views: TTAConfig, spec: InputSpec) -> None:
        super().__init__()
        self.module, self.views, self.spec = module, views, spec

    def forward(self, images: Tensor) -> Tensor:
        """Map B C H W to B (L K)."""
        if self.views.plain:
            return cast("Tensor", self.module(images))
        return _average(map(self.module, extract(images, views_of(self.views, self.spec), self.spec)), self.views)


class FeatureTTAModel(nn.Module):
    """The part of a network after its backbone, averaged like `TTAModel`; maps features of V views B V F to B (L K).

    Args:
        module: Maps features B F to logits B K.
        views: Crops, flips and shifts.
    """

    def __init__(self, module: nn.Module, views: TTAConfig) -> None:
        super().__init__()
        self.module, self.views = module, views

    def forward(self, features: Tensor) -> Tensor:
        """Map B V F to B (L K)."""
        return _average(map(self.module, features.unbind(1)), self.views)


def _average(view_logits: Iterable[Tensor], views: TTAConfig) -> Tensor:
    """Return the mean of the probabilities over the first views, for each number of crops (B, L K)."""
    counts = views.crops or (1,)
    per_crop = views.passes // max(counts)
    levels: list[Tensor] = []
    log_sum: Tensor | None = None
    for number, logits in enumerate(view_logits, start=1):
        log_probabilities = functional.log_softmax(logits.float(), dim=1)
        log_sum = log_probabilities if log_sum is None else torch.logaddexp(log_sum, log_probabilities)
        if number % per_crop == 0 and number // per_crop in counts:
            levels.append(logits if number == 1 else log_sum - math.log(number))
    return torch.cat(levels, dim=1)


@dataclass(frozen=True)
class View:
    """A crop of an image that was resized, and its flip."""

    image_size: tuple[int, int]
    """Height and width to which the image is resized."""
    top: int
    left: int
    """Position of the crop; beyond the border, pixels of the border are repeated."""
    flips: tuple[int, ...] = ()
    """Flipped axes of B C H W."""

    def __str__(self) -> str:
        """Return a name that is part of a file name; equal views have equal names."""
        height, width = self.image_size
        flips = "".join("vh"[axis - 2] for axis in self.flips)
        return f"{height}x{width}+{self.top}+{self.left}{flips and '+'}{flips}"


def plain_view(spec: InputSpec) -> View:
    """Return the view that is the whole image."""
    return View(spec.size, 0, 0)


def views_of(views: TTAConfig, spec: InputSpec) -> list[View]:
    """Return the views of every image, crop by crop."""
    size, shift = views.enlarged_size(spec.size), views.shift
    shifts = [(0, 0), (-shift, 0), (shift, 0), (0, -shift), (0, shift)] if shift else [(0, 0)]
    enabled = {(): True, (3,): views.flip, (2,): views.vflip, (2, 3): views.flip and views.vflip}
    flips = [axes for axes, used in enabled.items() if used]
    corners = crop_corners(views, size, spec.size)
    return [
        View(size, top + down, left + right, axes) for top, left in corners for down, right in shifts for axes in flips
    ]


def extract(images: Tensor, views: Sequence[View], spec: InputSpec) -> Iterator[Tensor]:
    """Yield views B C h w of the size of the spec, all with the same image size, from images B C H W in [0, 1]."""
    (image_size,) = {view.image_size for view in views}
    images = scale(images, image_size, cast("Interpolation", spec.interpolation))
    height, width = spec.size
    for view in views:
        bottom, right = view.top + height - image_size[0], view.left + width - image_size[1]
        margins = tuple(max(0, margin) for margin in (-view.left, right, -view.top, bottom))
        padded = functional.pad(images, margins, mode="replicate") if any(margins) else images
        top, left = max(0, view.top), max(0, view.left)
        crop = padded[..., top : top + height, left : left + width]
        yield crop.flip(view.flips) if view.flips else crop


def crop_corners(views: TTAConfig, image_size: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the top left corners of the crops, for the largest of the numbers of crops.

    A corner depends on the seed and the index of the crop only, so that it is the same for all images and batches.
    Smaller numbers of crops are the first ones.

    Args:
        views: Numbers of crops, and their seed.
        image_size: Height and width of the image.
        size: Height and width of a crop.
    """
    if not views.crops:
        return [(0, 0)]
    corners = []
    for number in range(max(views.crops)):
        fractions = np.random.default_rng([views.seed, number]).random(2)  # in [0, 1)
        margins = (outer - inner + 1 for outer, inner in zip(image_size, size, strict=True))
        top, left = (int(fraction * margin) for fraction, margin in zip(fractions, margins, strict=True))
        corners.append((top, left))
    return corners


def predict_levels(
    model: TTAModel | FeatureTTAModel,
    source: BatchSource,
    *,
    classes: Sequence[str],
    device: str = "cpu",
) -> dict[TTAConfig, Predictions]:
    """Return the predictions for each number of crops (`views.levels()`), from one pass over the source.

    Args:
        model: A network with its views.
        source: Batches of images with `enlarged_input_spec(spec, views)`, or at their original size; or of features.
        classes: K class names.
        device: Device for the computation.

    Raises:
        DataError: The source is empty or has a sample twice, or logits are not finite.
        ModelError: The logits are not B K.
    """
    logits = predict_logits(model, source, device=device)
    levels = model.views.levels()
    return {
        level: Predictions.from_logits(values, ids=logits.ids, classes=classes, labels=logits.labels)
        for level, values in zip(levels, np.split(logits.values, len(levels), axis=1), strict=True)
    }
