"""A module and batches become predictions, and the module is left as it was found."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tercet.core.errors import DataError, ModelError
from tercet.core.types import Batch
from tercet.models.forward import predict, predict_logits

CLASSES = ("a", "b", "c")


class Source:
    """Batches in a fixed order; remembers which epochs were asked for."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        self.asked.append(number)
        yield from self.batches[start:]


def batches(count: int, size: int, **options: Tensor | None) -> list[Batch]:
    made = []
    for number in range(count):
        images = torch.rand(size, 2, 4, 4)
        ids = tuple(f"{number}-{row}" for row in range(size))
        made.append(Batch(images, options.get("targets", torch.arange(size) % 3), ids, options.get("labels")))
    return made


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3))


def test_every_sample_once_in_order_with_softmax() -> None:
    source = Source(batches(3, 4))
    module = network()
    result = predict(module, source, classes=CLASSES)
    module.eval()
    with torch.no_grad():
        expected = torch.cat([module(batch.images).softmax(1) for batch in source.batches])
    assert source.asked == [0]
    assert result.ids == tuple(name for batch in source.batches for name in batch.ids)
    assert result.classes == CLASSES
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-6)
    assert result.labels.tolist() == [0, 1, 2, 0] * 3


def test_modes_statistics_and_gradients_are_left_alone() -> None:
    module = network().train()
    module[1].eval()  # a frozen part must not wake up
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


def test_tensors_made_by_the_source_stay_fit_for_training() -> None:
    class Lazy(Source):
        def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
            self.images = torch.rand(2, 2, 4, 4)  # made, and kept, while predicting
            yield Batch(self.images, None, ("x", "y"))

    source, module = Lazy([]), network()
    predict(module, source, classes=CLASSES)
    module(source.images).sum().backward()
    assert module[0].weight.grad is not None


def test_images_that_are_a_tuple_reach_the_module_as_one() -> None:
    class Two(nn.Module):
        def forward(self, images: tuple[Tensor, Tensor]) -> Tensor:
            first, second = images
            return torch.cat([first.mean((1, 2, 3))[:, None], second.mean((1, 2, 3))[:, None]], 1)

    batch = Batch((torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 8, 8)), None, ("x", "y"))
    result = predict(Two(), Source([batch]), classes=("first", "second"))
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
def test_labels_come_from_labels_else_from_hard_targets(options: dict, expected: list[int]) -> None:
    assert predict(network(), Source(batches(1, 2, **options)), classes=CLASSES).labels.tolist() == expected


def test_half_precision_logits_are_collected_as_floats() -> None:
    logits = predict_logits(network().bfloat16(), Source([Batch(torch.rand(2, 2, 4, 4).bfloat16(), None, ("x", "y"))]))
    assert logits.values.dtype == np.float32
    assert logits.values.shape == (2, 3)


def test_a_sample_that_comes_twice_is_named() -> None:
    source = Source(batches(1, 2) * 2)
    with pytest.raises(DataError, match="'0-0' comes twice"):
        predict(network(), source, classes=CLASSES)


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(DataError, match="no sample"):
        predict(network(), Source([]), classes=CLASSES)


def test_wrong_numbers_of_outputs_are_refused() -> None:
    with pytest.raises(ModelError, match="3 outputs for 2 classes"):
        predict(network(), Source(batches(1, 2)), classes=("a", "b"))
    with pytest.raises(ModelError, match="expected \\(2, classes\\)"):
        predict(nn.Conv2d(2, 3, 3), Source(batches(1, 2)), classes=CLASSES)


def test_logits_that_are_not_finite_name_the_sample() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    bad = torch.zeros(2, 2, 4, 4)
    bad[1] = torch.nan
    with pytest.raises(ModelError, match="'y' are not finite"):
        predict(module, Source([Batch(bad, None, ("x", "y"))]), classes=CLASSES)
