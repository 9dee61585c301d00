"""Test-time augmentation: a module that averages the probabilities over several views of each image.

Shapes: B images, C channels, H x W pixels of the image, h x w of the network's input, K classes, L levels (numbers of
crops).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
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
        self.picture_size = views.enlarged_size(spec.size)
        flips = {(3,): views.flip, (2,): views.vflip, (2, 3): views.flip and views.vflip}
        self._flips = [axes for axes, enabled in flips.items() if enabled]

    def forward(self, images: Tensor) -> Tensor:
        """Map B C H W to B (L K)."""
        if self.views.plain:
            return cast("Tensor", self.module(images))
        images = scale(images, self.picture_size, cast("Interpolation", self.spec.interpolation))
        counts = self.views.crops or (1,)
        levels: list[Tensor] = []
        log_sum: Tensor | None = None
        num_views = 0
        for number, corner in enumerate(crop_corners(self.views, self.picture_size, self.spec.size), start=1):
            for view in self._views(images, corner):
                logits: Tensor = self.module(view)  # B K
                num_views += 1
                log_probabilities = functional.log_softmax(logits.float(), dim=1)
                log_sum = log_probabilities if log_sum is None else torch.logaddexp(log_sum, log_probabilities)
                mean = logits if num_views == 1 else log_sum - math.log(num_views)
            if number in counts:
                levels.append(mean)
        return torch.cat(levels, dim=1)

    def _views(self, images: Tensor, corner: tuple[int, int]) -> Iterator[Tensor]:
        """Yield the crop of B C H W at a corner with all its shifts and flips, B C h w each."""
        shift = self.views.shift
        if shift:
            images = functional.pad(images, (shift, shift, shift, shift), mode="replicate")
        shifts = [(0, 0), (-shift, 0), (shift, 0), (0, -shift), (0, shift)] if shift else [(0, 0)]
        height, width = self.spec.size
        for down, right in shifts:
            top, left = corner[0] + shift + down, corner[1] + shift + right
            view = images[..., top : top + height, left : left + width]  # B C h w
            yield view
            yield from (view.flip(axes) for axes in self._flips)


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
    module: nn.Module,
    source: BatchSource,
    *,
    views: TTAConfig,
    spec: InputSpec,
    classes: Sequence[str],
    device: str = "cpu",
) -> dict[TTAConfig, Predictions]:
    """Return the predictions for each number of crops (`views.levels()`), from one pass over the source.

    Args:
        module: Maps images B C h w to logits B K.
        source: Batches of images with `enlarged_input_spec(spec, views)`, or at their original size.
        views: Crops, flips and shifts.
        spec: Input spec of the module.
        classes: K class names.
        device: Device for the computation.

    Raises:
        DataError: The source is empty or has a sample twice, or logits are not finite.
        ModelError: The logits are not B K.
    """
    logits = predict_logits(TTAModel(module, views, spec), source, device=device)
    levels = views.levels()
    return {
        level: Predictions.from_logits(values, ids=logits.ids, classes=classes, labels=logits.labels)
        for level, values in zip(levels, np.split(logits.values, len(levels), axis=1), strict=True)
    }
