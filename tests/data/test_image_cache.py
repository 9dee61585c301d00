import multiprocessing
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.image_trees import Tree, picture

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.image_cache import CachedImages, ImageCache, OnDemandImages, open_cache
from tercet.data.load import load_table, table_from_arrays

CONFIG = DataConfig()
SMALL = DataConfig(memory_budget=100)


def content(store: CachedImages) -> list[np.ndarray]:
    return [store.read(row) for row in range(len(store))]


def assert_same(one: CachedImages, other: CachedImages) -> None:
    assert len(one) == len(other) and one.uniform_shape == other.uniform_shape and one.channels == other.channels
    for mine, theirs in zip(content(one), content(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("config", [CONFIG, SMALL], ids=["memory", "demand"])
def test_every_image_is_what_its_file_holds(tree: Tree, config: DataConfig) -> None:
    root = tree("a/1.png", "b/2.png")
    picture(8, size=(9, 2)).save(root / "a/3.png")
    store, bad = ImageCache.decode(load_table(root, config), config)
    assert bad == [] and store.uniform_shape is None and store.on_demand == (config is SMALL)
    for found, expected in zip(content(store), (picture(0), picture(8, size=(9, 2)), picture(1)), strict=True):
        np.testing.assert_array_equal(found, np.asarray(expected))
    with pytest.raises(ValueError, match="different sizes"):
        store.gather(np.array([0]))


@pytest.mark.parametrize("config", [CONFIG, SMALL], ids=["memory", "demand"])
def test_one_colour_image_makes_all_of_them_colour(tree: Tree, config: DataConfig) -> None:
    root = tree("a/1.png", "b/2.png", channels=1)
    assert ImageCache.decode(load_table(root, config), config)[0].channels == 1
    picture(5).save(root / "b/3.png")
    store, _ = ImageCache.decode(load_table(root, config), config)
    assert store.channels == 3 and store.uniform_shape == (5, 6, 3)
    np.testing.assert_array_equal(store.read(0), np.asarray(picture(0, channels=1).convert("RGB")))
    gathered = store.gather(np.array([2, 0, 2]))
    np.testing.assert_array_equal(gathered, np.stack([store.read(row) for row in (2, 0, 2)]))


@pytest.mark.parametrize("config", [CONFIG, SMALL], ids=["memory", "demand"])
def test_bad_images_are_named_and_left_out_in_step_with_the_table(pets: Path, config: DataConfig) -> None:
    (pets / "cat/3.png").write_text("no image")
    whole = (pets / "dog/0.png").read_bytes()
    (pets / "dog/0.png").write_bytes(whole[: len(whole) // 2])
    table = load_table(pets, config)
    with pytest.raises(DataError, match=r"2 of 30 images cannot be read.*cat/3.png \(not an image") as caught:
        ImageCache.decode(table, config)
    assert "\n" not in str(caught.value)
    tolerant = DataConfig(max_bad_fraction=0.1, memory_budget=config.memory_budget)
    store, bad = ImageCache.decode(table, tolerant)
    assert [image.id for image in bad] == ["cat/3.png", "dog/0.png"]
    names = {image.id for image in bad}
    good = table.take([row for row, name in enumerate(table.ids) if name not in names])
    assert len(store) == len(good) == 28
    for row, location in enumerate(good.locations):
        np.testing.assert_array_equal(store.read(row), good.source.pixels(location, max_pixels=99))


def test_nothing_readable_is_an_error_at_any_tolerance(pets: Path) -> None:
    for path in pets.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="30 of 30"):
        ImageCache.decode(load_table(pets, CONFIG), DataConfig(max_bad_fraction=1.0))


def test_the_pixel_ceiling_counts(pets: Path) -> None:
    picture(0, size=(50, 50)).save(pets / "cat/0.png")
    store, bad = ImageCache.decode(load_table(pets, CONFIG), DataConfig(max_pixels=2499, max_bad_fraction=0.1))
    assert len(store) == 29 and bad[0].reason == "too large: 2500 pixels are more than data.max_pixels 2499"


def test_arrays_are_not_copied_but_chosen_rows_are_right() -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 4, 3), dtype=np.uint8)
    table = table_from_arrays(images, np.arange(10) % 2)
    store, _ = ImageCache.decode(table, SMALL)
    assert np.shares_memory(store.read(3), images) and store.uniform_shape == (3, 4, 3)
    some, _ = ImageCache.decode(table.take([7, 2]), SMALL)
    np.testing.assert_array_equal(some.gather(np.arange(2)), images[[7, 2]])


def _sum_of(folder: Path, queue: "multiprocessing.SimpleQueue[int]") -> None:
    store = open_cache(folder)
    queue.put(sum(int(store.read(row).sum()) for row in range(len(store))))


@pytest.mark.parametrize("config", [CONFIG, SMALL], ids=["memory", "demand"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_saved_store_gives_the_same_images_to_another_process(
    pets: Path, tmp_path: Path, config: DataConfig, packed: bool
) -> None:
    data = pets
    if packed:
        data = tmp_path / "pets.zip"
        with zipfile.ZipFile(data, "w") as archive:
            for path in pets.rglob("*.png"):
                archive.write(path, path.relative_to(pets))
    store, _ = ImageCache.decode(load_table(data, config), config)
    store.save(tmp_path / "store")
    assert_same(ImageCache.open(tmp_path / "store"), store)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_sum_of, args=(tmp_path / "store", queue))
    child.start()
    assert queue.get() == sum(int(image.sum()) for image in content(store))
    child.join()


def test_a_memory_mapped_store_holds_no_copy(pets: Path, tmp_path: Path) -> None:
    ImageCache.decode(load_table(pets, CONFIG), CONFIG)[0].save(tmp_path / "s")
    opened = open_cache(tmp_path / "s")
    base = opened.read(4)
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) and not opened.read(4).flags.writeable
    assert opened.gather(np.array([1, 2])).flags.writeable


@pytest.mark.parametrize("damage", ["absent", "cut", "text", "other"])
def test_damaged_stores_are_refused(pets: Path, tmp_path: Path, damage: str) -> None:
    ImageCache.decode(load_table(pets, CONFIG), CONFIG)[0].save(tmp_path / "s")
    pixels = tmp_path / "s" / "pixels.npy"
    if damage == "absent":
        pixels.unlink()
    elif damage == "other":
        np.save(pixels, np.zeros(7, np.uint8))
    else:
        pixels.write_bytes(pixels.read_bytes()[:-9] if damage == "cut" else b"text")
    with pytest.raises(DataError):
        open_cache(tmp_path / "s")


def test_files_that_change_during_a_run_are_noticed(pets: Path) -> None:
    store, _ = ImageCache.decode(load_table(pets, SMALL), SMALL)
    assert isinstance(store, OnDemandImages)
    (pets / "cat/0.png").unlink()
    picture(1, size=(3, 3)).save(pets / "cat/1.png")
    with pytest.raises(DataError, match=r"cat/0.png can no longer be read"):
        store.read(0)
    with pytest.raises(DataError, match=r"cat/1.png has changed"):
        store.gather(np.array([1]))
