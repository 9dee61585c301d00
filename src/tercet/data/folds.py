"""Folds of a whole data set, for cross-validation: every labelled row outside a test split is held out exactly once.

N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.core.files import natural_key
from tercet.data.splits import assign_splits, check_classes, stratified_folds
from tercet.data.table import LEFT_OUT, Ints, SampleTable

DEFAULT_FOLDS = 5
NO_FOLD = -1
"""The fold number of rows that no fold holds out: a test split's, unlabelled ones."""


@dataclass(frozen=True)
class Fold:
    """Rows that are held out together."""

    name: str
    """Its number, or the group that it holds out."""
    rows: Ints
    """Positions in the table, in increasing order."""


@dataclass(frozen=True)
class FoldPlan:
    """A table divided into folds."""

    table: SampleTable
    """All rows: the pool has the split train, a test split keeps its name, rows that are kept for calibrating have the
    split val, other rows have none; `folds` are set."""
    folds: tuple[Fold, ...]
    """The folds, in order."""
    how: str
    """How they were made, in words."""

    def divided(self, fold: Fold, config: DataConfig) -> SampleTable:
        """Return the table as the training without one fold sees it.

        The fold's rows are its test split, validation rows are held out of the others (`data.val_fraction`, groups
        whole); the data's own test split, and what is kept for calibrating, are left out altogether.

        Raises:
            DataError: No validation rows can be held out, or a group lies in two folds.
        """
        splits = np.array(self.table.splits, dtype="<U5")
        splits[splits != "train"] = LEFT_OUT
        splits[fold.rows] = "test"
        try:
            return assign_splits(self.table.with_splits(splits.tolist()), config, all_classes_learned=False)
        except DataError as error:
            raise DataError(f"without fold {fold.name}: {error}") from error

    def unlearned(self, fold: Fold) -> tuple[str, ...]:
        """Return the classes that only this fold shows, so that the training without it cannot learn them."""
        pool = self.table.rows_of("train")
        others = np.setdiff1d(pool, fold.rows)
        lost = set(self.table.labels[fold.rows].tolist()) - set(self.table.labels[others].tolist())
        return tuple(self.table.classes[label] for label in sorted(lost))


def make_folds(
    table: SampleTable,
    config: DataConfig,
    *,
    count: int | None = None,
    leave_one_group_out: bool = False,
    calibration_fraction: float = 0.0,
) -> FoldPlan:
    """Divide the labelled rows of a table into folds; a test split stays out of them.

    A validation split that came with the data joins the folds: each training holds out its own. Folds that came with
    the table are kept; others are stratified and seeded (`data.split_seed`), with groups whole.

    Args:
        table: The samples.
        config: `test_fraction` holds out a test split where it is not 0; `split_seed`.
        count: Number of folds (default: the table's own, else 5).
        leave_one_group_out: One fold a group, named after it.
        calibration_fraction: Share of the rows outside the test split that stay out of all folds, groups whole.

    Raises:
        DataError: There are too few rows or groups for the folds, or none at all; the test split shows other classes.
    """
    table = assign_splits(table, replace(config, val_fraction=0.0, limit=None), all_classes_learned=False)
    splits = np.array(table.splits, dtype="<U5")
    joined = "val" in splits
    splits[splits == "val"] = "train"
    table = table.with_splits(splits.tolist())
    if calibration_fraction:
        kept = replace(config, val_fraction=calibration_fraction, test_fraction=0.0, limit=None)
        table = assign_splits(table, kept, all_classes_learned=False)
    check_classes(table)
    pool = table.rows_of("train")
    if leave_one_group_out:
        parts, how = _by_group(table, pool), "one fold a group"
    elif table.folds is not None:
        parts, how = _given(table, pool, count), "the table's own folds"
    else:
        parts, how = _stratified(table, pool, count or DEFAULT_FOLDS, config.split_seed), "stratified"
    numbers = np.full(len(table), NO_FOLD, dtype=np.int64)
    for number, fold in enumerate(parts, 1):
        numbers[fold.rows] = number
    how += ", groups whole" if table.groups and not leave_one_group_out else ""
    how += ", with the given validation split" if joined else ""
    how += f", {len(table.rows_of('val'))} images kept for calibrating" if calibration_fraction else ""
    return FoldPlan(replace(table, folds=numbers), tuple(parts), how)


def _by_group(table: SampleTable, pool: Ints) -> list[Fold]:
    if table.groups is None:
        raise DataError(
            f"{table.name} has no groups to leave out: name them with --data.group-column or --data.group-from"
        )
    groups = np.array(table.groups, dtype=np.str_)[pool]
    if (groups == "").any():
        raise DataError(f"{table.name}: {int((groups == '').sum())} images have no group: give every image one")
    names = sorted(set(groups.tolist()), key=natural_key)
    if len(names) < 2:
        raise DataError(f"{table.name}: all images are of one group ('{names[0]}'): nothing can be left out")
    return [Fold(name, pool[groups == name]) for name in names]


def _given(table: SampleTable, pool: Ints, count: int | None) -> list[Fold]:
    assert table.folds is not None
    numbers = table.folds[pool]
    found = sorted(set(numbers.tolist()))
    if count is not None and count != len(found):
        raise DataError(
            f"{table.name} comes with {len(found)} folds ({', '.join(map(str, found[:5]))}"
            f"{', ...' if found[5:] else ''}), not {count}: leave --folds out, or drop the table's column"
        )
    if len(found) < 2:
        raise DataError(f"{table.name}: all rows are of one fold ({found[0]}): nothing can be held out")
    return [Fold(str(number), pool[numbers == number]) for number in found]


def _stratified(table: SampleTable, pool: Ints, count: int, seed: int) -> list[Fold]:
    labels = table.labels[pool]
    groups = None if table.groups is None else [table.groups[row] for row in pool]
    if groups is not None and len(set(groups)) < count:
        number = len(set(groups))
        alone = f"all images are of one group ('{groups[0]}')" if number == 1 else f"there are {number} groups"
        hint = f"use --folds {number}, or " if number > 1 else ""
        raise DataError(f"{table.name}: {alone}, fewer than the {count} folds: {hint}check the grouping")
    small, units = _smallest_class(labels, groups)
    if units < count:
        what = "image(s)" if groups is None else "group(s) of images"
        hint = f"use --folds {units}" if units > 1 else "it cannot be held out and learned"
        raise DataError(
            f"{table.name}: class '{table.classes[small]}' has {units} {what}, fewer than the {count} folds: {hint}, "
            "or add images"
        )
    parts = stratified_folds(labels, count, seed=seed, groups=groups)
    return [Fold(str(number), pool[rows]) for number, rows in enumerate(parts, 1)]


def _smallest_class(labels: Ints, groups: Sequence[str] | None) -> tuple[int, int]:
    """Return the class with the fewest rows, or the fewest groups where there are groups, and how many."""
    units = {(label, row if groups is None else groups[row]) for row, label in enumerate(labels.tolist())}
    present = np.unique([label for label, _ in units], return_counts=True)
    smallest = int(present[1].argmin())
    return int(present[0][smallest]), int(present[1][smallest])
