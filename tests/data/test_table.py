from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.image_trees import picture

from tercet.config.run import DataConfig
from tercet.core.errors import DataError, StorageError
from tercet.data.in_memory import table_from_arrays
from tercet.data.load import load_table
from tercet.data.splits import assign_splits
from tercet.data.table import SampleTable, load_samples


@pytest.fixture
def table(pets: Path) -> SampleTable:
    return assign_splits(load_table(pets, DataConfig()), DataConfig())


def test_take_selects_all_columns() -> None:
    table = replace(
        table_from_arrays(np.zeros((4, 2, 2), np.uint8), [0, 1, 1, -1], groups=list("ghgh"), ids=list("abcd")),
        splits=("train", "val", "test", ""),
        folds=np.arange(4),
        weights=np.arange(4) / 2,
    )
    subset = table.take([3, 1])
    assert (subset.ids, subset.groups, subset.splits) == (("d", "b"), ("h", "h"), ("", "val"))
    assert subset.folds is not None and subset.weights is not None
    assert (subset.labels.tolist(), subset.folds.tolist(), subset.weights.tolist()) == ([-1, 1], [3, 1], [1.5, 0.5])
    assert table.take(np.array([True, False, False, True])).ids == ("a", "d")
    assert table.class_counts().tolist() == [1, 2]
    assert [table.rows_of(split).tolist() for split in ("train", "val", "test")] == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ("a", "a")}, "'a' occurs twice"),
        ({"ids": ("a",)}, "2 locations for 1 samples"),
        ({"labels": np.array([0, 2])}, r"lie in 0\.\.2"),
        ({"classes": ("x", "x")}, "class 'x' occurs twice"),
        ({"splits": ("train", "exam")}, "'exam' is not one of"),
        ({"groups": ("g",)}, "1 groups for 2 samples"),
    ],
)
def test_invalid_tables_are_errors(change: dict[str, object], message: str) -> None:
    table = table_from_arrays(np.zeros((2, 2, 2), np.uint8), [0, 1])
    with pytest.raises(DataError, match=message):
        replace(table, **change)  # type: ignore[arg-type]


def test_saved_samples_restore_rows_and_splits(table: SampleTable, pets: Path, tmp_path: Path) -> None:
    image = picture(99)
    image.save(pets / 'cat/"odd",\nname.png')
    config = DataConfig(split_seed=3)
    split_table = assign_splits(load_table(pets, config), config)
    shuffled = split_table.take(np.random.default_rng(0).permutation(len(split_table)))
    shuffled.save(tmp_path / "samples.csv")
    restored = load_samples(tmp_path / "samples.csv", name="pets", classes=split_table.classes)
    assert (restored.ids, restored.splits, restored.locations) == (shuffled.ids, shuffled.splits, shuffled.locations)
    np.testing.assert_array_equal(restored.labels, shuffled.labels)
    assert [path.name for path in tmp_path.iterdir()].count("samples.csv") == 1


def test_unknown_class_in_saved_samples_is_an_error(table: SampleTable, tmp_path: Path) -> None:
    table.save(tmp_path / "s.csv")
    with pytest.raises(DataError, match="not a class of the run"):
        load_samples(tmp_path / "s.csv", name="pets", classes=("cat", "wolf", "eel"))


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "id,location,label,split,group,fold,weight,checksum\nx,y\n"])
def test_damaged_sample_files_are_errors(table: SampleTable, tmp_path: Path, content: str) -> None:
    (tmp_path / "s.csv").write_text(content)
    with pytest.raises(DataError, match=r"s\.csv"):
        load_samples(tmp_path / "s.csv", name="pets", classes=table.classes)
    with pytest.raises(DataError, match="cannot read"):
        load_samples(tmp_path / "absent.csv", name="pets", classes=table.classes)


def test_failed_save_raises_storage_error(table: SampleTable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        table.save(tmp_path / "file" / "samples.csv")


def test_fingerprint_depends_on_content_labels_and_ids(table: SampleTable, pets: Path) -> None:
    before = table.fingerprint()
    assert load_table(pets, DataConfig()).fingerprint() == before
    assert table.take(np.arange(29)).fingerprint() != before
    assert replace(table, classes=("a", "b", "c")).fingerprint() != before
    picture(55).save(pets / "cat/0.png")
    assert load_table(pets, DataConfig()).fingerprint() != before
