"""Losses, micro-batches, EMA, and the choice of precision."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError
from tercet.core.registry import PARTS
from tercet.core.types import Batch
from tercet.data.in_memory import table_from_arrays
from tercet.training.fabric import WeightAverage, choose_precision, require_bf16, split
from tercet.training.losses import SingleLabel, balanced_class_weights, class_weights, sample_weights


def test_hard_and_one_hot_labels_give_the_same_loss() -> None:
    logits, labels = torch.randn(8, 4), torch.randint(4, (8,))
    loss = SingleLabel(label_smoothing=0.1)
    assert loss.loss(logits, labels) == pytest.approx(float(loss.loss(logits, functional.one_hot(labels, 4).float())))


def test_losses_of_micro_batches_add_up_with_class_weights() -> None:
    logits, labels = torch.randn(10, 3), torch.randint(3, (10,))
    loss = SingleLabel(weight=[0.2, 1.0, 3.0])
    parts = sum(
        loss.loss(logits[rows], labels[rows]) * len(rows) / 10 for rows in (torch.arange(3), torch.arange(3, 10))
    )
    assert float(parts) == pytest.approx(float(loss.loss(logits, labels)), rel=1e-6)


def test_losses_of_micro_batches_add_up_with_sample_weights() -> None:
    weights = torch.rand(10) + 0.5
    batch = Batch(torch.randn(10, 3), torch.randint(3, (10,)), tuple("abcdefghij"), weights=weights)
    module, loss = nn.Flatten(), SingleLabel(weight=[0.2, 1.0, 3.0], label_smoothing=0.1, weighted=True)
    parts = sum(loss(module, part)[0] * len(part) / 10 for part in split(batch, 3))
    assert float(parts) == pytest.approx(float(loss(module, batch)[0]), rel=1e-6)
    single = [loss(module, batch.rows(slice(row, row + 1)))[0] for row in range(10)]
    assert batch.targets is not None
    unweighted = [loss.loss(batch.images[[row]], batch.targets[[row]]) for row in range(10)]  # type: ignore[call-overload]
    assert torch.stack(single).tolist() == pytest.approx((torch.stack(unweighted) * weights).tolist(), rel=1e-5)


def test_a_loss_without_sample_weights_is_an_error() -> None:
    with PARTS["loss"].scoped({"plain": lambda logits, targets: logits.mean()}):
        SingleLabel("plain")
        with pytest.raises(
            ConfigError, match=r"loss 'plain' has no parameter sample_weight: omit --data\.weight-column"
        ):
            SingleLabel("plain", weighted=True)


def test_weights_of_samples_are_those_of_their_class_times_their_own() -> None:
    table = table_from_arrays(np.zeros((4, 2, 2, 1), np.uint8), ["a", "b", "b", "c"])
    table = dataclasses.replace(table, weights=np.array([1.0, 2.0, 3.0, 2.0]))
    assert class_weights(TrainingConfig(class_weights={"b": 10}), table) == [1.0, 10.0, 1.0]
    weights = sample_weights(TrainingConfig(class_weights={"b": 10}), table)
    assert weights is not None and weights.tolist() == [0.5, 10.0, 15.0, 1.0]
    balanced = sample_weights(TrainingConfig(class_weights="balanced"), dataclasses.replace(table, weights=None))
    assert balanced is not None and balanced.tolist() == pytest.approx([4 / 3, 2 / 3, 2 / 3, 4 / 3])
    assert sample_weights(TrainingConfig(), dataclasses.replace(table, weights=None)) is None


def test_balanced_class_weights_give_each_class_the_same_total() -> None:
    counts = [10, 40, 0, 50]
    weights = balanced_class_weights(counts)
    sums = [weight * count for weight, count in zip(weights, counts, strict=True)]
    assert sums == pytest.approx([100 / 3, 100 / 3, 0, 100 / 3])


@pytest.mark.parametrize(("size", "num_parts"), [(7, 3), (2, 4), (5, 1), (8, 8)])
def test_split_keeps_all_samples_in_order(size: int, num_parts: int) -> None:
    batch = Batch(torch.arange(size).float(), torch.arange(size), tuple(map(str, range(size))))
    micro_batches = list(split(batch, num_parts))
    assert len(micro_batches) <= num_parts
    assert torch.equal(torch.cat([part.images for part in micro_batches]), batch.images)
    assert sum((part.ids for part in micro_batches), ()) == batch.ids


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (5, 0.4), (1000, 0.5)])
def test_ema_warms_up_and_is_applied_within_the_block_only(step: int, decay: float) -> None:
    module = nn.Linear(2, 2)
    start = module.weight.detach().clone()
    average = WeightAverage(module, 0.5)
    with torch.no_grad():
        module.weight += 1.0
    average.update(step)
    with average.applied():
        assert torch.allclose(module.weight, start + 1 - decay)
    assert torch.allclose(module.weight, start + 1.0)


class FailsInBf16(nn.Module):
    """Uses dropout (random numbers), and raises `error` in bf16 as a kernel that the processor lacks does."""

    def __init__(self, error: str = "") -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 3))
        self.error = error

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.error and torch.is_autocast_enabled("cpu"):
            raise RuntimeError(self.error)
        logits: torch.Tensor = self.layers(images)
        return logits


NO_BF16_LSTM = "could not create a primitive descriptor for the LSTM. Run workload with ONEDNN_VERBOSE"


def four_images() -> Batch:
    return Batch(torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 0]), ("a", "b", "c", "d"))


@pytest.mark.parametrize("error", ["", NO_BF16_LSTM])
def test_choose_precision_keeps_weights_and_random_state(error: str) -> None:
    module, batch = FailsInBf16(error), four_images()
    before, state = module.layers[2].weight.detach().clone(), torch.get_rng_state()
    chosen, reason = choose_precision(module, batch, SingleLabel(), device="cpu")
    assert chosen in ("32", "bf16") and "bf16" in reason
    assert torch.equal(module.layers[2].weight, before) and module.layers[2].weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)


def test_without_bf16_support_auto_chooses_32_and_bf16_raises() -> None:
    options = {"batch": four_images(), "objective": SingleLabel(), "device": "cpu"}
    chosen, reason = choose_precision(FailsInBf16(NO_BF16_LSTM), **options)
    assert chosen == "32" and reason.endswith("primitive descriptor for the LSTM")
    with pytest.raises(ConfigError, match=r"'rows'.*bf16.*LSTM.*--precision auto"):
        require_bf16(FailsInBf16(NO_BF16_LSTM), name="rows", **options)
    require_bf16(FailsInBf16(), name="dense", **options)


def test_errors_that_are_not_about_bf16_are_raised() -> None:
    options = {"batch": four_images(), "objective": SingleLabel(), "device": "cpu"}
    for module, message in ((nn.Linear(3, 3), "shapes"), (FailsInBf16("out of memory"), "out of memory")):
        with pytest.raises(RuntimeError, match=message):
            choose_precision(module, **options)
