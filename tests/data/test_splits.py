import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.data.load import table_from_arrays
from tercet.data.splits import assign_splits, check_disjoint, stratified_folds
from tercet.data.table import SampleTable


def table_of(labels: Sequence[int], **columns: object) -> SampleTable:
    return table_from_arrays(np.zeros((len(labels), 1, 1), np.uint8), np.array(labels), **columns)  # type: ignore[arg-type]


def sizes(table: SampleTable) -> dict[str, int]:
    return {split: len(table.rows_of(split)) for split in ("train", "val", "test")}  # type: ignore[arg-type]


def test_hold_out_is_stratified_seeded_and_of_the_right_size() -> None:
    table = table_of([0] * 600 + [1] * 300 + [2] * 100)
    one = assign_splits(table, DataConfig(test_fraction=0.2, val_fraction=0.1))
    assert sizes(one) == {"train": 720, "val": 80, "test": 200}
    for split in ("train", "val", "test"):
        rows = one.rows_of(split)  # type: ignore[arg-type]
        np.testing.assert_allclose(np.bincount(one.labels[rows]) / len(rows), [0.6, 0.3, 0.1], atol=0.01)
    assert assign_splits(table, DataConfig(test_fraction=0.2, val_fraction=0.1)).splits == one.splits
    assert assign_splits(table, DataConfig(test_fraction=0.2, val_fraction=0.1, split_seed=1)).splits != one.splits


def test_no_fraction_holds_nothing_out() -> None:
    table = assign_splits(table_of([0, 1] * 5), DataConfig(val_fraction=0, test_fraction=0))
    assert sizes(table) == {"train": 10, "val": 0, "test": 0}


@pytest.mark.parametrize("given_splits", [("test",), ("val",), ("val", "test")])
def test_given_splits_stay_and_missing_ones_are_held_out_of_train(given_splits: tuple[str, ...]) -> None:
    splits = [*(name for name in given_splits for _ in range(10)), *["train"] * (100 - 10 * len(given_splits))]
    divided = assign_splits(table_of([0, 1] * 50, splits=splits), DataConfig(val_fraction=0.25, test_fraction=0.25))
    assert divided.splits is not None
    for row, split in enumerate(splits):
        if split != "train":
            assert divided.splits[row] == split
    for split in ("val", "test"):
        assert sizes(divided)[split] >= 10
        assert (sizes(divided)[split] == 10) == (split in given_splits)


def test_unlabelled_rows_never_train_or_validate() -> None:
    labels = [0, 1] * 20 + [-1] * 6
    divided = assign_splits(table_of(labels), DataConfig())
    assert divided.splits is not None and set(divided.splits[-6:]) == {""}
    splits = ["train"] * 40 + ["train", "val", "test"] * 2
    divided = assign_splits(table_of(labels, splits=splits), DataConfig())
    assert divided.splits is not None and divided.splits[-6:] == ("", "", "test") * 2


def test_small_classes_stay_in_train_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="1 classes are too small.*2$"):
        divided = assign_splits(table_of([0] * 20 + [1] * 20 + [2]), DataConfig(test_fraction=0))
    assert divided.splits is not None and divided.splits[-1] == "train"


