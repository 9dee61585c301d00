import multiprocessing
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.image_trees import Tree, picture

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.data_module import read_data
from tercet.data.image_cache import CachedImages, ImageCache, OnDemandImages
from tercet.data.image_store import open_cache, shared_pixels
from tercet.data.in_memory import table_from_arrays
from tercet.data.load import load_table
from tercet.data.read_ahead import BadImage, require_readable

CONFIG = DataConfig()
SMALL = DataConfig(memory_budget=100)


def content(cache: CachedImages) -> list[np.ndarray]:
    return [cache.read(row) for row in range(len(cache))]


def assert_same(first: CachedImages, second: CachedImages) -> None:
    assert (
        len(first) == len(second) and first.uniform_shape == second.uniform_shape and first.channels == second.channels
    )
    for actual, expected in zip(content(first), content(second), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("config", [CONFIG, SMALL], ids=["memory", "demand"])
def test_cached_images_equal_their_files(tree: Tree, config: DataConfig) -> None:
    root = tree("a/1.png", "b/2.png")
    picture(8, size=(9, 2)).save(root / "a/3.png")
    cache, bad = ImageCache.decode(load_table(root, config), config)
    assert bad == [] and cache.uniform_shape is None and cache.on_demand == (config is SMALL)
    for image, expected in zip(content(cache), (picture(0), picture(8, size=(9, 2)), picture(1)), strict=True):
        np.testing.assert_array_equal(image, np.asarray(expected))
    with pytest.raises(ValueError, match="different sizes"):
        cache.gather(np.array([0]))


@pytest.mark.parametrize("config", [CONFIG, SMALL], ids=["memory", "demand"])
def test_one_colour_image_makes_the_cache_rgb(tree: Tree, config: DataConfig) -> None:
    root = tree("a/1.png", "b/2.png", channels=1)
    assert ImageCache.decode(load_table(root, config), config)[0].channels == 1
    picture(5).save(root / "b/3.png")
    cache, _ = ImageCache.decode(load_table(root, config), config)
    assert cache.channels == 3 and cache.uniform_shape == (5, 6, 3)
    np.testing.assert_array_equal(cache.read(0), np.asarray(picture(0, channels=1).convert("RGB")))
    gathered = cache.gather(np.array([2, 0, 2]))
    np.testing.assert_array_equal(gathered, np.stack([cache.read(row) for row in (2, 0, 2)]))


@pytest.mark.parametrize("config", [CONFIG, SMALL], ids=["memory", "demand"])
def test_bad_images_are_listed_and_dropped(pets: Path, config: DataConfig) -> None:
    (pets / "cat/3.png").write_text("not an image")
    file_content = (pets / "dog/0.png").read_bytes()
    (pets / "dog/0.png").write_bytes(file_content[: len(file_content) // 2])
    table = load_table(pets, config)
    with pytest.raises(DataError, match=r"2 of 30 images cannot be read.*cat/3.png \(not an image") as caught:
        ImageCache.decode(table, replace(config, max_bad_fraction=0))
    assert "\n" not in str(caught.value)
    cache, bad = ImageCache.decode(table, config)
    assert [image.id for image in bad] == ["cat/3.png", "dog/0.png"]
    names = {image.id for image in bad}
    good = table.take([row for row, name in enumerate(table.ids) if name not in names])
    assert len(cache) == len(good) == 28
    for row, location in enumerate(good.locations):
        np.testing.assert_array_equal(cache.read(row), good.source.pixels(location, max_pixels=99))


@pytest.mark.parametrize(
    ("total", "fraction", "tolerated"), [(30, 0.01, 5), (30, 0.5, 15), (2000, 0.01, 20), (30, 0, 0), (6, 0.01, 5)]
)
def test_a_handful_of_bad_images_is_tolerated_in_data_of_any_size(total: int, fraction: float, tolerated: int) -> None:
    config = DataConfig(max_bad_fraction=fraction)
    bad = [BadImage(str(number), str(number), "damaged") for number in range(tolerated + 1)]
    require_readable(bad[:tolerated], total, config)
    with pytest.raises(DataError, match=f"{tolerated + 1} of {total} images cannot be read"):
        require_readable(bad, total, config)


def test_no_readable_image_is_always_an_error(pets: Path) -> None:
    for path in pets.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="30 of 30"):
        ImageCache.decode(load_table(pets, CONFIG), DataConfig(max_bad_fraction=1.0))


def test_a_class_without_any_readable_image_is_an_error(pets: Path) -> None:
    for path in (pets / "cat").glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no image of 1 class can be read: 'cat'; replace"):
        read_data(pets, DataConfig(max_bad_fraction=0.9))


def test_max_pixels_limits_cached_images(pets: Path) -> None:
    picture(0, size=(50, 50)).save(pets / "cat/0.png")
    cache, bad = ImageCache.decode(load_table(pets, CONFIG), DataConfig(max_pixels=2499, max_bad_fraction=0.1))
    assert len(cache) == 29 and bad[0].reason == "too large: 2500 pixels are more than data.max_pixels 2499"


def test_array_cache_without_copy_and_with_selected_rows() -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 4, 3), dtype=np.uint8)
    table = table_from_arrays(images, np.arange(10) % 2)
    cache, _ = ImageCache.decode(table, SMALL)
    assert np.shares_memory(cache.read(3), images) and cache.uniform_shape == (3, 4, 3)
    selected, _ = ImageCache.decode(table.take([7, 2]), SMALL)
    np.testing.assert_array_equal(selected.gather(np.arange(2)), images[[7, 2]])


