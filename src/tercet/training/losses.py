"""Losses for single-label and multi-label images.

Shapes: B images, K classes, T labels of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tercet.config.training import TrainingConfig
from tercet.core.errors import DivergedError, PartError, describe_result, naming_part, raise_problems
from tercet.core.registry import accepts
from tercet.core.types import Batch
from tercet.data.table import SampleTable
from tercet.training.parts import LOSSES

Objective = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]
"""Maps a module and a batch to (mean loss over the batch, logits B K)."""
_OPTIONS = {
    "weight": "--class-weights",
    "label_smoothing": "--label-smoothing",
    "sample_weight": "--data.weight-column",
}


class SingleLabel:
    """A loss of logits and single labels, by name.

    Args:
        name: A registered loss.
        weight: One weight per class, or None.
        label_smoothing: Fraction of the label's weight that is spread over all classes, in [0, 1).
        weighted: Whether the samples have weights.

    Raises:
        ConfigError: The loss is unknown, or does not accept class weights, label smoothing or sample weights.
    """

    def __init__(
        self,
        name: str = "cross-entropy",
        *,
        weight: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        weighted: bool = False,
    ) -> None:
        self.name, self.function = name, LOSSES[name]
        options = {"weight": weight, "label_smoothing": label_smoothing or None}
        self.options = {key: value for key, value in options.items() if value is not None}
        raise_problems(
            not accepts(self.function, key) and f"loss '{name}' has no parameter {key}: omit {_OPTIONS[key]}"
            for key in (*self.options, *(["sample_weight"] if weighted else []))
        )

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean loss of logits B K, whose samples have weights (B) or not.

        Raises:
            PartError: The function raises an exception, or returns no scalar.
        """
        options = self.options if weights is None else {**self.options, "sample_weight": weights}
        with naming_part(f"loss '{self.name}'"):
            loss = self.function(logits, targets, **options)
        if not isinstance(loss, Tensor) or loss.shape:
            raise PartError(
                f"loss '{self.name}' returned {describe_result(loss)}, expected the mean over the batch, a scalar"
            )
        return loss

    def __call__(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch and the logits B K."""
        assert batch.targets is not None  # training sources always carry targets
        logits = module(batch.images)
        return self.loss(logits, batch.targets, batch.weights), logits


class BinaryCrossEntropy:
    """Binary cross-entropy summed over labels, averaged over the batch; targets may be soft (Mixup, CutMix)."""

    def __call__(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch with targets B K, and the logits B K."""
        assert batch.targets is not None
        logits = module(batch.images)
        weights = None if batch.weights is None else batch.weights[:, None]
        summed = functional.binary_cross_entropy_with_logits(logits.float(), batch.targets, weights, reduction="sum")
        return summed / len(logits), logits


class LabelSequences:
    """Negative log likelihood of an image's label sequence: its labels, most frequent first, then END.

    The module is trained with teacher forcing (see `tercet.models.label_decoder`). The order by frequency is that of
    Wang et al., arXiv:1604.04573.

    Args:
        counts: Number of training images with each of the K labels.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        order = torch.tensor(counts).argsort(descending=True, stable=True)
        self.rank = torch.empty_like(order)
        self.rank[order] = torch.arange(len(order))

    def sequences(self, targets: Tensor) -> Tensor:
        """Return the labels of targets B K in order, padded with END (K): B T, where T is the largest label count."""
        num_labels = targets.shape[1]
        rank = self.rank.to(targets.device)
        present = targets > 0.5
        ranks = torch.where(present, rank, num_labels).sort(dim=1).values[:, : int(present.sum(1).max())]
        by_rank = torch.cat([rank.argsort(), rank.new_full((1,), num_labels)])
        return by_rank[ranks]

    def __call__(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean loss, and logits B K that are positive for labels that were the most probable at a step."""
        assert batch.targets is not None
        sequence = self.sequences(batch.targets)
        steps = module(batch.images, sequence).float()  # B T+1 K+1
        num_images, num_labels = batch.targets.shape
        ended = functional.pad(sequence, (0, 1), value=num_labels)  # B T+1
        after_end = functional.pad(sequence == num_labels, (1, 0))  # these steps are padding
        next_labels = ended.masked_fill(after_end, -100)
        next_labels, flat = next_labels.flatten(), steps.flatten(0, 1)
        if batch.weights is None:
            loss = functional.cross_entropy(flat, next_labels, ignore_index=-100, reduction="sum")
        else:
            losses = functional.cross_entropy(flat, next_labels, ignore_index=-100, reduction="none")
            loss = (losses.view(num_images, -1).sum(1) * batch.weights).sum()
        predicted = steps.argmax(dim=2).masked_fill(after_end, num_labels)
        chosen = functional.one_hot(predicted, num_labels + 1).amax(dim=1)[:, :num_labels]
        return loss / num_images, 2.0 * chosen - 1.0


def count_correct(logits: Tensor, batch: Batch) -> int:
    """Return how many images have the correct class or exactly the correct labels; 0 if only soft labels are known."""
    labels = batch.labels if batch.labels is not None else batch.targets
    if labels is None or labels.is_floating_point():
        return 0
    correct = logits.argmax(dim=1) == labels if labels.ndim == 1 else ((logits > 0) == (labels > 0)).all(dim=1)
    return int(correct.sum())


def require_finite(loss: float, batch: Batch, stage: int, epoch: int, step: int) -> None:
    """Raise before the gradient of a non-finite loss reaches the weights; numbers from 0.

    Raises:
        DivergedError: The loss is not finite.
    """
    if not math.isfinite(loss):
        names = ", ".join(batch.ids[:8]) + (", ..." if len(batch) > 8 else "")
        raise DivergedError(
            f"the loss is {loss} at stage {stage + 1}, epoch {epoch + 1}, step {step + 1} (images {names}): "
            "lower --lr, set --clip-grad-norm 1, or check these images"
        )


def class_weights(config: TrainingConfig, table: SampleTable) -> list[float] | None:
    """Return the weight of each class (K) in a training on some samples; None if all are 1."""
    if isinstance(config.class_weights, Mapping):
        return [float(config.class_weights.get(name, 1.0)) for name in table.classes]
    return None if config.class_weights == "none" else balanced_class_weights(table.class_counts().tolist())


def sample_weights(config: TrainingConfig, table: SampleTable) -> NDArray[np.float32] | None:
    """Return the weight of each training sample (N): that of its class, times its own; None if all are 1."""
    by_class, own = class_weights(config, table), table.normalized_weights()
    if by_class is None:
        return own
    weights = np.array(by_class, dtype=np.float32)[table.labels]
    return weights if own is None else weights * own


def balanced_class_weights(counts: Sequence[int]) -> list[float]:
    """Return N / (K n_k) per class, as scikit-learn's `balanced`: n_k of N samples, K classes with samples; else 0."""
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 0.0 for count in counts]
