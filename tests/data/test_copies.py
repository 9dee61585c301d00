"""Copies in a table: groups by pixels and by perceptual hash, which splits and folds do not divide."""

import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.fixtures.drawings import drawing, poorer, table_of

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.copies import (
    copy_groups,
    first_copies,
    joined_groups,
    torn_copies,
    torn_folds,
    with_their_copies,
)
from tercet.data.data_module import prepare_data, read_data
from tercet.data.folds import make_folds
from tercet.data.in_memory import table_from_arrays
from tercet.data.splits import assign_splits
from tercet.data.table import SampleTable, load_samples

NO_TEST = DataConfig(test_fraction=0.0)


def tree(root: Path, images: dict[str, Image.Image]) -> Path:
    for name, image in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name)
    return root


def groups_of(folder: Path, **options: object) -> list[set[str]]:
    table = read_data(folder, DataConfig(**options)).table  # type: ignore[arg-type]
    return [{table.ids[row] for row in rows} for rows in copy_groups(table)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight different photos, one copy with the same bytes, one encoded again, one smaller JPEG, one mirrored."""
    names = [f"{label}/{index}.png" for label in ("cat", "dog") for index in range(4)]
    images = {name: drawing(seed, (90, 80)) for seed, name in enumerate(names)}
    images["dog/same.png"] = images["dog/encoded.bmp"] = images["cat/1.png"]
    images["cat/small.jpg"] = poorer(images["cat/2.png"])
    images["dog/mirror.png"] = images["dog/3.png"].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return tree(tmp_path / "photos", images)


def test_exact_and_near_copies_are_groups(photos: Path) -> None:
    exact = [{"cat/1.png", "dog/same.png", "dog/encoded.bmp"}]
    near = [*exact, {"cat/2.png", "cat/small.jpg"}, {"dog/3.png", "dog/mirror.png"}]
    assert groups_of(photos, find_copies="exact") == exact
    for kind in ("near", "auto"):
        assert groups_of(photos, find_copies=kind) == near
    assert groups_of(photos, find_copies="none") == []


def test_images_on_demand_and_in_memory_have_the_same_copies(photos: Path) -> None:
    assert groups_of(photos, memory_budget=1) == groups_of(photos)
    config = DataConfig()
    table = read_data(photos, config).table
    arrays = np.stack([np.asarray(drawing(seed, (90, 80))) for seed in (0, 1, 1)])
    other = read_data(table_from_arrays(arrays, np.array([0, 1, 1])), config).table
    assert other.pixels is not None and table.pixels is not None
    assert other.pixels[1] == other.pixels[2] == table.pixels[table.ids.index("dog/encoded.bmp")]


def test_notes_count_groups_and_name_copies_with_different_labels(photos: Path) -> None:
    text = " ".join(read_data(photos, DataConfig()).table.notes)
    assert "1 group of identical images and 2 groups of near copies (7 images)" in text
    assert "copies with different labels: 1 group, such as cat/1.png (cat) = dog/encoded.bmp (dog)" in text


def test_many_similar_images_are_not_taken_for_copies(tmp_path: Path) -> None:
    picture, generator = np.asarray(drawing(0, (80, 80))).astype(int), np.random.default_rng(0)
    frames = [
        Image.fromarray((picture + generator.integers(-2, 3, picture.shape)).clip(0, 255).astype(np.uint8))
        for _ in range(24)
    ]
    images = {f"cat/{row}.png": frame for row, frame in enumerate(frames)}
    images |= {f"dog/{row}.png": drawing(row + 1, (80, 80)) for row in range(24)}
    folder = tree(tmp_path / "frames", images)
    assert groups_of(folder) == []
    assert (
        "24 images look alike, so near copies are not kept together" in read_data(folder, DataConfig()).table.notes[0]
    )
    assert [len(group) for group in groups_of(folder, find_copies="near")] == [24]


def test_small_images_are_compared_by_pixels_only(tmp_path: Path) -> None:
    small = drawing(0, (63, 63))
    images = {"cat/a.png": small, "cat/b.png": small, "cat/c.png": poorer(small).resize((63, 63))}
    folder = tree(tmp_path / "small", images | {"dog/a.png": drawing(1, (63, 63))})
    assert groups_of(folder, find_copies="near") == [{"cat/a.png", "cat/b.png"}]


def test_samples_keep_digests_copies_and_folds(photos: Path, tmp_path: Path) -> None:
    table = read_data(photos, DataConfig()).table
    table = replace(table, folds=np.arange(len(table)) % 3 - 1, splits=("train",) * len(table))
    table.save(tmp_path / "samples.csv")
    loaded = load_samples(tmp_path / "samples.csv", name="photos", classes=table.classes)
    assert loaded.pixels == table.pixels and loaded.copies is not None and loaded.folds is not None
    assert loaded.copies.tolist() == table.copies.tolist()  # type: ignore[union-attr]
    assert loaded.folds.tolist() == table.folds.tolist()  # type: ignore[union-attr]
    lines = (tmp_path / "samples.csv").read_text().splitlines()
    (tmp_path / "old.csv").write_text("\n".join(line.rsplit(",", 2)[0] for line in lines))
    old = load_samples(tmp_path / "old.csv", name="photos", classes=table.classes)
    assert (old.ids, old.splits, old.pixels, old.copies) == (table.ids, table.splits, None, None)


# ------------------------------------------------------------------------------------------ splits and folds


@st.composite
def copied_tables(draw: st.DrawFn) -> SampleTable:
    """Draw tables with groups of copies of random sizes, some with different labels, some with groups besides."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, classes = draw(st.integers(30, 120)), draw(st.integers(2, 4))
    copies = generator.integers(0, draw(st.integers(2, 40)), size)
    copies[generator.random(size) < draw(st.floats(0.3, 1))] = 0
    labels = generator.integers(0, classes, size)
    if draw(st.booleans()):
        labels = np.where(copies > 0, copies % classes, labels)
    groups = tuple(f"g{number}" for number in generator.integers(0, 15, size)) if draw(st.booleans()) else None
    name = tuple(f"{row:03d}" for row in range(size))
    source = table_of(drawing(0), drawing(1)).source
    return SampleTable("drawn", name, name, labels, tuple("abcd"[:classes]), source, groups=groups, copies=copies)


@settings(max_examples=60, deadline=None)
@given(copied_tables(), st.integers(0, 9), st.sampled_from([0.0, 0.15, 0.3]))
def test_splits_never_divide_copies_and_leave_training_images(
    table: SampleTable, seed: int, test_fraction: float
) -> None:
    config = DataConfig(split_seed=seed, test_fraction=test_fraction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small classes
        try:
            divided = assign_splits(table, config)
        except DataError as error:  # one group may hold a class
            assert ("can be held out" in str(error) and table.groups is not None) or "too small" in str(error)
            return
        assert torn_copies(divided) == {}
        assert divided.classes_in(divided.rows_of("train")) == divided.classes_in(np.arange(len(divided)))
        assert divided.splits == assign_splits(table, config).splits


@settings(max_examples=40, deadline=None)
@given(copied_tables(), st.integers(2, 5))
def test_folds_never_divide_copies(table: SampleTable, count: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            plan = make_folds(table, NO_TEST, count=count)
        except DataError as error:
            assert "fewer than" in str(error) or "too large" in str(error)
            return
    held_out = np.sort(np.concatenate([fold.rows for fold in plan.folds]))
    assert held_out.tolist() == list(range(len(table)))
    assert torn_folds(plan.table) is None


def test_without_copies_splits_are_the_same_as_without_the_search() -> None:
    labels = np.arange(60) % 3
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    table = table_from_arrays(pixels, labels)
    searched = read_data(table, DataConfig()).table
    assert searched.copies is not None and not searched.copies.any()
    assert assign_splits(searched, DataConfig()).splits == assign_splits(table, DataConfig()).splits
    folds = [make_folds(each, NO_TEST).table.folds for each in (searched, table)]
    assert folds[0].tolist() == folds[1].tolist()  # type: ignore[union-attr]


def test_copies_may_be_divided_on_request() -> None:
    pixels = np.repeat(np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8), 4, axis=0)
    table = table_from_arrays(pixels, np.arange(80) // 40)
    together = prepare_data(table, DataConfig()).table
    assert torn_copies(together) == {} and Counter(together.splits)["test"] == 12
    apart = prepare_data(table, DataConfig(keep_copies_together=False)).table
    assert [note.partition(" (")[0] for note in apart.notes[1:]] == [
        "12 of 12 test images have copies among the training and validation images",
        "10 of 10 validation images have copies among the training images",
    ]
    assert len(torn_copies(apart)["test"].ids) == 12


def test_given_splits_and_folds_that_tear_copies_are_reported() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    pixels[8:10] = pixels[0:2]
    splits = ("train",) * 6 + ("val",) * 2 + ("test",) * 4
    table = replace(table_from_arrays(pixels, np.arange(12) % 2), splits=splits)
    prepared = prepare_data(table, DataConfig()).table
    torn = torn_copies(prepared)["test"]
    assert (
        torn.ids == prepared.ids[8:10]
        and "2 of 4 test images have copies among the training images" in prepared.notes[-1]
    )
    folds = np.arange(12) % 4 // 2
    given_folds = replace(read_data(table, DataConfig()).table, splits=None, folds=folds)
    torn_by_folds = torn_folds(make_folds(given_folds, NO_TEST).table)
    assert torn_by_folds is None  # rows 0, 8 and 1, 9 are in the same folds
    shifted = replace(given_folds, folds=np.where(np.arange(12) == 8, 1, folds))
    torn_by_folds = torn_folds(make_folds(shifted, NO_TEST).table)
    assert torn_by_folds is not None and set(torn_by_folds.ids) == {table.ids[0], table.ids[8]}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=40))
def test_joined_groups_are_the_finest_that_divide_neither(rows: list[tuple[int, int]]) -> None:
    groups, copies = [f"g{group}" for group, _ in rows], np.array([number for _, number in rows])
    joined = joined_groups(groups, copies)
    components = [{row} for row in range(len(rows))]
    for row in range(len(rows)):
        for other in range(row):
            if groups[row] == groups[other] or (copies[row] and copies[row] == copies[other]):
                union = components[row] | components[other]
                for member in union:
                    components[member] = union
    assert all(
        (joined[row] == joined[other]) == (other in components[row])
        for row in range(len(rows))
        for other in range(len(rows))
    )
    alone = joined_groups(None, copies)
    assert len(set(alone)) == int(first_copies(copies).sum())
    chosen = np.flatnonzero(first_copies(copies))
    assert with_their_copies(chosen, copies).tolist() == list(range(len(rows)))
