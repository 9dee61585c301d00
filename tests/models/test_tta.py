"""Test-time augmentation: views, crops, and averages of probabilities."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tercet.config.tta import NO_TTA, TTAConfig
from tercet.core.resize import scale
from tercet.core.types import Batch, InputSpec
from tercet.models.forward import predict
from tercet.models.tta import TTAModel, crop_corners, enlarged_input_spec, predict_levels

SPEC = InputSpec((8, 10))
CLASSES = ("a", "b", "c", "d")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 10, 16), nn.ReLU(), nn.Linear(16, 4))


def make_images(count: int = 6, size: tuple[int, int] = (8, 10)) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1))


def tta_logits(text: str, images: Tensor, seed: int = 0) -> Tensor:
    return TTAModel(network(), TTAConfig.parse(text, seed=seed), SPEC)(images).detach()


class Source:
    """Images in batches of any size."""

    def __init__(self, images: Tensor, batch_size: int, order: list[int] | None = None) -> None:
        self.images, self.batch_size = images, batch_size
        self.order = list(range(len(images))) if order is None else order

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def epoch(self, number: int, start: int = 0):
        for first in range(0, len(self.order), self.batch_size):
            rows = self.order[first : first + self.batch_size]
            yield Batch(self.images[rows], torch.tensor(rows) % 4, tuple(map(str, rows)))


@pytest.mark.parametrize("text", ["none", "crops:1@8", "crops:1@1x"])
@pytest.mark.parametrize("seed", [0, 9])
def test_a_single_view_of_the_full_image_equals_prediction(text: str, seed: int) -> None:
    images = make_images()
    assert torch.equal(tta_logits(text, images, seed), network()(images))
    plain = predict(network(), Source(images, 4), classes=CLASSES)
    views = TTAConfig.parse(text, seed=seed)
    (level,) = predict_levels(TTAModel(network(), views, SPEC), Source(images, 4), classes=CLASSES).values()
    assert np.array_equal(level.probabilities, plain.probabilities) and level.ids == plain.ids


def mean_over(views: list[Tensor]) -> Tensor:
    return torch.stack([network()(view).softmax(1) for view in views]).mean(0).detach()


@pytest.mark.parametrize(("text", "axes"), [("flip", [[3]]), ("vflip", [[2]]), ("vflip+flip", [[3], [2], [2, 3]])])
def test_probabilities_of_flips_are_averaged(text: str, axes: list[list[int]]) -> None:
    images = make_images()
    expected = mean_over([images, *(images.flip(axis) for axis in axes)])
    assert torch.allclose(tta_logits(text, images).softmax(1), expected, atol=1e-6)
    flipped = tta_logits(text, images.flip(axes[0])).softmax(1)
    assert torch.allclose(flipped, expected, atol=1e-6)


def test_shifts_repeat_the_border() -> None:
    images = make_images()
    left = torch.cat([images[..., 2:], images[..., -1:], images[..., -1:]], dim=3)
    right = torch.cat([images[..., :1], images[..., :1], images[..., :-2]], dim=3)
    up = torch.cat([images[..., 2:, :], images[..., -1:, :], images[..., -1:, :]], dim=2)
    down = torch.cat([images[..., :1, :], images[..., :1, :], images[..., :-2, :]], dim=2)
    expected = mean_over([images, left, right, up, down])
    assert torch.allclose(tta_logits("shifts:2", images).softmax(1), expected, atol=1e-6)


def test_crops_are_windows_of_the_enlarged_image() -> None:
    images = make_images(size=(21, 17))
    views = TTAConfig.parse("crops:4@12+flip", seed=5)
    assert views.enlarged_size(SPEC.size) == enlarged_input_spec(SPEC, views).size == (12, 15)
    enlarged = scale(images, (12, 15), "bilinear")
    windows = [enlarged[..., top : top + 8, left : left + 10] for top, left in crop_corners(views, (12, 15), (8, 10))]
    expected = mean_over([view for window in windows for view in (window, window.flip(3))])
    logits = tta_logits("crops:4@12+flip", images, seed=5)
    assert torch.allclose(logits.softmax(1), expected, atol=1e-6)
    assert torch.equal(
        tta_logits("crops:4@12+flip", enlarged, seed=5), logits
    )  # a loader may have resized the images already


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    margin=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    count=st.integers(1, 30),
    seed=st.integers(0, 2**32),
)
def test_crops_are_within_the_image(size: tuple[int, int], margin: tuple[int, int], count: int, seed: int) -> None:
    views = TTAConfig(crops=(count,), scale=2.0, seed=seed)
    image_size = (size[0] + margin[0], size[1] + margin[1])
    corners = crop_corners(views, image_size, size)
    assert len(corners) == count
    assert all(0 <= top <= margin[0] and 0 <= left <= margin[1] for top, left in corners)
    assert crop_corners(TTAConfig(crops=(count + 5,), scale=2.0, seed=seed), image_size, size)[:count] == corners


def test_corners_are_uniform_and_depend_on_the_seed() -> None:
    views = TTAConfig(crops=(1000,), scale=2.0)
    tops, lefts = np.array(crop_corners(views, (12, 14), (8, 10))).T
    for offsets in (tops, lefts):
        assert np.bincount(offsets, minlength=5).min() > 150  # 200 of each expected
    other = crop_corners(TTAConfig(crops=(1000,), scale=2.0, seed=1), (12, 14), (8, 10))
    assert other != list(zip(tops.tolist(), lefts.tolist(), strict=True))


def test_levels_equal_separate_predictions() -> None:
    images = make_images()
    views = TTAConfig.parse("crops:1,3,5@12+flip", seed=2)
    together = predict_levels(TTAModel(network(), views, SPEC), Source(images, 4), classes=CLASSES)
    assert list(together) == list(views.levels())
    for level, predictions in together.items():
        (separate,) = predict_levels(TTAModel(network(), level, SPEC), Source(images, 4), classes=CLASSES).values()
        assert np.array_equal(separate.probabilities, predictions.probabilities)
        assert np.array_equal(separate.labels, predictions.labels)


@settings(max_examples=20)
@given(order=st.permutations(range(6)), batch_size=st.integers(1, 6))
def test_predictions_do_not_depend_on_batches_and_order(order: list[int], batch_size: int) -> None:
    images, views = make_images(), TTAConfig.parse("crops:2@12+flip+shifts:1", seed=3)
    expected, batched = (
        predict_levels(TTAModel(network(), views, SPEC), source, classes=CLASSES)[views]
        for source in (Source(images, 6), Source(images, batch_size, order))
    )
    assert np.abs(batched.aligned_to(expected).probabilities - expected.probabilities).max() < 1e-6


def test_logits_of_certain_predictions_are_finite() -> None:
    class Certain(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([[400.0, -400.0, 0.0, 0.0]]).expand(len(images), 4)

    logits = TTAModel(Certain(), TTAConfig.parse("flip"), SPEC)(make_images())
    assert torch.isfinite(logits).all() and torch.allclose(logits.softmax(1)[:, 0], torch.ones(6))


def test_no_tta_keeps_shape_and_input_spec() -> None:
    assert TTAModel(network(), NO_TTA, SPEC)(make_images()).shape == (6, 4)
    assert enlarged_input_spec(SPEC, NO_TTA) == SPEC
