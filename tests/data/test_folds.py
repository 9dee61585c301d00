from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.folds import NO_FOLD, FoldPlan, make_folds
from tercet.data.in_memory import table_from_arrays
from tercet.data.table import SampleTable

pytestmark = pytest.mark.filterwarnings("ignore:.*too small to be held out for val")
NO_TEST = DataConfig(test_fraction=0.0, val_fraction=0.25)


def table_of(labels: list[int], folds: list[int] | None = None, **columns: object) -> SampleTable:
    table = table_from_arrays(np.zeros((len(labels), 1, 1), np.uint8), np.array(labels), **columns)  # type: ignore[arg-type]
    return table if folds is None else replace(table, folds=np.array(folds, dtype=np.int64))


def check_complete(plan: FoldPlan, pool: set[int]) -> None:
    """Check that every row of the pool is held out once, and that its training uses neither it nor the test split."""
    held_out = [set(fold.rows.tolist()) for fold in plan.folds]
    assert sum(map(len, held_out)) == len(set().union(*held_out)) and set().union(*held_out) == pool
    for number, (fold, rows) in enumerate(zip(plan.folds, held_out, strict=True), 1):
        assert rows and (plan.table.folds[fold.rows] == number).all()  # type: ignore[index]
        divided = plan.fold_table(fold, NO_TEST)
        parts = {split: set(divided.rows_of(split).tolist()) for split in ("train", "val", "test")}  # type: ignore[arg-type]
        assert parts["test"] == rows and parts["train"] and parts["val"]
        assert not parts["train"] & parts["val"] and parts["train"] | parts["val"] == pool - rows
        if divided.groups is not None:
            of = {split: {divided.groups[row] for row in split_rows} for split, split_rows in parts.items()}
            assert not of["train"] & of["val"] and not of["train"] & of["test"] and not of["val"] & of["test"]


