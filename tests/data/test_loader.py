import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.image_trees import Tree, picture

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.resize import fit_size
from tercet.core.types import Batch, InputSpec
from tercet.data.image_cache import CachedImages, ImageCache
from tercet.data.in_memory import table_from_arrays
from tercet.data.load import load_table
from tercet.data.loader import ImageLoader, prepare

SPEC = InputSpec((8, 8), 1)
ON_DEMAND = DataConfig(memory_budget=1)


def array_cache(count: int, *, size: tuple[int, int] = (8, 8), channels: int = 1) -> CachedImages:
    shape = (count, *size, channels)
    return ImageCache.decode(
        table_from_arrays(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)), DataConfig()
    )[0]


def loader(
    cache: CachedImages, rows: Sequence[int] | None = None, *, num_classes: int = 3, **options: Any
) -> ImageLoader:
    positions = np.arange(len(cache)) if rows is None else np.array(rows, dtype=np.int64)
    options = {"specs": [SPEC], "batch_size": 4, "labels": positions % num_classes, **options}
    return ImageLoader(cache, positions, ids=[f"i{row}" for row in positions], num_classes=num_classes, **options)


def assert_equal(first: Batch, second: Batch) -> None:
    def tensors(batch: Batch) -> list[torch.Tensor | None]:
        images = batch.images if isinstance(batch.images, tuple) else (batch.images,)
        return [*images, batch.targets, batch.labels]

    assert first.ids == second.ids
    for expected, actual in zip(tensors(first), tensors(second), strict=True):
        assert (expected is None and actual is None) or (
            expected is not None and actual is not None and torch.equal(expected, actual)
        )


@pytest.mark.parametrize("mixing", [{}, {"mixup": 1.0}, {"cutmix": 1.0, "mixup": 1.0}], ids=str)
def test_weights_follow_their_images(mixing: dict[str, float]) -> None:
    cache, weights = array_cache(12), np.linspace(0.5, 1.5, 12, dtype=np.float32)
    for batch in loader(cache, num_classes=12, labels=np.arange(12), shuffle=True, weights=weights, **mixing).epoch(0):
        assert batch.weights is not None and batch.targets is not None
        labels = batch.targets if mixing else torch.nn.functional.one_hot(batch.targets, 12).float()
        torch.testing.assert_close(batch.weights, labels @ torch.from_numpy(weights))  # mixed as the labels
    assert next(loader(cache).epoch(0)).weights is None


