"""Assign splits: given splits are kept; missing ones are held out stratified, seeded, with groups kept together.

N rows, K classes.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import (
    GroupShuffleSplit,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
)

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.output import count
from tercet.data.copies import first_copies, joined_groups, with_their_copies
from tercet.data.multilabel_splits import hold_out_rows, limit_rows
from tercet.data.table import LEFT_OUT, SPLITS, UNLABELLED, Ints, SampleTable

_GROUP_DRAWS = 64  # random choices of held-out groups; the one with the best class balance is used
_MAX_NAMES = 5  # classes listed in a message


def assign_splits(table: SampleTable, config: DataConfig, *, all_classes_learned: bool = True) -> SampleTable:
    """Assign a split to every row; the same seed gives the same splits.

    Given splits are kept. A missing test split is held out of the training rows first (a fraction of all labelled
    rows), then a missing validation split (a fraction of the remaining training rows). Unlabelled rows are never used
    for training or validation: outside a given test split they are left out, as are training rows beyond `limit`.
    Every class keeps a training row; a warning lists classes that are too small to be held out. Copies are not divided
    by a split that is held out, if `keep_copies_together`.

    Args:
        table: The samples.
        config: Fractions, seed and limit.
        all_classes_learned: Raise if a given split contains classes without training images.

    Raises:
        DataError: No rows remain for training or validation, a class has no training images, or a row, id or group
            is in two splits.
        ConfigError: `limit` is smaller than the number of classes.
    """
    splits = initial_splits(table)
    if table.splits is not None:
        check_disjoint(table.with_splits(splits.tolist()))  # before holding out, so that errors are about given splits
    given = set(splits.tolist())
    copies = table.copies if config.keep_copies_together else None
    if "train" not in given:
        raise DataError(f"{table.name} has no labelled training images: give a train split, or no splits at all")
    labelled = int((splits != LEFT_OUT).sum())
    if "test" not in given and config.test_fraction:
        size = config.test_fraction * labelled
        _hold_out(table, splits, "test", size=size, seed=_seed(config.split_seed, 0), copies=copies)
    if "val" not in given and config.val_fraction:
        size = config.val_fraction * int((splits == "train").sum())
        _hold_out(table, splits, "val", size=size, seed=_seed(config.split_seed, 1), copies=copies)
    if config.limit is not None:
        rows = np.flatnonzero(splits == "train")
        splits[_beyond_limit(table, rows, config.limit, _seed(config.split_seed, 2))] = LEFT_OUT
    split_table = table.with_splits(splits.tolist())
    if all_classes_learned:
        check_classes(split_table)
    check_disjoint(split_table)
    return split_table


def initial_splits(table: SampleTable) -> NDArray[np.str_]:
    """Return the given split of each row, else train; unlabelled rows outside a given test split are left out."""
    splits = np.array(table.splits or ("train",) * len(table), dtype="<U5")
    splits[(table.labels == UNLABELLED) & (splits != "test")] = LEFT_OUT
    return splits


def require_rows(table: SampleTable) -> None:
    """Raise a `DataError` if the training or the validation split is empty."""
    counts = {"train": len(table.rows_of("train")), "validation": len(table.rows_of("val"))}
    for name, rows in counts.items():
        if not rows:
            raise DataError(f"no images are left for {name}: give more images, or change --data.val-fraction")


def check_disjoint(table: SampleTable) -> None:
    """Raise a `DataError` if a row, an id, an image or a group is in two splits."""
    columns: dict[str, Sequence[int | str]] = {"row": range(len(table)), "id": table.ids, "image": table.locations}
    for kind, values in (columns | ({} if table.groups is None else {"group": table.groups})).items():
        by_split = {split: {values[row] for row in table.rows_of(split).tolist()} for split in SPLITS}
        overlaps = [
            f"{len(shared)} {kind}s are in both {first} and {second}, such as '{min(shared, key=str)}'"
            for first, second in itertools.combinations(SPLITS, 2)
            if (shared := by_split[first] & by_split[second])
        ]
        if overlaps:
            raise DataError(f"{table.name}: {'; '.join(overlaps)}: change the given splits or the grouping")


def check_classes(table: SampleTable) -> None:
    """Raise a `DataError` if a class occurs in validation or test but not in training."""
    learned = table.classes_in(table.rows_of("train"))
    for split in ("val", "test"):
        unseen = table.classes_in(table.rows_of(split)) - learned
        if unseen:
            names = ", ".join(table.classes[label] for label in sorted(unseen)[:_MAX_NAMES])
            raise DataError(
                f"{table.name}: {count(len(unseen), 'class')} in {split} but not in train: {names}; "
                "--data.unseen-classes leave-out leaves out their images"
            )


def stratified_folds(
    labels: Ints, folds: int, *, seed: int, groups: Sequence[str] | None = None
) -> list[NDArray[np.int64]]:
    """Divide rows into stratified folds; every row is held out exactly once.

    Args:
        labels: N class indices.
        folds: Number of folds, at least 2.
        seed: Seed of the shuffle.
        groups: N group names; all rows of a group are in the same fold.

    Returns:
        The positions of each fold's held-out rows, in increasing order.

    Raises:
        DataError: There are fewer rows or groups than folds.
    """
    units, seed = len(labels) if groups is None else len(set(groups)), seed % 2**32  # the range of scikit-learn
    if folds < 2 or units < folds:
        unit = "rows" if groups is None else "groups"
        raise DataError(f"{units} {unit} cannot be divided into {folds} folds: use 2 to {units}")
    counts = np.bincount(labels - labels.min())
    small = int(((counts > 0) & (counts < folds)).sum())
    if small:
        warnings.warn(
            f"{count(small, 'class')} with fewer than {folds} samples: some folds contain none of them",
            UserWarning,
            stacklevel=2,
        )
    stratify = bool(counts.max() >= folds)
    splitter: KFold | StratifiedKFold | StratifiedGroupKFold
    if groups is not None:
        if not stratify:
            raise DataError(f"no class has {folds} samples, so {folds} grouped folds are impossible: use fewer")
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    else:
        splitter = (StratifiedKFold if stratify else KFold)(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # small classes: warned above
        pairs = list(splitter.split(np.zeros(len(labels)), labels, None if groups is None else np.array(groups)))
    held_out = [np.sort(rows).astype(np.int64) for _, rows in pairs]
    if any(len(rows) == 0 for rows in held_out):
        raise DataError(f"the groups are too large for {folds} folds: use fewer folds")
    return held_out


def _seed(seed: int, stage: int) -> int:
    """Derive an independent seed for each stage of the split assignment."""
    return int(np.random.SeedSequence([seed, stage]).generate_state(1)[0])


def _hold_out(
    table: SampleTable, splits: NDArray[np.str_], split: str, *, size: float, seed: int, copies: Ints | None
) -> None:
    """Move about `size` training rows to `split`, in place: stratified, groups and copies kept together."""
    rows = np.flatnonzero(splits == "train")
    labels = table.labels[rows]
    groups, copies = unit_names(table, rows, copies), None if copies is None else copies[rows]
    if table.membership is not None:
        held_out = hold_out_rows(table.membership[rows], max(1.0, size), seed=seed, groups=groups)
    elif groups is not None:
        held_out = _grouped_rows(labels, np.unique(np.array(groups), return_inverse=True)[1], size, seed)
    elif copies is None or not copies.any():
        held_out = _stratified_rows(labels, max(1, round(size)), seed)
    else:
        first = np.flatnonzero(first_copies(copies))
        chosen = _stratified_rows(labels[first], max(1, round(size * len(first) / len(rows))), seed)
        held_out = _without_entire_classes(labels, copies, with_their_copies(first[chosen], copies))
    if not len(held_out):
        reason = "it has too few groups, or each holds a whole class" if table.groups else "its classes are too small"
        if copies is not None and copies.any():
            reason += ", or all images of a class are copies, which keep_copies_together keeps in one split"
        raise DataError(
            f"{table.name}: no {split} split can be held out of {len(rows)} training images, because {reason}: add "
            f"images, give a {split} split, or set data.{split}_fraction to 0"
        )
    small = sorted(table.classes_in(rows) - table.classes_in(rows[held_out]))
    if small:
        names = ", ".join(table.classes[label] for label in small[:_MAX_NAMES])
        warnings.warn(
            f"{count(len(small), 'class')} too small to be held out for {split}, kept in train: {names}"
            + (", ..." if len(small) > _MAX_NAMES else ""),
            UserWarning,
            stacklevel=3,
        )
    splits[rows[held_out]] = split


def unit_names(table: SampleTable, rows: Ints, copies: Ints | None) -> list[str] | None:
    """Return the names of what a split may not divide: groups, joined where copies are in several; None if nothing.

    Copies without groups have names only in multi-label data; otherwise their first ones are divided.
    """
    groups = None if table.groups is None else [table.groups[row] for row in rows]
    if copies is None or not copies[rows].any() or (groups is None and table.membership is None):
        return groups
    return joined_groups(groups, copies[rows])


def _without_entire_classes(labels: Ints, copies: Ints, held_out: Ints) -> Ints:
    """Return the held-out positions without those of classes (and their copies) that would have no training row."""
    kept = np.ones(len(labels), dtype=np.bool_)
    kept[held_out] = False
    for label in np.setdiff1d(labels, labels[kept]).tolist():
        kept[with_their_copies(np.flatnonzero(labels == label), copies)] = True
    return np.flatnonzero(~kept)


def _stratified_rows(labels: Ints, size: int, seed: int) -> Ints:
    """Return positions of about `size` stratified rows, none of classes that have a single row."""
    counts = np.bincount(labels)
    candidates = np.flatnonzero(counts[labels] >= 2)
    num_classes = int((counts >= 2).sum())
    if not num_classes:
        return np.array([], dtype=np.int64)
    size = min(max(size, num_classes), len(candidates) - num_classes)  # bounds required by StratifiedShuffleSplit
    splitter = StratifiedShuffleSplit(1, test_size=size, train_size=len(candidates) - size, random_state=seed)
    train, test = next(splitter.split(np.zeros(len(candidates)), labels[candidates]))
    held_out = candidates[test]
    for label in sorted(set(labels[held_out].tolist()) - set(labels[candidates[train]].tolist())):
        held_out = np.delete(held_out, int(np.argmax(labels[held_out] == label)))  # every class keeps a training row
    return np.sort(held_out)


def _grouped_rows(labels: Ints, groups: Ints, size: float, seed: int) -> Ints:
    """Return positions of entire groups, about `size` rows with the best class balance; never all of a class."""
    fraction, totals = size / len(labels), np.bincount(labels)
    best_distance, best = np.inf, np.array([], dtype=np.int64)
    for rows in _group_draws(labels, groups, fraction, seed):
        counts = np.bincount(labels[rows], minlength=len(totals))
        distance = float(np.abs(counts - fraction * totals).sum())
        if len(rows) and distance < best_distance and (counts[totals > 0] < totals[totals > 0]).all():
            best_distance, best = distance, np.sort(rows)
    return best


def _group_draws(labels: Ints, groups: Ints, fraction: float, seed: int) -> Iterator[Ints]:
    num_groups = int(groups.max()) + 1
    if num_groups < 2:
        return
    rows = np.zeros(len(labels))
    folds = min(max(2, round(1 / fraction)), num_groups)
    if np.bincount(labels).max() >= folds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the caller checks small classes
            pairs = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(rows, labels, groups))
        yield from (held_out for _, held_out in pairs)
    size = min(max(1, round(fraction * num_groups)), num_groups - 1)
    splitter = GroupShuffleSplit(_GROUP_DRAWS, test_size=size, train_size=num_groups - size, random_state=seed)
    yield from (held_out for _, held_out in splitter.split(rows, labels, groups))


def _beyond_limit(table: SampleTable, rows: Ints, limit: int, seed: int) -> Ints:
    """Return the training rows to leave out so that `limit` remain, stratified, at least one per class."""
    labels = table.labels[rows]
    present = np.unique(labels)
    if limit >= len(rows):
        return np.array([], dtype=np.int64)
    if table.membership is not None:
        return np.setdiff1d(rows, rows[limit_rows(table.membership[rows], limit, seed=seed)])
    if limit < len(present):
        raise ConfigError(f"data.limit {limit} is smaller than the number of classes, {len(present)}")
    generator = np.random.default_rng(seed)
    rank = np.empty(len(rows))
    for label in present:
        positions = np.flatnonzero(labels == label)
        quantiles = (generator.permutation(len(positions)) + 0.5) / len(positions)  # a cut keeps equal class fractions
        quantiles[quantiles.argmin()] = 0.0  # keeps at least one row per class
        rank[positions] = quantiles
    return rows[np.argsort(rank, kind="stable")[limit:]]
