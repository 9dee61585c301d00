"""From the members' logits to the outputs of an exported file, as one module that both formats contain.

Votes and pruning select classes by logits: probabilities close to 1 or 0 may round to equal 32-bit values.
Shapes: B images, M members, K classes.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from tercet.core.calibration import MIN_PROBABILITY
from tercet.core.errors import ModelError
from tercet.ensemble.bundle import Bundle
from tercet.ensemble.combine import TIE_SHARE, Ties, WeightedOperation, ensemble_method
from tercet.ensemble.combiners import AnyCombiner, FoldMean
from tercet.models.fusion_head import FusionHead


class WeightedCombiner(nn.Module):
    """The operations of `tercet.ensemble.combine.combine_values`."""

    weights: Tensor | None

    def __init__(
        self,
        operation: WeightedOperation,
        weights: tuple[float, ...] | None = None,
        *,
        ties: Ties = "lowest",
        keep: int = 1,
    ) -> None:
        super().__init__()
        self.operation, self.ties, self.keep = operation, ties, keep
        self.register_buffer("weights", None if weights is None else torch.tensor(weights).view(1, -1, 1))

    def forward(self, logits: Tensor, values: Tensor, votes: Tensor | None = None) -> Tensor:
        """Map logits B M K, their probabilities or scores, and optional votes to combined values B K."""
        if self.operation == "mean":
            return self._mean(values)
        if self.operation == "vote":
            shares = self._mean(_top(logits, 1) if votes is None else votes)
            return shares if self.ties == "lowest" else (1 - TIE_SHARE) * shares + TIE_SHARE * self._mean(values)
        mean = self._mean(values * _top(logits, min(self.keep, logits.shape[2])))
        return mean / mean.sum(1, keepdim=True)

    def _mean(self, values: Tensor) -> Tensor:
        return values.mean(1) if self.weights is None else (values * self.weights).sum(1)


def _top(logits: Tensor, count: int) -> Tensor:
    """Return 1 for the `count` highest of each row B M K and 0 for the others; the lowest index wins a tie."""
    last = logits.topk(count, 2).values[..., -1:]
    higher, equal = logits > last, logits == last
    missing = count - higher.sum(2, keepdim=True)
    return (higher | (equal & (equal.cumsum(2) <= missing))).to(logits.dtype)


class ModuleCombiner(nn.Module):
    """A module from probabilities B M K to B K: a trained head, or a combiner of the caller's."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        """Map the members' probabilities B M K to B K."""
        return cast("Tensor", self.module(probabilities))


class FoldMeanCombiner(nn.Module):
    """The mean over the folds of a cross-validation."""

    def __init__(self, folds: FoldMean) -> None:
        super().__init__()
        self.sizes = [part.num_members for part in folds.parts]
        self.folds = nn.ModuleList(combiner_module(part.combiner) for part in folds.parts)

    def forward(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        """Map logits B M K of all folds and their softmax to B K."""
        parts = (torch.split(values, self.sizes, 1) for values in (logits, probabilities))
        return torch.stack([fold(*values) for fold, *values in zip(self.folds, *parts, strict=True)], 1).mean(1)


def combiner_module(combiner: AnyCombiner | None) -> nn.Module:
    """Return a combiner (None: that of a single member) as a module from logits and probabilities B M K to B K.

    Raises:
        ModelError: The combiner is a function without a PyTorch form.
    """
    if combiner is None:
        return WeightedCombiner("mean")
    if isinstance(combiner, FoldMean):
        return FoldMeanCombiner(combiner)
    if isinstance(combiner, FusionHead):
        return ModuleCombiner(nn.Sequential(combiner, nn.Softmax(1)))
    if (operation := combiner.weighted_operation) is not None:
        return WeightedCombiner(operation, combiner.weights, ties=combiner.ties, keep=combiner.keep)
    module = ensemble_method(combiner.method).module
    if module is None:
        raise ModelError(
            f"the ensemble method '{combiner.method}' cannot be exported: it is a NumPy function; register it with a "
            "PyTorch module, or as weights"
        )
    return ModuleCombiner(module())


class Outputs(nn.Module):
    """Activation, combiner, and calibration or label sets of a bundle."""

    thresholds: Tensor

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.rule = bundle.sets
        self.temperature = 1.0 if bundle.calibration is None else bundle.calibration.temperature
        if self.rule is None:
            self.combine = combiner_module(bundle.combiner)
        else:
            operation: WeightedOperation = "vote" if self.rule.operation == "vote" else "mean"
            self.combine = WeightedCombiner(operation, self.rule.weights)
            self.register_buffer("thresholds", torch.tensor(self.rule.thresholds).view(1, -1, 1))

    def forward(self, logits: Tensor) -> dict[str, Tensor]:
        """Map logits B M K to `probabilities` B K, `members` B M K and, if multi-label, `chosen` B K."""
        if self.rule is not None:
            scores = logits.sigmoid()
            votes = scores > self.thresholds
            combined = self.combine(logits, scores, votes.float())
            labels = votes[:, 0] if self.rule.operation is None else combined > self.rule.threshold
            return {"probabilities": combined, "members": scores, "chosen": labels}
        probabilities = logits.softmax(2)
        combined = self.combine(logits, probabilities)
        if self.temperature != 1:
            combined = (combined.clamp(min=MIN_PROBABILITY).log() / self.temperature).softmax(1)
        return {"probabilities": combined, "members": probabilities}
