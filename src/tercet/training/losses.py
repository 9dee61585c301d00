"""What is minimised. B images, K classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.records.contracts import Batch

Objective = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]
"""From a module and a batch to (mean loss over the batch, logits B K)."""


class CrossEntropy:
    """Cross-entropy with hard (B) or soft (B K) labels; the mean over the batch, whatever the class weights.

    Args:
        class_weights: One weight a class, or None.
        label_smoothing: Share of the label's weight spread over all classes, in [0, 1).
    """

    def __init__(self, *, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0) -> None:
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.label_smoothing = label_smoothing

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits B K."""
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        # the sum over B, not over the weights: parts of a batch then add up to the whole
        summed = functional.cross_entropy(
            logits.float(), targets, weight=weights, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return summed / len(logits)

    def __call__(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run the module on the batch's images and compare."""
        assert batch.targets is not None  # training sources always carry targets
        logits = module(batch.images)
        return self.loss(logits, batch.targets), logits


def balanced_class_weights(counts: Sequence[int]) -> list[float]:
    """Return N / (K * n_k) for each class of n_k samples; a class without samples weighs nothing."""
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 0.0 for count in counts]