def _sum_of(folder: Path, queue: "multiprocessing.SimpleQueue[int]") -> None:
    cache = open_cache(folder)
    queue.put(sum(int(cache.read(row).sum()) for row in range(len(cache))))


@pytest.mark.parametrize("config", [CONFIG, SMALL], ids=["memory", "demand"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_saved_cache_is_equal_in_another_process(pets: Path, tmp_path: Path, config: DataConfig, packed: bool) -> None:
    data = pets
    if packed:
        data = tmp_path / "pets.zip"
        with zipfile.ZipFile(data, "w") as archive:
            for path in pets.rglob("*.png"):
                archive.write(path, path.relative_to(pets))
    cache, _ = ImageCache.decode(load_table(data, config), config)
    cache.save(tmp_path / "store")
    assert_same(open_cache(tmp_path / "store"), cache)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_sum_of, args=(tmp_path / "store", queue))
    child.start()
    assert queue.get() == sum(int(image.sum()) for image in content(cache))
    child.join()


def test_pixels_of_files_are_on_disk_only_while_they_are_shared(pets: Path, tmp_path: Path) -> None:
    cache, _ = ImageCache.decode(load_table(pets, CONFIG), CONFIG)
    cache.save(tmp_path / "s")
    for images in (cache, None):  # None: opened and decoded again, as by a resume
        assert open_cache(tmp_path / "s").on_demand
        with shared_pixels(tmp_path / "s", images):
            opened = open_cache(tmp_path / "s")
            assert_same(opened, cache)
            base = opened.read(4)
            while base.base is not None and not isinstance(base, np.memmap):
                base = base.base
            assert isinstance(base, np.memmap) and not opened.read(4).flags.writeable
            assert opened.gather(np.array([1, 2])).flags.writeable
            del opened, base
        assert not (tmp_path / "s" / "pixels.npy").exists()
    decoded = open_cache(tmp_path / "s").in_memory()
    assert not decoded.on_demand
    assert_same(decoded, cache)


def test_images_that_exceed_the_memory_budget_are_never_decoded_to_disk(pets: Path, tmp_path: Path) -> None:
    ImageCache.decode(load_table(pets, SMALL), SMALL)[0].save(tmp_path / "s")
    with shared_pixels(tmp_path / "s"):
        assert open_cache(tmp_path / "s").on_demand
        assert open_cache(tmp_path / "s").in_memory().on_demand


def saved_array(folder: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 4, 3), dtype=np.uint8)
    cache, _ = ImageCache.decode(table_from_arrays(images, np.arange(10) % 2), CONFIG)
    cache.save(folder)
    return folder / "pixels.npy"


def test_pixels_of_arrays_stay_on_disk(tmp_path: Path) -> None:
    pixels = saved_array(tmp_path / "s")
    with shared_pixels(tmp_path / "s"):
        assert not open_cache(tmp_path / "s").on_demand
    assert pixels.exists() and not open_cache(tmp_path / "s").on_demand


@pytest.mark.parametrize("damage", ["absent", "cut", "text", "other"])
def test_damaged_cache_is_an_error(tmp_path: Path, damage: str) -> None:
    pixels = saved_array(tmp_path / "s")
    if damage == "absent":
        pixels.unlink()
    elif damage == "other":
        np.save(pixels, np.zeros(7, np.uint8))
    else:
        pixels.write_bytes(pixels.read_bytes()[:-9] if damage == "cut" else b"text")
    with pytest.raises(DataError):
        open_cache(tmp_path / "s")


def test_saved_images_detect_files_of_equal_size_that_changed(pets: Path, tmp_path: Path) -> None:
    ImageCache.decode(load_table(pets, CONFIG), CONFIG)[0].save(tmp_path / "s")
    shutil.copyfile(pets / "cat/1.png", pets / "cat/0.png")
    opened = open_cache(tmp_path / "s")
    with pytest.raises(DataError, match=r"cat/0.png has changed since the start of the run"):
        opened.read(0)
    with pytest.raises(DataError, match=r"cat/0.png has changed"), shared_pixels(tmp_path / "s"):
        raise AssertionError("the block must not begin")


def test_files_changed_during_a_run_are_detected(pets: Path) -> None:
    cache, _ = ImageCache.decode(load_table(pets, SMALL), SMALL)
    assert isinstance(cache, OnDemandImages)
    (pets / "cat/0.png").unlink()
    picture(1, size=(3, 3)).save(pets / "cat/1.png")
    with pytest.raises(DataError, match=r"cat/0.png can no longer be read"):
        cache.read(0)
    with pytest.raises(DataError, match=r"cat/1.png has changed"):
        cache.gather(np.array([1]))
