"""Test-time augmentation: a module that looks at several views of each picture and averages what it sees.

Shapes: B images, C channels, H x W pixels of the picture, h x w of the network's input, K classes, L levels.
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
    """Return what a loader must bring so that `views` can be cut out: `spec`, at the picture's size."""
    return replace(spec, size=views.enlarged_size(spec.size))


class TTAModel(nn.Module):
    """A network that is shown several views of each picture; its probabilities are averaged over them.

    Maps pictures B C H W in [0, 1] to the logarithms of the mean probabilities, B K: logits whose softmax is that
    mean. With several numbers of crops these follow each other, B (L K). Where there is one view its logits are
    returned as they are, so that one crop of the whole picture is the plain prediction, bit for bit.

    Args:
        module: Maps B C h w in [0, 1] to logits B K.
        views: What to show.
        spec: What the module wants to see; its size is that of every view.
    """

    def __init__(self, module: nn.Module, views: TTAConfig, spec: InputSpec) -> None:
        super().__init__()
        self.module, self.views, self.spec = module, views, spec
        self.picture_size = views.enlarged_size(spec.size)
        wanted = {(3,): views.flip, (2,): views.vflip, (2, 3): views.flip and views.vflip}
        self._mirrors = [axes for axes, asked in wanted.items() if asked]

    def forward(self, images: Tensor) -> Tensor:
        """Map B C H W to B (L K)."""
        if self.views.plain:
            return cast("Tensor", self.module(images))
        pictures = scale(images, self.picture_size, cast("Interpolation", self.spec.interpolation))
        counts = self.views.crops or (1,)
        answers: list[Tensor] = []
        total: Tensor | None = None
        passes = 0
        for number, corner in enumerate(crop_corners(self.views, self.picture_size, self.spec.size), start=1):
            for view in self._around(pictures, corner):
                logits: Tensor = self.module(view)  # B K
                passes += 1
                said = functional.log_softmax(logits.float(), dim=1)
                total = said if total is None else torch.logaddexp(total, said)
                last = logits if passes == 1 else total - math.log(passes)
            if number in counts:
                answers.append(last)
        return torch.cat(answers, dim=1)

    def _around(self, pictures: Tensor, corner: tuple[int, int]) -> Iterator[Tensor]:
        """Yield one crop of B C H W, moved and mirrored in every way asked for."""
        reach = self.views.shift
        if reach:
            pictures = functional.pad(pictures, (reach, reach, reach, reach), mode="replicate")
        moves = [(0, 0), (-reach, 0), (reach, 0), (0, -reach), (0, reach)] if reach else [(0, 0)]
        height, width = self.spec.size
        for down, right in moves:
            top, left = corner[0] + reach + down, corner[1] + reach + right
            view = pictures[..., top : top + height, left : left + width]  # B C h w
            yield view
            yield from (view.flip(axes) for axes in self._mirrors)


def crop_corners(views: TTAConfig, picture: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the top left corners of the crops, for the largest number of them.

    A corner is a function of the seed and the number of the crop alone: the same for every image, whatever batch it is
    in, and at the same share of the free way for pictures of any size. Fewer crops are the first ones of more.

    Args:
        views: How many, and their seed.
        picture: Height and width to cut from.
        size: Height and width of a crop.
    """
    if not views.crops:
        return [(0, 0)]
    corners = []
    for number in range(max(views.crops)):
        shares = np.random.default_rng([views.seed, number]).random(2)  # in [0, 1)
        top, left = (int(share * (whole - part + 1)) for share, whole, part in zip(shares, picture, size, strict=True))
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
    """Return the predictions at each of `views.levels()`, from one pass over the source.

    Args:
        module: Maps images B C h w to logits B K.
        source: Pictures as `picture_spec(spec, views)` asks for, or at their own size.
        views: What to show.
        spec: What the module wants to see.
        classes: K class names.
        device: Where to compute.

    Raises:
        DataError: The source is empty or names a sample twice, or logits are not finite.
        ModelError: The logits are not B K.
    """
    logits = predict_logits(TTAModel(module, views, spec), source, device=device)
    levels = views.levels()
    return {
        level: Predictions.from_logits(part, ids=logits.ids, classes=classes, labels=logits.labels)
        for level, part in zip(levels, np.split(logits.values, len(levels), axis=1), strict=True)
    }
