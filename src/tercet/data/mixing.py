"""Mixup and CutMix: two images become one, and their labels are shared accordingly.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


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
    top, bottom = _span(centre[0], side, height)
    left, right = _span(centre[1], side, width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[order, :, top:bottom, left:right]
    pasted = (bottom - top) * (right - left) / (height * width)
    return mixed, targets.lerp(targets[order], pasted)


def _draw(count: int, alpha: float, generator: torch.Generator) -> tuple[float, Tensor]:
    """Draw the share of the first image, from Beta(alpha, alpha), and the partners (B)."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    return share, torch.randperm(count, generator=generator)


def _span(centre: float, side: float, size: int) -> tuple[int, int]:
    """Return the pixels that an interval around `centre` (fractions of the size) covers, cut at the border."""
    low, high = (round((centre + sign * side / 2) * size) for sign in (-1, 1))
    return max(0, low), min(size, high)
