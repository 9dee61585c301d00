"""Folds for cross-validation: every labelled row outside the test split is held out exactly once.

N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.core.files import natural_key
from tercet.data.copies import first_copies, with_their_copies
from tercet.data.readers.side_columns import own_group
from tercet.data.splits import assign_splits, check_classes, stratified_folds, unit_names
from tercet.data.table import LEFT_OUT, Ints, SampleTable
from tercet.data.unseen_classes import leave_out_unseen_classes

DEFAULT_FOLDS = 5
NO_FOLD = -1
"""Fold number of rows that are never held out: test split and unlabelled."""


@dataclass(frozen=True)
class Fold:
    """Rows that are held out together."""

    name: str
    """Number of the fold, or name of its group."""
    rows: Ints
    """Positions in the table, in increasing order."""


@dataclass(frozen=True)
class FoldPlan:
    """A table divided into folds."""

    table: SampleTable
    """All rows, with fold numbers. Rows in folds have the split train, calibration rows have the split val, the test
    split keeps its name, and all other rows are left out."""
    folds: tuple[Fold, ...]
    description: str
    """How the folds were made."""

    def fold_table(self, fold: Fold, config: DataConfig) -> SampleTable:
        """Return the table for the training without one fold.

        The fold is the test split; validation rows are held out of the other folds (`data.val_fraction`, groups kept
        together). The data's own test split and the calibration rows are left out.

        Raises:
            DataError: No validation rows can be held out, or a group is in two folds.
        """
        splits = np.array(self.table.splits, dtype="<U5")
        splits[splits != "train"] = LEFT_OUT
        splits[fold.rows] = "test"
        try:
            return assign_splits(self.table.with_splits(splits.tolist()), config, all_classes_learned=False)
        except DataError as error:
            raise DataError(f"without fold {fold.name}: {error}") from error

    def unlearned(self, fold: Fold) -> tuple[str, ...]:
        """Return the classes that occur only in this fold: the training without it cannot learn them."""
        others = np.setdiff1d(self.table.rows_of("train"), fold.rows)
        labels = set(self.table.labels[fold.rows].tolist()) - set(self.table.labels[others].tolist())
        return tuple(self.table.classes[label] for label in sorted(labels))


def make_folds(
    table: SampleTable,
    config: DataConfig,
    *,
    count: int | None = None,
    leave_one_group_out: bool = False,
    calibration_fraction: float = 0.0,
) -> FoldPlan:
    """Divide the labelled rows outside the test split into folds.

    A given validation split becomes part of the folds, since each training holds out its own. Given folds are kept;
    otherwise folds are stratified and seeded (`data.split_seed`), with groups kept together, and copies unless
    `keep_copies_together` is false.

    Args:
        table: The samples.
        config: `test_fraction` (0: no test split is held out) and `split_seed`.
        count: Number of folds (default: the given ones, else 5).
        leave_one_group_out: One fold per group, with the group's name.
        calibration_fraction: Fraction of the rows outside the test split that are in no fold, groups kept together.

    Raises:
        DataError: There are too few rows or groups, or the test split contains other classes.
    """
    table = leave_out_unseen_classes(table) if config.unseen_classes == "leave-out" else table
    table = assign_splits(table, replace(config, val_fraction=0.0, limit=None), all_classes_learned=False)
    splits = np.array(table.splits, dtype="<U5")
    had_validation = "val" in splits
    splits[splits == "val"] = "train"
    table = table.with_splits(splits.tolist())
    if calibration_fraction:
        calibration = replace(config, val_fraction=calibration_fraction, test_fraction=0.0, limit=None)
        table = assign_splits(table, calibration, all_classes_learned=False)
    check_classes(table)
    pool = table.rows_of("train")
    copies = table.copies if config.keep_copies_together else None
    if leave_one_group_out:
        folds, description = _group_folds(table, pool), "one fold per group"
    elif table.folds is not None:
        folds, description = _given_folds(table, pool, count), "folds given by the table"
    else:
        folds, description = _stratified(table, pool, count or DEFAULT_FOLDS, config.split_seed, copies), "stratified"
        description += ", copies kept together" if copies is not None and copies[pool].any() else ""
    numbers = np.full(len(table), NO_FOLD, dtype=np.int64)
    for number, fold in enumerate(folds, 1):
        numbers[fold.rows] = number
    description += ", groups kept together" if table.groups and not leave_one_group_out else ""
    description += ", including the given validation split" if had_validation else ""
    description += f", {len(table.rows_of('val'))} images reserved for calibration" if calibration_fraction else ""
    return FoldPlan(replace(table, folds=numbers), tuple(folds), description)


def _group_folds(table: SampleTable, pool: Ints) -> list[Fold]:
    if table.groups is None:
        raise DataError(f"{table.name} has no groups: give --data.group-column or --data.group-from")
    groups = np.array(table.groups, dtype=np.str_)[pool]
    without = [row for row in pool if table.groups[row] in ("", own_group(table.ids[row]))]
    if without:
        raise DataError(
            f"{table.name}: {len(without)} images have no group, such as '{table.ids[without[0]]}': give every image "
            "a group"
        )
    names = sorted(set(groups.tolist()), key=natural_key)
    if len(names) < 2:
        raise DataError(f"{table.name}: all images belong to the group '{names[0]}': at least 2 groups are needed")
    return [Fold(name, pool[groups == name]) for name in names]


def _given_folds(table: SampleTable, pool: Ints, count: int | None) -> list[Fold]:
    assert table.folds is not None
    row_folds = table.folds[pool]
    without = pool[row_folds < 0]
    if len(without):
        raise DataError(
            f"{table.name}: {len(without)} of {len(pool)} images have no fold, such as '{table.ids[without[0]]}': "
            "folds are whole numbers from 0 on; fill in the fold column, or remove it to get other folds"
        )
    numbers = sorted(set(row_folds.tolist()))
    if count is not None and count != len(numbers):
        raise DataError(
            f"{table.name} has {len(numbers)} folds ({', '.join(map(str, numbers[:5]))}"
            f"{', ...' if numbers[5:] else ''}), not {count}: omit --folds, or remove the fold column of the table"
        )
    if len(numbers) < 2:
        raise DataError(f"{table.name}: all rows belong to fold {numbers[0]}: at least 2 folds are needed")
    return [Fold(str(number), pool[row_folds == number]) for number in numbers]


def _stratified(table: SampleTable, pool: Ints, count: int, seed: int, copies: Ints | None) -> list[Fold]:
    groups = unit_names(table, pool, copies)
    copies = None if copies is None or groups is not None else copies[pool]
    first = np.arange(len(pool)) if copies is None else np.flatnonzero(first_copies(copies))
    labels = table.labels[pool[first]]
    if groups is not None and len(set(groups)) < count:
        number = len(set(groups))
        problem = f"all images belong to the group '{groups[0]}'" if number == 1 else f"there are {number} groups"
        hint = f"use --folds {number}, or " if number > 1 else ""
        raise DataError(f"{table.name}: {problem}, fewer than {count} folds: {hint}check the grouping")
    small, units = _smallest_class(labels, groups)
    if units < count:
        unit = "group(s) of images" if groups is not None else "image(s)" if copies is None else "different image(s)"
        hint = f"use --folds {units}, or add images" if units > 1 else "add images"
        raise DataError(
            f"{table.name}: class '{table.classes[small]}' has {units} {unit}, fewer than {count} folds: {hint}"
        )
    held_out = stratified_folds(labels, count, seed=seed, groups=groups)
    held_out = [first[rows] if copies is None else with_their_copies(first[rows], copies) for rows in held_out]
    return [Fold(str(number), pool[rows]) for number, rows in enumerate(held_out, 1)]


def _smallest_class(labels: Ints, groups: Sequence[str] | None) -> tuple[int, int]:
    """Return the class with the fewest rows (with groups: the fewest groups) and their number."""
    units = {(label, row if groups is None else groups[row]) for row, label in enumerate(labels.tolist())}
    present = np.unique([label for label, _ in units], return_counts=True)
    smallest = int(present[1].argmin())
    return int(present[0][smallest]), int(present[1][smallest])