def test_nothing_to_hold_out_is_one_clear_error() -> None:
    with pytest.raises(DataError, match=r"no test split can be held out.*test_fraction to 0"):
        assign_splits(table_of([0, 1, 2]), DataConfig())


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=8),
    test=st.sampled_from([0.0, 0.1, 0.15, 0.5, 0.8]),
    val=st.sampled_from([0.05, 0.15, 0.19]),
    seed=st.integers(0, 5),
    groups=st.booleans(),
)
def test_any_counts_divide_soundly_or_say_why_not(
    counts: list[int], test: float, val: float, seed: int, groups: bool
) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    names = [f"g{row % 7}" for row in range(len(labels))] if groups else None
    table = table_of(labels, groups=names)
    config = DataConfig(test_fraction=test, val_fraction=val, split_seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            divided = assign_splits(table, config)
        except DataError as error:
            assert "can be held out" in str(error)
            return
        assert assign_splits(table, config).splits == divided.splits
    assert sum(sizes(divided).values()) == len(labels)
    assert set(divided.labels[divided.rows_of("train")].tolist()) == set(range(len(counts)))
    assert sizes(divided)["val"] > 0 and (sizes(divided)["test"] > 0) == (test > 0)
    check_disjoint(divided)


def test_groups_stay_whole_and_sizes_stay_near() -> None:
    rng = np.random.default_rng(0)
    groups = [f"g{group}" for group in rng.integers(0, 60, 1200)]
    divided = assign_splits(table_of(rng.integers(0, 4, 1200).tolist(), groups=groups), DataConfig())
    by_group: dict[str, set[str]] = {}
    for group, split in zip(groups, divided.splits or (), strict=True):
        by_group.setdefault(group, set()).add(split)
    assert all(len(found) == 1 for found in by_group.values())
    assert abs(sizes(divided)["test"] - 180) < 30 and abs(sizes(divided)["val"] - 153) < 30


@pytest.mark.parametrize("groups", [["g"] * 40, ["even", "odd"] * 20])
def test_groups_that_cannot_be_held_out_are_told(groups: list[str]) -> None:
    with pytest.raises(DataError, match="its groups are too few, or each holds a whole class"):
        assign_splits(table_of([0, 1] * 20, groups=groups), DataConfig())


def test_a_given_split_that_divides_a_group_is_refused() -> None:
    table = table_of([0, 1] * 4, groups=list("aabbccdd"), splits=["train"] * 5 + ["test"] * 3)
    with pytest.raises(DataError, match="1 groups lie in both train and test, such as 'c'"):
        assign_splits(table, DataConfig(val_fraction=0))


def test_one_image_under_two_ids_is_found() -> None:
    table = table_of([0, 1] * 4, splits=["train"] * 4 + ["test"] * 4)
    twice = SampleTable(**{**vars(table), "locations": ("0", "1", "2", "3", "0", "5", "6", "7")})
    with pytest.raises(DataError, match="1 images lie in both"):
        check_disjoint(twice)


def test_classes_never_shown_in_training_are_refused() -> None:
    table = table_of([0, 1, 0, 1, 2], splits=["train"] * 4 + ["test"])
    with pytest.raises(DataError, match="1 classes lie in test but not in train: 2"):
        assign_splits(table, DataConfig(val_fraction=0))
    with pytest.raises(DataError, match="no labelled training images"):
        assign_splits(table_of([0, 1], splits=["val", "test"]), DataConfig())


@settings(max_examples=40, deadline=None)
@given(limit=st.integers(3, 80), seed=st.integers(0, 3))
def test_a_limit_keeps_every_class_with_its_share(limit: int, seed: int) -> None:
    table = table_of([0] * 60 + [1] * 30 + [2] * 2, splits=["train"] * 92)
    divided = assign_splits(table, DataConfig(val_fraction=0, test_fraction=0, limit=limit, split_seed=seed))
    counts = np.bincount(divided.labels[divided.rows_of("train")], minlength=3)
    assert counts.sum() == limit and counts.min() >= 1
    np.testing.assert_allclose(counts, np.array([60, 30, 2]) * limit / 92, atol=2)


def test_a_limit_below_the_classes_is_a_usage_error() -> None:
    with pytest.raises(ConfigError, match="smaller than the 3 classes"):
        assign_splits(table_of([0, 1, 2] * 9), DataConfig(limit=2))


@settings(max_examples=40, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=6, max_size=60), folds=st.integers(2, 6), seed=st.integers(0, 3))
def test_folds_hold_every_row_out_once(labels: list[int], folds: int, seed: int) -> None:
    values = np.array(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        parts = stratified_folds(values, folds, seed=seed)
        again = stratified_folds(values, folds, seed=seed)
    assert len(parts) == folds and all(len(part) for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all((one == two).all() for one, two in zip(parts, again, strict=True))
    if np.bincount(values).max() >= folds:
        for label in set(labels):
            share = [int((values[part] == label).sum()) for part in parts]
            assert max(share) - min(share) <= 1


def test_folds_keep_groups_whole() -> None:
    groups = [f"g{row // 5}" for row in range(100)]
    parts = stratified_folds(np.arange(100) % 3, 4, seed=0, groups=groups)
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    held = [{groups[row] for row in part} for part in parts]
    assert sum(len(names) for names in held) == 20


def test_folds_warn_of_small_classes_and_refuse_too_many() -> None:
    with pytest.warns(UserWarning, match="1 classes have fewer than 5"):
        stratified_folds(np.array([0] * 10 + [1] * 2), 5, seed=0)
    with pytest.raises(DataError, match="3 rows cannot make 4 folds"):
        stratified_folds(np.array([0, 1, 0]), 4, seed=0)
    with pytest.raises(DataError, match="2 groups cannot make 3 folds"):
        stratified_folds(np.zeros(9, dtype=np.int64), 3, seed=0, groups=["a", "b", "a"] * 3)