def test_images_labels_and_ids_are_aligned() -> None:
    cache = array_cache(11)
    for batch in loader(cache, [10, 3, 4, 1, 7], shuffle=True, batch_size=2).epoch(0):
        assert isinstance(batch.images, torch.Tensor) and batch.targets is not None and batch.labels is None
        assert batch.images.dtype == torch.float32 and batch.images.is_contiguous()
        for image, target, name in zip(batch.images, batch.targets, batch.ids, strict=True):
            row = int(name[1:])
            assert int(target) == row % 3
            torch.testing.assert_close(image * 255, torch.from_numpy(cache.read(row)).permute(2, 0, 1).float())


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 23),
    batch_size=st.integers(1, 7),
    shuffle=st.booleans(),
    balanced=st.booleans(),
    preset=st.sampled_from(["none", "light-flip", "paper", "leaves"]),
    mix=st.sampled_from([{}, {"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}, {"random_erasing": 0.5}]),
    seed=st.integers(0, 3),
    number=st.integers(0, 3),
    data=st.data(),
)
def test_epoch_is_a_pure_function(
    count: int,
    batch_size: int,
    shuffle: bool,
    balanced: bool,
    preset: str,
    mix: dict[str, float],
    seed: int,
    number: int,
    data: st.DataObject,
) -> None:
    options: dict[str, Any] = {"shuffle": shuffle, "balanced": balanced, "augment": preset, "seed": seed, **mix}
    cache = array_cache(count)
    source = loader(cache, batch_size=batch_size, **options)
    batches = list(source.epoch(number))
    states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # type: ignore[union-attr]
    start = data.draw(st.integers(0, len(batches)))
    resumed = list(loader(cache, batch_size=batch_size, **options).epoch(number, start))
    assert len(source) == len(batches) and len(resumed) == len(batches) - start
    for first, second in zip(batches[start:], resumed, strict=True):
        assert_equal(first, second)
    sampled = [name for batch in batches for name in batch.ids]
    assert len(sampled) == count
    if not balanced:
        assert sorted(sampled) == sorted(f"i{row}" for row in range(count))
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all() and states[2] == random.getstate()  # type: ignore[index]


def test_order_depends_on_epoch_and_seed_only_if_shuffled() -> None:
    cache = array_cache(40)

    def order(number: int, **options: Any) -> list[str]:
        return [name for batch in loader(cache, **options).epoch(number) for name in batch.ids]

    assert order(0) == order(1) == [f"i{row}" for row in range(40)]
    assert order(0, shuffle=True) != order(1, shuffle=True)
    assert order(0, shuffle=True) != order(0, shuffle=True, seed=1)


def test_augmentation_differs_between_batches_and_epochs() -> None:
    source = loader(array_cache(8), [0] * 1 + [0], batch_size=1, augment="light")
    first, second = (batch.images for batch in source.epoch(0))
    third = next(iter(source.epoch(1))).images
    assert not torch.equal(first, second) and not torch.equal(first, third)  # type: ignore[arg-type]


def test_random_erasing_does_not_change_other_random_draws() -> None:
    cache, options = array_cache(8), {"batch_size": 4, "augment": "light", "shuffle": True}
    plain, erased = (list(loader(cache, **options, **more).epoch(0)) for more in ({}, {"random_erasing": 1.0}))
    boxes = []
    for before, after in zip(plain, erased, strict=True):
        assert before.ids == after.ids
        assert isinstance(before.images, torch.Tensor) and isinstance(after.images, torch.Tensor)
        changed = (before.images != after.images).all(1)  # B H W
        unchanged = (before.images == after.images).all(1)
        assert bool((changed | unchanged).all()) and bool(changed.any((1, 2)).all())
        boxes.append(changed)
    assert not torch.equal(*boxes)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("uniform", [True, False])
def test_batches_do_not_depend_on_workers(pets: Path, num_workers: int, uniform: bool) -> None:
    if not uniform:
        picture(3, size=(17, 4)).save(pets / "cat/0.png")
    table = load_table(pets, ON_DEMAND)
    options: dict[str, Any] = {
        "specs": [InputSpec((8, 8), 3)],
        "augment": "paper",
        "mixup": 0.3,
        "shuffle": True,
        "batch_size": 7,
    }
    memory, _ = ImageCache.decode(table, DataConfig())
    expected = list(loader(memory, **options).epoch(2, 1))
    cache, _ = ImageCache.decode(table, ON_DEMAND)
    before = torch.get_rng_state()
    actual = list(loader(cache, num_workers=num_workers, **options).epoch(2, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert len(actual) == len(expected) == 4
    for first, second in zip(actual, expected, strict=True):
        assert_equal(first, second)


def test_deleted_file_is_reported_with_and_without_workers(pets: Path) -> None:
    cache, _ = ImageCache.decode(load_table(pets, ON_DEMAND), ON_DEMAND)
    (pets / "dog/3.png").unlink()
    for num_workers in (0, 1):
        with pytest.raises(DataError, match=r"^dog/3.png can no longer be read") as caught:
            list(loader(cache, num_workers=num_workers, specs=[InputSpec((8, 8), 3)]).epoch(0))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec", [InputSpec((8, 8), 1), InputSpec((5, 5), 1), InputSpec((32, 16), 3, interpolation="bicubic")]
)
def test_plain_specs_get_images_at_native_size(spec: InputSpec) -> None:
    cache = array_cache(6, size=(10, 9))
    for batch in loader(cache, specs=[spec, InputSpec((64, 64), 1)]).epoch(0):
        assert isinstance(batch.images, torch.Tensor) and batch.images.shape[1:] == (1, 10, 9)


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec((4, 4), 1),
        InputSpec((8, 8), 1, crop_mode="center"),
        InputSpec((8, 8), 3, crop_mode="border"),
        InputSpec((8, 8), 3, crop_pct=0.9),
    ],
)
def test_other_specs_get_resized_images(spec: InputSpec) -> None:
    cache = array_cache(3, size=(20, 12))
    (batch,) = loader(cache, specs=[spec]).epoch(0)
    assert isinstance(batch.images, torch.Tensor)
    for row, image in enumerate(batch.images):
        torch.testing.assert_close(image, prepare(cache.read(row), spec), atol=1e-6, rtol=0)


def test_native_images_equal_prepared_images_after_resize() -> None:
    cache, spec = array_cache(2, size=(12, 10)), InputSpec((8, 8), 1)
    (batch,) = loader(cache, specs=[spec]).epoch(0)
    resized = fit_size(batch.images, spec.size)  # type: ignore[arg-type]
    torch.testing.assert_close(resized[1], prepare(cache.read(1), spec))


def test_images_of_different_sizes_are_prepared_per_spec(tree: Tree) -> None:
    root = tree("a/1.png", "b/1.png")
    picture(7, size=(30, 20)).save(root / "a/2.png")
    cache, _ = ImageCache.decode(load_table(root, DataConfig()), DataConfig())
    small, large = InputSpec((6, 6), 3), InputSpec((9, 12), 1, crop_mode="border")
    (batch,) = loader(cache, specs=[small, large, small]).epoch(0)
    assert isinstance(batch.images, tuple)
    assert [tuple(images.shape) for images in batch.images] == [(3, 3, 6, 6), (3, 1, 9, 12), (3, 3, 6, 6)]
    assert batch.images[0] is batch.images[2]


def test_specs_with_different_normalisation_share_images(tree: Tree) -> None:
    root = tree("a/1.png", "b/1.png")
    picture(7, size=(30, 20)).save(root / "a/2.png")
    cache, _ = ImageCache.decode(load_table(root, DataConfig()), DataConfig())
    specs = [InputSpec((6, 6), 3, mean=(0.1,)), InputSpec((6, 6), 3, mean=(0.5,))]
    (batch,) = loader(cache, specs=specs).epoch(0)
    assert isinstance(batch.images, torch.Tensor)


def test_branches_get_the_same_augmentation() -> None:
    smooth = np.zeros((4, 40, 40, 1), np.uint8)
    for row in range(4):
        smooth[row, 5 + 5 * row : 20 + 5 * row, 10 : 30 - 4 * row] = 255
    cache, _ = ImageCache.decode(table_from_arrays(smooth), DataConfig())
    specs = [InputSpec((40, 40), 1, crop_mode="border"), InputSpec((20, 20), 1, crop_mode="border")]
    for mix in ({"mixup": 1.0}, {"cutmix": 1.0}):
        (batch,) = loader(cache, specs=specs, augment="paper", shuffle=True, **mix).epoch(4)
        large, small = batch.images
        halved = torch.nn.functional.interpolate(large, (20, 20), mode="area")
        assert float((halved - small).abs().mean()) < 0.04
        assert float((halved - small.roll(1, 0)).abs().mean()) > 0.1


@pytest.mark.parametrize(("channels", "expected_channels"), [(1, 3), (3, 1), (1, 4)])
def test_channels_follow_the_spec(channels: int, expected_channels: int) -> None:
    cache = array_cache(2, channels=channels)
    spec = InputSpec((8, 8), expected_channels, crop_mode="border")
    (batch,) = loader(cache, specs=[spec]).epoch(0)
    assert isinstance(batch.images, torch.Tensor) and batch.images.shape == (2, expected_channels, 8, 8)


def test_invalid_loader_arguments_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"3 channels, the network expects 4"):
        loader(array_cache(2, channels=3), specs=[InputSpec((8, 8), 4)])
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        loader(array_cache(2), augment="papers")
    with pytest.raises(ValueError, match="must be equal"):
        ImageLoader(array_cache(2), [0, 1], ids=["a"], labels=None, num_classes=2, specs=[SPEC], batch_size=1)
    with pytest.raises(ValueError, match="need a label"):
        loader(array_cache(2), labels=[0, -1], mixup=0.2)


