"""Dividing a table: given splits are honoured, the rest is held out stratified, seeded, with groups whole.

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
from tercet.data.multilabel_splits import held_out_sets, rows_within
from tercet.data.table import LEFT_OUT, SPLITS, UNLABELLED, Ints, SampleTable

_GROUP_DRAWS = 64  # random ways to hold groups out, of which the best balanced is taken
_NAMED = 5  # classes named in a message


def assign_splits(table: SampleTable, config: DataConfig, *, all_classes_learned: bool = True) -> SampleTable:
    """Give every row its split; the same seed gives the same splits.

    What the data says about its splits is kept. A missing test split is held out of the training rows first
    (a share of all labelled rows), then a missing validation split (a share of the remaining training rows).
    Unlabelled rows never train or validate: outside a given test split they are left out (an empty split), as are
    training rows beyond `limit`. Every class keeps a training row; classes too small to be held out are warned of.

    Args:
        table: The samples.
        config: Fractions, seed and limit.
        all_classes_learned: Refuse a given split with classes that have no training images.

    Raises:
        DataError: Nothing is left to train on or to choose with, classes without training images, or rows, ids or
            groups that would lie in two splits.
        ConfigError: `limit` is smaller than the number of classes.
    """
    splits = kept_splits(table)
    if table.splits is not None:
        check_disjoint(table.with_splits(splits.tolist()))  # before rows are held out: told of what was given
    given = set(splits.tolist())
    if "train" not in given:
        raise DataError(f"{table.name} has no labelled training images: give a train split, or no splits at all")
    labelled = int((splits != LEFT_OUT).sum())
    if "test" not in given and config.test_fraction:
        _hold_out(table, splits, "test", size=config.test_fraction * labelled, seed=_seed(config.split_seed, 0))
    if "val" not in given and config.val_fraction:
        size = config.val_fraction * int((splits == "train").sum())
        _hold_out(table, splits, "val", size=size, seed=_seed(config.split_seed, 1))
    if config.limit is not None:
        rows = np.flatnonzero(splits == "train")
        splits[_beyond_limit(table, rows, config.limit, _seed(config.split_seed, 2))] = LEFT_OUT
    divided = table.with_splits(splits.tolist())
    if all_classes_learned:
        check_classes(divided)
    check_disjoint(divided)
    return divided


def kept_splits(table: SampleTable) -> NDArray[np.str_]:
    """Return the given split of each row, or train; unlabelled rows outside a given test split are left out."""
    splits = np.array(table.splits or ("train",) * len(table), dtype="<U5")
    splits[(table.labels == UNLABELLED) & (splits != "test")] = LEFT_OUT
    return splits


def require_rows(table: SampleTable) -> None:
    """Refuse a divided table without rows to train on or to choose with.

    Raises:
        DataError: There are none.
    """
    counts = {"train": len(table.rows_of("train")), "validation": len(table.rows_of("val"))}
    for name, count in counts.items():
        if not count:
            raise DataError(f"no images are left for {name}: give more images, or change --data.val-fraction")


def check_disjoint(table: SampleTable) -> None:
    """Prove that no id, no row and no group lies in two splits.

    Raises:
        DataError: One does; the message names it.
    """
    kinds: dict[str, Sequence[int | str]] = {"row": range(len(table)), "id": table.ids, "image": table.locations}
    for kind, named in (kinds | ({} if table.groups is None else {"group": table.groups})).items():
        parts = {split: {named[row] for row in table.rows_of(split).tolist()} for split in SPLITS}
        torn = [
            f"{len(shared)} {kind}s lie in both {one} and {other}, such as '{min(shared, key=str)}'"
            for one, other in itertools.combinations(SPLITS, 2)
            if (shared := parts[one] & parts[other])
        ]
        if torn:
            raise DataError(f"{table.name}: {'; '.join(torn)}: change the given splits or the grouping")


def check_classes(table: SampleTable) -> None:
    """Refuse classes that are asked about but never shown.

    Raises:
        DataError: A class has images to validate or to test, and none to train on.
    """
    learned = table.shown(table.rows_of("train"))
    for split in ("val", "test"):
        asked = table.shown(table.rows_of(split)) - learned
        if asked:
            names = ", ".join(table.classes[label] for label in sorted(asked)[:_NAMED])
            raise DataError(f"{table.name}: {len(asked)} classes lie in {split} but not in train: {names}")


def stratified_folds(
    labels: Ints, folds: int, *, seed: int, groups: Sequence[str] | None = None
) -> list[NDArray[np.int64]]:
    """Divide rows into folds with like class shares; every row is held out exactly once.

    Args:
        labels: N class indices.
        folds: Number of folds, at least 2.
        seed: Seed of the shuffle.
        groups: N group names; a group stays whole.

    Returns:
        The positions of each fold's held-out rows, in increasing order.

    Raises:
        DataError: Fewer rows or groups than folds.
    """
    units = len(labels) if groups is None else len(set(groups))
    if folds < 2 or units < folds:
        raise DataError(f"{units} {'rows' if groups is None else 'groups'} cannot make {folds} folds: use 2 to {units}")
    counts = np.bincount(labels - labels.min())
    small = int(((counts > 0) & (counts < folds)).sum())
    if small:
        warnings.warn(
            f"{small} classes have fewer than {folds} samples: some folds hold none of them", UserWarning, stacklevel=2
        )
    stratify = bool(counts.max() >= folds)
    divider: KFold | StratifiedKFold | StratifiedGroupKFold
    if groups is not None:
        if not stratify:
            raise DataError(f"no class has {folds} samples, so {folds} grouped folds cannot be made: use fewer")
        divider = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    else:
        divider = (StratifiedKFold if stratify else KFold)(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # told above
        parts = list(divider.split(np.zeros(len(labels)), labels, None if groups is None else np.array(groups)))
    held = [np.sort(held_out).astype(np.int64) for _, held_out in parts]
    if any(len(fold) == 0 for fold in held):
        raise DataError(f"the groups are too large to make {folds} folds: use fewer folds")
    return held


def _seed(seed: int, stage: int) -> int:
    """Return a seed of its own for each stage of the dividing."""
    return int(np.random.SeedSequence([seed, stage]).generate_state(1)[0])


def _hold_out(table: SampleTable, splits: NDArray[np.str_], split: str, *, size: float, seed: int) -> None:
    """Move about `size` training rows to `split`, in place: stratified, groups whole."""
    rows = np.flatnonzero(splits == "train")
    labels = table.labels[rows]
    if table.membership is not None:
        groups = None if table.groups is None else [table.groups[row] for row in rows]
        chosen = held_out_sets(table.membership[rows], max(1.0, size), seed=seed, groups=groups)
    elif table.groups is None:
        chosen = _stratified_part(labels, max(1, round(size)), seed)
    else:
        chosen = _grouped_part(labels, np.unique(np.array(table.groups)[rows], return_inverse=True)[1], size, seed)
    if not len(chosen):
        detail = "its groups are too few, or each holds a whole class" if table.groups else "its classes are too small"
        raise DataError(
            f"{table.name}: no {split} split can be held out of {len(rows)} training images, because {detail}: add "
            f"images, give a {split} split, or set data.{split}_fraction to 0"
        )
    missing = sorted(table.shown(rows) - table.shown(rows[chosen]))
    if missing:
        named = ", ".join(table.classes[label] for label in missing[:_NAMED]) + (", ..." if missing[_NAMED:] else "")
        warnings.warn(
            f"{len(missing)} classes are too small to be held out for {split} and stay in train: {named}",
            UserWarning,
            stacklevel=3,
        )
    splits[rows[chosen]] = split


def _stratified_part(labels: Ints, size: int, seed: int) -> Ints:
    """Return positions of about `size` rows with like class shares; classes with one row give none."""
    counts = np.bincount(labels)
    candidates = np.flatnonzero(counts[labels] >= 2)
    num_classes = int((counts >= 2).sum())
    if not num_classes:
        return np.array([], dtype=np.int64)
    size = min(max(size, num_classes), len(candidates) - num_classes)  # the bounds that stratifying needs
    divider = StratifiedShuffleSplit(1, test_size=size, train_size=len(candidates) - size, random_state=seed)
    kept, held = next(divider.split(np.zeros(len(candidates)), labels[candidates]))
    chosen = candidates[held]
    for label in sorted(set(labels[chosen].tolist()) - set(labels[candidates[kept]].tolist())):
        chosen = np.delete(chosen, int(np.argmax(labels[chosen] == label)))  # every class keeps a training row
    return np.sort(chosen)


def _grouped_part(labels: Ints, groups: Ints, size: float, seed: int) -> Ints:
    """Return positions of whole groups, about `size` rows, closest to the class shares; never all of a class."""
    fraction, totals = size / len(labels), np.bincount(labels)
    best, chosen = np.inf, np.array([], dtype=np.int64)
    for held in _group_draws(labels, groups, fraction, seed):
        counts = np.bincount(labels[held], minlength=len(totals))
        distance = float(np.abs(counts - fraction * totals).sum())
        if len(held) and distance < best and (counts[totals > 0] < totals[totals > 0]).all():
            best, chosen = distance, np.sort(held)
    return chosen


def _group_draws(labels: Ints, groups: Ints, fraction: float, seed: int) -> Iterator[Ints]:
    num_groups = int(groups.max()) + 1
    if num_groups < 2:
        return
    rows = np.zeros(len(labels))
    folds = min(max(2, round(1 / fraction)), num_groups)
    if np.bincount(labels).max() >= folds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # small classes are judged by the caller
            parts = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(rows, labels, groups))
        yield from (held for _, held in parts)
    count = min(max(1, round(fraction * num_groups)), num_groups - 1)
    draws = GroupShuffleSplit(_GROUP_DRAWS, test_size=count, train_size=num_groups - count, random_state=seed)
    yield from (held for _, held in draws.split(rows, labels, groups))


def _beyond_limit(table: SampleTable, rows: Ints, limit: int, seed: int) -> Ints:
    """Return the training rows to leave out so that `limit` stay, every class with its share and at least one."""
    labels = table.labels[rows]
    present = np.unique(labels)
    if limit >= len(rows):
        return np.array([], dtype=np.int64)
    if table.membership is not None:
        return np.setdiff1d(rows, rows[rows_within(table.membership[rows], limit, seed=seed)])
    if limit < len(present):
        raise ConfigError(f"data.limit {limit} is smaller than the {len(present)} classes to learn")
    generator = np.random.default_rng(seed)
    rank = np.empty(len(rows))
    for label in present:
        mine = np.flatnonzero(labels == label)
        shares = (generator.permutation(len(mine)) + 0.5) / len(mine)  # lowest ranks: the same share of every class
        shares[shares.argmin()] = 0.0  # one of each class always stays
        rank[mine] = shares
    return rows[np.argsort(rank, kind="stable")[limit:]]
