"""From members' logits to the answer, over tensors of 32 bits: what `evaluation.combining` does over arrays.

As in `deploy.export.combining`, whatever picks a class picks by logits. Shapes: B images, M members, K classes.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from tercet.deploy.answers import AnyCombiner, FoldMean
from tercet.evaluation.combining import TIE_SHARE, Combiner
from tercet.evaluation.set_combining import SetRule
from tercet.models.fusion import FusionHead
from tercet.records.calibration import SMALLEST, Calibration


class Fusing(nn.Module):
    """A way to combine members that tell one class an image.

    Args:
        combiner: The way; None for a single member.
    """

    def __init__(self, combiner: AnyCombiner | None) -> None:
        super().__init__()
        self.rule = combiner if isinstance(combiner, Combiner) else None
        self.head = combiner if isinstance(combiner, FusionHead) else None
        folds = combiner.parts if isinstance(combiner, FoldMean) else ()
        self.sizes = [part.num_members for part in folds]
        self.folds = nn.ModuleList(Fusing(part.combiner) for part in folds)

    def forward(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        """Map logits B M K and their softmax to the fused probabilities B K."""
        if self.sizes:
            parts = (torch.split(values, self.sizes, 1) for values in (logits, probabilities))
            own = zip(self.folds, *parts, strict=True)
            return torch.stack([fold(*values) for fold, *values in own], 1).mean(1)
        if self.head is not None:
            return cast("Tensor", self.head(probabilities)).softmax(1)
        return probabilities[:, 0] if self.rule is None else _combined(self.rule, logits, probabilities)


def _combined(rule: Combiner, logits: Tensor, probabilities: Tensor) -> Tensor:
    if rule.weights is not None:
        shares = torch.tensor(rule.weights, dtype=torch.float32, device=logits.device)
        return (probabilities * shares.view(1, -1, 1)).sum(1)
    if rule.method == "vote":
        shares = _picked(logits, 1).mean(1)
        if rule.ties == "lowest":
            return shares
        return (1 - TIE_SHARE) * shares + TIE_SHARE * probabilities.mean(1)
    if rule.method == "pruned":
        mean = (probabilities * _picked(logits, min(rule.keep, logits.shape[2]))).mean(1)
        return mean / mean.sum(1, keepdim=True)
    return probabilities.mean(1)


def _picked(logits: Tensor, count: int) -> Tensor:
    """Return 1 for the `count` highest of each row B M K and 0 for the others; the lowest index wins a tie."""
    places = logits.sort(dim=2, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(logits).scatter(2, places, 1.0)


def calibrated(probabilities: Tensor, calibration: Calibration | None) -> Tensor:
    """Return softmax(log p / T), B K."""
    if calibration is None or calibration.temperature == 1:
        return probabilities
    return (probabilities.clamp(min=SMALLEST).log() / calibration.temperature).softmax(1)


def chosen_sets(scores: Tensor, rule: SetRule) -> tuple[Tensor, Tensor]:
    """Return the fused scores and the chosen labels, B K each, of members' scores B M K."""
    limits = torch.tensor(rule.thresholds, dtype=torch.float32, device=scores.device)
    own = scores > limits.view(1, -1, 1)
    if rule.method == "single":
        return scores[:, 0], own[:, 0]
    fused = (own.float() if rule.method == "vote" else scores).mean(1)
    return fused, fused > rule.threshold
