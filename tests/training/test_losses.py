import pytest
import torch
from torch import nn
from torch.nn import functional

from tercet.core.errors import ConfigError
from tercet.core.types import Batch
from tercet.training.fabric import choose_precision, require_bf16, split
from tercet.training.losses import CrossEntropy, balanced_class_weights
from tercet.training.optim import WeightAverage


def test_hard_and_one_hot_labels_agree() -> None:
    logits, labels = torch.randn(8, 4), torch.randint(4, (8,))
    loss = CrossEntropy(label_smoothing=0.1)
    assert loss.loss(logits, labels) == pytest.approx(float(loss.loss(logits, functional.one_hot(labels, 4).float())))


def test_parts_add_up_to_the_whole_even_with_class_weights() -> None:
    logits, labels = torch.randn(10, 3), torch.randint(3, (10,))
    loss = CrossEntropy(class_weights=[0.2, 1.0, 3.0])
    parts = sum(
        loss.loss(logits[rows], labels[rows]) * len(rows) / 10 for rows in (torch.arange(3), torch.arange(3, 10))
    )
    assert float(parts) == pytest.approx(float(loss.loss(logits, labels)), rel=1e-6)


def test_balanced_weights_give_every_class_the_same_sum() -> None:
    counts = [10, 40, 0, 50]
    weights = balanced_class_weights(counts)
    sums = [weight * count for weight, count in zip(weights, counts, strict=True)]
    assert sums == pytest.approx([100 / 3, 100 / 3, 0, 100 / 3])


@pytest.mark.parametrize(("size", "parts"), [(7, 3), (2, 4), (5, 1), (8, 8)])
def test_split_loses_and_reorders_nothing(size: int, parts: int) -> None:
    batch = Batch(torch.arange(size).float(), torch.arange(size), tuple(map(str, range(size))))
    pieces = list(split(batch, parts))
    assert len(pieces) <= parts
    assert torch.equal(torch.cat([piece.images for piece in pieces]), batch.images)
    assert sum((piece.ids for piece in pieces), ()) == batch.ids


def test_averaging_follows_the_weights_and_comes_off_again() -> None:
    module = nn.Linear(2, 2)
    start = module.weight.detach().clone()
    average = WeightAverage(module, 0.5)
    with torch.no_grad():
        module.weight += 1.0
    average.update()
    with average.applied():
        assert torch.allclose(module.weight, start + 0.5)
    assert torch.allclose(module.weight, start + 1.0)


class Dropped(nn.Module):
    """A network that draws from the generators, and fails in bf16 as a kernel does that a processor lacks."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 3))
        self.fault = fault

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.fault and torch.is_autocast_enabled("cpu"):
            raise RuntimeError(self.fault)
        logits: torch.Tensor = self.layers(images)
        return logits


LACKING = "could not create a primitive descriptor for the LSTM. Run workload with ONEDNN_VERBOSE"


def four_images() -> Batch:
    return Batch(torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 0]), ("a", "b", "c", "d"))


@pytest.mark.parametrize("fault", ["", LACKING])
def test_choosing_a_precision_changes_neither_the_network_nor_the_draws(fault: str) -> None:
    module, batch = Dropped(fault), four_images()
    before, state = module.layers[2].weight.detach().clone(), torch.get_rng_state()
    chosen, reason = choose_precision(module, batch, CrossEntropy(), device="cpu")
    assert chosen in ("32", "bf16") and "bf16" in reason
    assert torch.equal(module.layers[2].weight, before) and module.layers[2].weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)


def test_what_fails_in_bf16_is_trained_in_32_bits_or_refused() -> None:
    options = {"batch": four_images(), "objective": CrossEntropy(), "device": "cpu"}
    chosen, reason = choose_precision(Dropped(LACKING), **options)
    assert chosen == "32" and reason.endswith("primitive descriptor for the LSTM")
    with pytest.raises(
        ConfigError, match=r"'rows' cannot be computed in bf16 .*LSTM\): use --precision 32 or --precision auto"
    ):
        require_bf16(Dropped(LACKING), name="rows", **options)
    require_bf16(Dropped(), name="dense", **options)


def test_what_fails_in_32_bits_too_or_lacks_memory_is_no_matter_of_bf16() -> None:
    options = {"batch": four_images(), "objective": CrossEntropy(), "device": "cpu"}
    for module, message in ((nn.Linear(3, 3), "shapes"), (Dropped("out of memory"), "out of memory")):
        with pytest.raises(RuntimeError, match=message):
            choose_precision(module, **options)
