"""Inference: predictions over batches and throughput, without changes to the module."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tercet.core.errors import DataError, ModelError
from tercet.core.types import Batch
from tercet.models.forward import images_per_second, predict, predict_logits

CLASSES = ("a", "b", "c")


class Source:
    """Batches in a fixed order; records the epoch numbers."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.epochs: list[int] = []

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        self.epochs.append(number)
        yield from self.batches[start:]


def batches(count: int, size: int, **options: Tensor | None) -> list[Batch]:
    result = []
    for number in range(count):
        images = torch.rand(size, 2, 4, 4)
        ids = tuple(f"{number}-{row}" for row in range(size))
        result.append(Batch(images, options.get("targets", torch.arange(size) % 3), ids, options.get("labels")))
    return result


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3))


def test_predictions_are_softmax_outputs_in_order() -> None:
    source = Source(batches(3, 4))
    module = network()
    result = predict(module, source, classes=CLASSES)
    module.eval()
    with torch.no_grad():
        expected = torch.cat([module(batch.images).softmax(1) for batch in source.batches])
    assert source.epochs == [0]
    assert result.ids == tuple(name for batch in source.batches for name in batch.ids)
    assert result.classes == CLASSES
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-6)
    assert result.labels.tolist() == [0, 1, 2, 0] * 3


def test_predict_keeps_modes_statistics_and_gradients() -> None:
    module = network().train()
    module[1].eval()  # as a frozen layer
    before = {name: value.clone() for name, value in module.state_dict().items()}
    predict(module, Source(batches(2, 4)), classes=CLASSES)
    assert [part.training for part in module] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_modes_are_restored_after_an_error() -> None:
    module = network().train()
    with pytest.raises(RuntimeError):
        predict(module, Source([Batch(torch.rand(1, 5, 4, 4), None, ("x",))]), classes=CLASSES)
    assert all(part.training for part in module.modules())


def test_tensors_cached_by_the_source_can_be_used_for_training() -> None:
    class CachingSource(Source):
        def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
            self.images = torch.rand(2, 2, 4, 4)  # created during prediction
            yield Batch(self.images, None, ("x", "y"))

    source, module = CachingSource([]), network()
    predict(module, source, classes=CLASSES)
    module(source.images).sum().backward()
    assert module[0].weight.grad is not None


def test_a_tuple_of_images_is_passed_as_a_tuple() -> None:
    class TwoInputs(nn.Module):
        def forward(self, images: tuple[Tensor, Tensor]) -> Tensor:
            first, second = images
            return torch.cat([first.mean((1, 2, 3))[:, None], second.mean((1, 2, 3))[:, None]], 1)

    batch = Batch((torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 8, 8)), None, ("x", "y"))
    result = predict(TwoInputs(), Source([batch]), classes=("first", "second"))
    assert result.predicted.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"targets": None}, [-1, -1]),
        ({"targets": torch.full((2, 3), 1 / 3)}, [-1, -1]),
        ({"targets": torch.full((2, 3), 1 / 3), "labels": torch.tensor([2, 1])}, [2, 1]),
        ({"targets": torch.tensor([0, 0]), "labels": torch.tensor([2, 1])}, [2, 1]),
    ],
)
def test_labels_are_labels_or_hard_targets(options: dict, expected: list[int]) -> None:
    assert predict(network(), Source(batches(1, 2, **options)), classes=CLASSES).labels.tolist() == expected


def test_half_precision_logits_become_float32() -> None:
    logits = predict_logits(network().bfloat16(), Source([Batch(torch.rand(2, 2, 4, 4).bfloat16(), None, ("x", "y"))]))
    assert logits.values.dtype == np.float32
    assert logits.values.shape == (2, 3)


def test_a_duplicate_sample_raises_with_its_name() -> None:
    source = Source(batches(1, 2) * 2)
    with pytest.raises(DataError, match="'0-0' occurs twice"):
        predict(network(), source, classes=CLASSES)


def test_an_empty_source_raises() -> None:
    with pytest.raises(DataError, match="no sample"):
        predict(network(), Source([]), classes=CLASSES)


def test_a_wrong_number_of_outputs_raises() -> None:
    with pytest.raises(ModelError, match="3 outputs for 2 classes"):
        predict(network(), Source(batches(1, 2)), classes=("a", "b"))
    with pytest.raises(ModelError, match="expected \\(2, classes\\)"):
        predict(nn.Conv2d(2, 3, 3), Source(batches(1, 2)), classes=CLASSES)


def test_non_finite_logits_raise_with_the_sample_name() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    bad = torch.zeros(2, 2, 4, 4)
    bad[1] = torch.nan
    with pytest.raises(ModelError, match="'y' are not finite"):
        predict(module, Source([Batch(bad, None, ("x", "y"))]), classes=CLASSES)


class RecordingModule(nn.Module):
    """Records for each pass whether it ran in evaluation mode without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.passes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.passes.append(not self.training and not torch.is_grad_enabled())
        return self.layer(images)  # type: ignore[no-any-return]


def test_throughput_times_a_few_passes_and_keeps_the_module() -> None:
    module = RecordingModule().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert images_per_second(module, Batch(torch.rand(8, 4), None, tuple("abcdefgh"))) > 0
    assert 5 <= len(module.passes) <= 22 and all(module.passes)
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
