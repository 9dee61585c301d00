from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.image_trees import picture

from tercet.config.run import DataConfig
from tercet.core.errors import DataError, StorageError
from tercet.data.load import load_table, table_from_arrays
from tercet.data.splits import assign_splits
from tercet.data.table import SampleTable, load_samples


@pytest.fixture
def table(pets: Path) -> SampleTable:
    return assign_splits(load_table(pets, DataConfig()), DataConfig())


def test_rows_are_taken_with_all_their_columns() -> None:
    whole = replace(
        table_from_arrays(np.zeros((4, 2, 2), np.uint8), [0, 1, 1, -1], groups=list("ghgh"), ids=list("abcd")),
        splits=("train", "val", "test", ""),
        folds=np.arange(4),
        weights=np.arange(4) / 2,
    )
    part = whole.take([3, 1])
    assert (part.ids, part.groups, part.splits) == (("d", "b"), ("h", "h"), ("", "val"))
    assert part.folds is not None and part.weights is not None
    assert (part.labels.tolist(), part.folds.tolist(), part.weights.tolist()) == ([-1, 1], [3, 1], [1.5, 0.5])
    assert whole.take(np.array([True, False, False, True])).ids == ("a", "d")
    assert whole.class_counts().tolist() == [1, 2]
    assert [whole.rows_of(split).tolist() for split in ("train", "val", "test")] == [[0], [1], [2]]


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
def test_tables_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    whole = table_from_arrays(np.zeros((2, 2, 2), np.uint8), [0, 1])
    with pytest.raises(DataError, match=message):
        replace(whole, **change)  # type: ignore[arg-type]


def test_a_resumed_run_finds_the_same_rows_and_splits(table: SampleTable, pets: Path, tmp_path: Path) -> None:
    odd = picture(99)
    odd.save(pets / 'cat/"odd",\nname.png')
    config = DataConfig(split_seed=3)
    first = assign_splits(load_table(pets, config), config)
    shuffled = first.take(np.random.default_rng(0).permutation(len(first)))
    shuffled.save(tmp_path / "samples.csv")
    again = load_samples(tmp_path / "samples.csv", name="pets", classes=first.classes)
    assert (again.ids, again.splits, again.locations) == (shuffled.ids, shuffled.splits, shuffled.locations)
    np.testing.assert_array_equal(again.labels, shuffled.labels)
    assert [path.name for path in tmp_path.iterdir()].count("samples.csv") == 1


def test_other_classes_are_refused(table: SampleTable, tmp_path: Path) -> None:
    table.save(tmp_path / "s.csv")
    with pytest.raises(DataError, match="does not know"):
        load_samples(tmp_path / "s.csv", name="pets", classes=("cat", "wolf", "eel"))


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "id,location,label,split,group,fold,weight,checksum\nx,y\n"])
def test_damaged_sample_files_are_refused(table: SampleTable, tmp_path: Path, content: str) -> None:
    (tmp_path / "s.csv").write_text(content)
    with pytest.raises(DataError, match=r"s\.csv"):
        load_samples(tmp_path / "s.csv", name="pets", classes=table.classes)
    with pytest.raises(DataError, match="cannot read"):
        load_samples(tmp_path / "absent.csv", name="pets", classes=table.classes)


def test_a_failed_save_is_a_storage_error(table: SampleTable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        table.save(tmp_path / "file" / "samples.csv")


def test_the_fingerprint_follows_content_labels_and_ids(table: SampleTable, pets: Path) -> None:
    before = table.fingerprint()
    assert load_table(pets, DataConfig()).fingerprint() == before
    assert table.take(np.arange(29)).fingerprint() != before
    assert replace(table, classes=("a", "b", "c")).fingerprint() != before
    picture(55).save(pets / "cat/0.png")
    assert load_table(pets, DataConfig()).fingerprint() != before