@settings(deadline=None, max_examples=15)
@given(
    counts=st.lists(st.integers(8, 30), min_size=2, max_size=4),
    folds=st.integers(2, 6),
    test=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_folds_are_complete_stratified_and_exclude_the_test_split(
    counts: list[int], folds: int, test: int, seed: int
) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    order = np.random.default_rng(seed).permutation(len(labels))
    labels = [labels[row] for row in order] + [0] * test
    splits = ["train"] * (len(labels) - test) + ["test"] * test
    table = table_of(labels, splits=splits if test else None)
    plan = make_folds(table, DataConfig(test_fraction=0.0, split_seed=seed), count=folds)
    pool = set(range(len(labels) - test))
    check_complete(plan, pool)
    assert [fold.name for fold in plan.folds] == [str(number) for number in range(1, folds + 1)]
    shares = np.array([np.bincount(table.labels[fold.rows], minlength=len(counts)) for fold in plan.folds])
    assert (shares.max(0) - shares.min(0) <= 1).all()
    assert (plan.table.folds[len(pool) :] == NO_FOLD).all()  # type: ignore[index]
    again = make_folds(table, DataConfig(test_fraction=0.0, split_seed=seed), count=folds)
    assert all(np.array_equal(first.rows, second.rows) for first, second in zip(plan.folds, again.folds, strict=True))


@settings(deadline=None, max_examples=12)
@given(sizes=st.lists(st.integers(1, 5), min_size=12, max_size=24), folds=st.integers(2, 4), seed=st.integers(0, 99))
def test_folds_and_their_splits_keep_groups_together(sizes: list[int], folds: int, seed: int) -> None:
    labels = [number % 2 for number, size in enumerate(sizes) for _ in range(size)]
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    config = DataConfig(test_fraction=0.0, split_seed=seed)
    plan = make_folds(table_of(labels, groups=groups), config, count=folds)
    check_complete(plan, set(range(len(labels))))
    assert "groups kept together" in plan.description


@settings(deadline=None, max_examples=8)
@given(groups=st.lists(st.sampled_from("abcde"), min_size=30, max_size=60), seed=st.integers(0, 9))
def test_leave_one_group_out_folds_have_group_names(groups: list[str], seed: int) -> None:
    groups = [*groups, *"abcde" * 2]
    labels = [0] * (len(groups) - 10) + [0] * 5 + [1] * 5
    plan = make_folds(table_of(labels, groups=groups), DataConfig(test_fraction=0.0), leave_one_group_out=True)
    assert [fold.name for fold in plan.folds] == list("abcde")
    for fold in plan.folds:
        assert {groups[row] for row in fold.rows} == {fold.name}
    check_complete(plan, set(range(len(groups))))


def test_given_folds_are_kept() -> None:
    table = table_of([0, 1] * 12, folds=[3, 3, 1, 1, 7, 7] * 4)
    plan = make_folds(table, NO_TEST)
    assert [fold.name for fold in plan.folds] == ["1", "3", "7"] and "given" in plan.description
    assert plan.folds[1].rows.tolist() == [row for row in range(24) if row % 6 < 2]
    check_complete(plan, set(range(24)))
    assert len(make_folds(table, NO_TEST, count=3).folds) == 3
    with pytest.raises(DataError, match=r"3 folds \(1, 3, 7\), not 5"):
        make_folds(table, NO_TEST, count=5)


def test_folds_include_the_given_validation_split_but_no_unlabelled_rows() -> None:
    splits = ["train"] * 20 + ["val"] * 8 + ["test"] * 4
    plan = make_folds(table_of([0, 1] * 10 + [-1, 1, 0, 1] * 3, splits=splits), NO_TEST, count=2)
    check_complete(plan, {row for row in range(28) if row not in (20, 24)})
    assert "validation" in plan.description


def test_test_split_is_held_out_if_configured() -> None:
    config = DataConfig(test_fraction=0.25)
    plan = make_folds(table_of([0, 1] * 20), config, count=3)
    assert len(plan.table.rows_of("test")) == 10
    check_complete(plan, set(plan.table.rows_of("train").tolist()))


def test_limit_applies_to_training_rows_only() -> None:
    plan = make_folds(table_of([0, 1] * 20), NO_TEST, count=2)
    divided = plan.fold_table(plan.folds[0], DataConfig(limit=6, val_fraction=0.2))
    assert [len(divided.rows_of(split)) for split in ("train", "val", "test")] == [6, 4, 20]


def test_classes_of_a_single_group_are_reported_as_unlearned() -> None:
    labels = [0, 1] * 9 + [2] * 3
    plan = make_folds(table_of(labels, groups=list("abcdef" * 3) + ["f"] * 3), NO_TEST, leave_one_group_out=True)
    assert [plan.unlearned(fold) for fold in plan.folds] == [()] * 5 + [("2",)]
    assert set(plan.fold_table(plan.folds[-1], NO_TEST).labels[plan.folds[-1].rows].tolist()) == {0, 1, 2} - {0}


@pytest.mark.parametrize(
    ("labels", "groups", "options", "message"),
    [
        ([0] * 9 + [1] * 3, None, {"count": 5}, "class '1' has 3 .*fewer than 5 folds: use --folds 3"),
        ([0] * 9 + [1], None, {"count": 5}, "class '1' has 1 .*: add images"),
        ([0, 1] * 6, ["a"] * 12, {"count": 3}, r"group 'a', fewer than 3 folds: check the grouping"),
        ([0, 1] * 6, list("aabbcc") * 2, {"count": 5}, "3 groups, fewer than 5 folds: use --folds 3"),
        ([0] * 6 + [1] * 6, list("abcdef") + list("ababab"), {"count": 3}, "class '1' has 2 group"),
        ([0, 1] * 6, None, {"leave_one_group_out": True}, "no groups: give --data.group-column"),
        ([0, 1] * 6, ["a"] * 12, {"leave_one_group_out": True}, "group 'a'"),
        ([0, 1] * 6, ["a", "b", ""] * 4, {"leave_one_group_out": True}, "4 images have no group"),
    ],
    ids=["small class", "one image", "constant", "few groups", "class in few groups", "none", "one group", "no name"],
)
def test_impossible_folds_are_errors(
    labels: list[int], groups: list[str] | None, options: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        make_folds(table_of(labels, groups=groups), NO_TEST, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_error_names_the_fold_without_validation_rows() -> None:
    plan = make_folds(table_of([0, 1] * 8, groups=["left", "right"] * 8), NO_TEST, leave_one_group_out=True)
    with pytest.raises(DataError, match=r"without fold left: .*no val split.*too few groups"):
        plan.fold_table(plan.folds[0], NO_TEST)


def test_group_in_two_given_folds_is_an_error() -> None:
    table = table_of([0, 1] * 8, groups=list("abcdefgh") * 2, folds=[1] * 8 + [2] * 8)
    plan = make_folds(table, NO_TEST)
    with pytest.raises(DataError, match=r"without fold 1: .*group"):
        plan.fold_table(plan.folds[0], NO_TEST)


@pytest.mark.parametrize("grouped", [False, True])
def test_calibration_rows_are_in_no_fold(grouped: bool) -> None:
    labels = [row % 3 for row in range(60)]
    groups = [f"g{row // 4}" for row in range(60)] if grouped else None
    table = table_of(labels, groups=groups, splits=["train"] * 52 + ["test"] * 8)
    plan = make_folds(table, DataConfig(test_fraction=0.0), count=3, calibration_fraction=0.2)
    calibration = set(plan.table.rows_of("val").tolist())
    assert 8 <= len(calibration) <= 12 and "reserved for calibration" in plan.description
    assert set(plan.table.rows_of("test").tolist()) == set(range(52, 60))
    check_complete(plan, set(range(52)) - calibration)
    if groups:
        assert not {groups[row] for row in calibration} & {groups[row] for row in plan.table.rows_of("train")}
