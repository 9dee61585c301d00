import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.data.in_memory import table_from_arrays
from tercet.data.splits import assign_splits, check_disjoint, stratified_folds
from tercet.data.table import SampleTable


def table_of(labels: Sequence[int], **columns: object) -> SampleTable:
    return table_from_arrays(np.zeros((len(labels), 1, 1), np.uint8), np.array(labels), **columns)  # type: ignore[arg-type]


def sizes(table: SampleTable) -> dict[str, int]:
    return {split: len(table.rows_of(split)) for split in ("train", "val", "test")}  # type: ignore[arg-type]


def test_hold_out_is_stratified_and_seeded() -> None:
    table = table_of([0] * 600 + [1] * 300 + [2] * 100)
    split_table = assign_splits(table, DataConfig(test_fraction=0.2, val_fraction=0.1))
    assert sizes(split_table) == {"train": 720, "val": 80, "test": 200}
    for split in ("train", "val", "test"):
        rows = split_table.rows_of(split)  # type: ignore[arg-type]
        np.testing.assert_allclose(np.bincount(split_table.labels[rows]) / len(rows), [0.6, 0.3, 0.1], atol=0.01)
    assert assign_splits(table, DataConfig(test_fraction=0.2, val_fraction=0.1)).splits == split_table.splits
    assert (
        assign_splits(table, DataConfig(test_fraction=0.2, val_fraction=0.1, split_seed=1)).splits != split_table.splits
    )


def test_zero_fractions_hold_nothing_out() -> None:
    table = assign_splits(table_of([0, 1] * 5), DataConfig(val_fraction=0, test_fraction=0))
    assert sizes(table) == {"train": 10, "val": 0, "test": 0}


@pytest.mark.parametrize("given_splits", [("test",), ("val",), ("val", "test")])
def test_given_splits_stay_and_missing_ones_are_held_out_of_train(given_splits: tuple[str, ...]) -> None:
    splits = [*(name for name in given_splits for _ in range(10)), *["train"] * (100 - 10 * len(given_splits))]
    split_table = assign_splits(table_of([0, 1] * 50, splits=splits), DataConfig(val_fraction=0.25, test_fraction=0.25))
    assert split_table.splits is not None
    for row, split in enumerate(splits):
        if split != "train":
            assert split_table.splits[row] == split
    for split in ("val", "test"):
        assert sizes(split_table)[split] >= 10
        assert (sizes(split_table)[split] == 10) == (split in given_splits)


def test_unlabelled_rows_are_not_used_for_training_or_validation() -> None:
    labels = [0, 1] * 20 + [-1] * 6
    split_table = assign_splits(table_of(labels), DataConfig())
    assert split_table.splits is not None and set(split_table.splits[-6:]) == {""}
    splits = ["train"] * 40 + ["train", "val", "test"] * 2
    split_table = assign_splits(table_of(labels, splits=splits), DataConfig())
    assert split_table.splits is not None and split_table.splits[-6:] == ("", "", "test") * 2


def test_small_classes_stay_in_train_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="1 class too small.*2$"):
        split_table = assign_splits(table_of([0] * 20 + [1] * 20 + [2]), DataConfig(test_fraction=0))
    assert split_table.splits is not None and split_table.splits[-1] == "train"


def test_seeds_of_folds_may_be_larger_than_those_of_scikit_learn() -> None:
    labels = np.arange(20) % 2
    for groups in (None, [f"g{row // 2}" for row in range(20)]):
        large = stratified_folds(labels, 4, seed=2**31 * 10_000 + 7, groups=groups)
        assert sorted(np.concatenate(large).tolist()) == list(range(20))


