"""What is minimised, for one class an image and for sets of labels. B images, K classes, T labels of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.core.types import Batch

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


class BinaryCrossEntropy:
    """Every label by itself: the sum over the labels, the mean over the batch; sets may be soft (Mixup, CutMix)."""

    def __call__(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run the module on the batch's images and compare with its sets (B K)."""
        assert batch.targets is not None
        logits = module(batch.images)
        summed = functional.binary_cross_entropy_with_logits(logits.float(), batch.targets, reduction="sum")
        return summed / len(logits), logits


class LabelSequences:
    """The labels one after the other, the most frequent first, then END: the negative log probability of the sequence.

    The module follows the true sequence and tells the next label after each of its beginnings; see
    `tercet.models.label_decoder`.

    Args:
        counts: How often each of the K labels occurs in training.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        order = torch.tensor(counts).argsort(descending=True, stable=True)
        self.rank = torch.empty_like(order)
        self.rank[order] = torch.arange(len(order))

    def sequences(self, sets: Tensor) -> Tensor:
        """Return the labels of sets (B K) in order, padded with END (K): B T, T being the size of the largest set."""
        num_labels = sets.shape[1]
        rank = self.rank.to(sets.device)
        places = torch.where(sets > 0.5, rank, num_labels).sort(dim=1).values[:, : int((sets > 0.5).sum(1).max())]
        by_rank = torch.cat([rank.argsort(), rank.new_full((1,), num_labels)])
        return by_rank[places]

    def __call__(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean over the batch, and logits B K: positive for the labels that came out first at some step."""
        assert batch.targets is not None
        sequence = self.sequences(batch.targets)
        steps = module(batch.images, sequence).float()  # B T+1 K+1
        num_images, num_labels = batch.targets.shape
        ended = functional.pad(sequence, (0, 1), value=num_labels)  # B T+1
        past = functional.pad(sequence == num_labels, (1, 0))  # steps after END count for nothing
        wanted = ended.masked_fill(past, -100)
        loss = functional.cross_entropy(steps.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum")
        first = steps.argmax(dim=2).masked_fill(past, num_labels)
        named = functional.one_hot(first, num_labels + 1).amax(dim=1)[:, :num_labels]
        return loss / num_images, 2.0 * named - 1.0


def count_correct(logits: Tensor, batch: Batch) -> int:
    """Return how many images of a batch have the right class, or exactly the right set; 0 where labels are soft."""
    labels = batch.labels if batch.labels is not None else batch.targets
    if labels is None or labels.is_floating_point():
        return 0
    right = logits.argmax(dim=1) == labels if labels.ndim == 1 else ((logits > 0) == (labels > 0)).all(dim=1)
    return int(right.sum())


def balanced_class_weights(counts: Sequence[int]) -> list[float]:
    """Return N / (K * n_k) for each class of n_k samples; a class without samples weighs nothing."""
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 0.0 for count in counts]