def test_mixed_batches_have_soft_targets_and_hard_labels() -> None:
    for batch in loader(array_cache(12), mixup=0.5, cutmix=0.5, shuffle=True).epoch(0):
        assert batch.targets is not None and batch.labels is not None
        assert batch.targets.shape == (4, 3) and batch.targets.dtype == torch.float32
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(4))
        assert batch.labels.tolist() == [int(name[1:]) % 3 for name in batch.ids]


def test_unknown_labels_have_no_targets() -> None:
    for labels in (None, [-1, -1]):
        assert next(iter(loader(array_cache(2), labels=labels).epoch(0))).targets is None
    (batch,) = loader(array_cache(2), labels=[-1, 2]).epoch(0)
    assert batch.targets is not None and batch.targets.tolist() == [-1, 2]


def test_balanced_sampling_draws_classes_equally() -> None:
    labels = [0] * 90 + [1] * 8 + [2] * 2
    source = loader(array_cache(100), labels=labels, balanced=True, batch_size=10)
    sampled = [name for batch in source.epoch(0) for name in batch.ids]
    counts = np.bincount([labels[int(name[1:])] for name in sampled], minlength=3)
    assert counts.sum() == 100 and counts.max() - counts.min() <= 1
    assert {name for name in sampled if labels[int(name[1:])] == 2} == {"i98", "i99"}
    assert sampled != [name for batch in source.epoch(1) for name in batch.ids]
    first = [labels[int(name[1:])] for name in sampled[:50]]
    assert len(set(first)) == 3


@pytest.mark.parametrize(("count", "sizes"), [(9, [4, 5]), (10, [4, 4, 2]), (1, [1]), (5, [5]), (8, [4, 4]), (0, [])])
def test_single_last_training_image_joins_the_previous_batch(count: int, sizes: list[int]) -> None:
    source = loader(array_cache(12), range(count), shuffle=True)
    assert [len(batch) for batch in source.epoch(0)] == sizes and len(source) == len(sizes)
    plain = loader(array_cache(12), range(count))
    assert len(plain) == -(-count // 4) == len(list(plain.epoch(0)))


def test_images_of_one_size_are_gathered_once_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[int] = []
    gather = ImageCache.gather
    monkeypatch.setattr(ImageCache, "gather", lambda self, rows: gathered.append(len(rows)) or gather(self, rows))
    source = loader(array_cache(6_400, size=(28, 28)), batch_size=32, shuffle=True)
    monkeypatch.setattr(ImageCache, "read", None)  # one by one would be many times slower
    assert sum(len(batch) for batch in source.epoch(0)) == 6_400
    assert gathered == [32] * (6_400 // 32)