def test_nothing_to_hold_out_is_an_error() -> None:
    with pytest.raises(DataError, match=r"no test split can be held out.*test_fraction to 0"):
        assign_splits(table_of([0, 1, 2]), DataConfig())


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=8),
    test=st.sampled_from([0.0, 0.1, 0.15, 0.5, 0.8]),
    val=st.sampled_from([0.05, 0.15, 0.19]),
    seed=st.integers(0, 5),
    groups=st.booleans(),
)
def test_splits_of_any_class_counts_are_valid_or_an_error(
    counts: list[int], test: float, val: float, seed: int, groups: bool
) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    names = [f"g{row % 7}" for row in range(len(labels))] if groups else None
    table = table_of(labels, groups=names)
    config = DataConfig(test_fraction=test, val_fraction=val, split_seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            split_table = assign_splits(table, config)
        except DataError as error:
            assert "can be held out" in str(error)
            return
        assert assign_splits(table, config).splits == split_table.splits
    assert sum(sizes(split_table).values()) == len(labels)
    assert set(split_table.labels[split_table.rows_of("train")].tolist()) == set(range(len(counts)))
    assert sizes(split_table)["val"] > 0 and (sizes(split_table)["test"] > 0) == (test > 0)
    check_disjoint(split_table)


def test_splits_keep_groups_together_and_sizes_close() -> None:
    rng = np.random.default_rng(0)
    groups = [f"g{group}" for group in rng.integers(0, 60, 1200)]
    split_table = assign_splits(table_of(rng.integers(0, 4, 1200).tolist(), groups=groups), DataConfig())
    by_group: dict[str, set[str]] = {}
    for group, split in zip(groups, split_table.splits or (), strict=True):
        by_group.setdefault(group, set()).add(split)
    assert all(len(splits) == 1 for splits in by_group.values())
    assert abs(sizes(split_table)["test"] - 180) < 30 and abs(sizes(split_table)["val"] - 153) < 30


@pytest.mark.parametrize("groups", [["g"] * 40, ["even", "odd"] * 20])
def test_impossible_group_hold_out_is_an_error(groups: list[str]) -> None:
    with pytest.raises(DataError, match="too few groups"):
        assign_splits(table_of([0, 1] * 20, groups=groups), DataConfig())


def test_given_split_must_not_divide_a_group() -> None:
    table = table_of([0, 1] * 4, groups=list("aabbccdd"), splits=["train"] * 5 + ["test"] * 3)
    with pytest.raises(DataError, match="1 groups are in both train and test, such as 'c'"):
        assign_splits(table, DataConfig(val_fraction=0))


def test_image_in_two_splits_under_two_ids_is_an_error() -> None:
    table = table_of([0, 1] * 4, splits=["train"] * 4 + ["test"] * 4)
    duplicated = SampleTable(**{**vars(table), "locations": ("0", "1", "2", "3", "0", "5", "6", "7")})
    with pytest.raises(DataError, match="1 images are in both"):
        check_disjoint(duplicated)


def test_classes_without_training_images_are_an_error() -> None:
    table = table_of([0, 1, 0, 1, 2], splits=["train"] * 4 + ["test"])
    with pytest.raises(DataError, match="1 class in test but not in train: 2"):
        assign_splits(table, DataConfig(val_fraction=0))
    with pytest.raises(DataError, match="no labelled training images"):
        assign_splits(table_of([0, 1], splits=["val", "test"]), DataConfig())


@settings(max_examples=40, deadline=None)
@given(limit=st.integers(3, 80), seed=st.integers(0, 3))
def test_limit_keeps_class_fractions(limit: int, seed: int) -> None:
    table = table_of([0] * 60 + [1] * 30 + [2] * 2, splits=["train"] * 92)
    split_table = assign_splits(table, DataConfig(val_fraction=0, test_fraction=0, limit=limit, split_seed=seed))
    counts = np.bincount(split_table.labels[split_table.rows_of("train")], minlength=3)
    assert counts.sum() == limit and counts.min() >= 1
    np.testing.assert_allclose(counts, np.array([60, 30, 2]) * limit / 92, atol=2)


def test_limit_below_the_number_of_classes_is_an_error() -> None:
    with pytest.raises(ConfigError, match="smaller than the number of classes, 3"):
        assign_splits(table_of([0, 1, 2] * 9), DataConfig(limit=2))


@settings(max_examples=40, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=6, max_size=60), folds=st.integers(2, 6), seed=st.integers(0, 3))
def test_every_row_is_held_out_once(labels: list[int], folds: int, seed: int) -> None:
    values = np.array(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        parts = stratified_folds(values, folds, seed=seed)
        again = stratified_folds(values, folds, seed=seed)
    assert len(parts) == folds and all(len(part) for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all((first == second).all() for first, second in zip(parts, again, strict=True))
    if np.bincount(values).max() >= folds:
        for label in set(labels):
            counts = [int((values[part] == label).sum()) for part in parts]
            assert max(counts) - min(counts) <= 1


def test_folds_keep_groups_together() -> None:
    groups = [f"g{row // 5}" for row in range(100)]
    parts = stratified_folds(np.arange(100) % 3, 4, seed=0, groups=groups)
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    held_out = [{groups[row] for row in part} for part in parts]
    assert sum(len(names) for names in held_out) == 20


def test_folds_warn_of_small_classes_and_raise_for_too_many_folds() -> None:
    with pytest.warns(UserWarning, match="1 class with fewer than 5"):
        stratified_folds(np.array([0] * 10 + [1] * 2), 5, seed=0)
    with pytest.raises(DataError, match="3 rows cannot be divided into 4 folds"):
        stratified_folds(np.array([0, 1, 0]), 4, seed=0)
    with pytest.raises(DataError, match="2 groups cannot be divided into 3 folds"):
        stratified_folds(np.zeros(9, dtype=np.int64), 3, seed=0, groups=["a", "b", "a"] * 3)
