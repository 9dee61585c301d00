"""From a table and what was seen of its images to findings.

N rows of the table, M readable images, K classes.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tercet.data.duplicates import Pairs, exact_groups, near_pairs, no_pairs
from tercet.data.findings import Audit, Copy, How, LabelCheck, Leak
from tercet.data.inspection import Inspection
from tercet.data.perceptual import ORIENTATIONS
from tercet.data.samples import LEFT_OUT, SPLITS, UNLABELLED, Ints, SampleTable
from tercet.data.splits import assign_splits
from tercet.ground.errors import ConfigError, DataError
from tercet.records.audit_config import AuditConfig
from tercet.records.config import DataConfig


@dataclass(frozen=True)
class Division:
    """A table divided as a training would divide it."""

    table: SampleTable
    """With splits, as far as there are any."""
    how: str
    """Where they are from, in words."""
    refusal: str | None
    """Why a training would refuse, if it would."""
    notes: tuple[str, ...]
    """What dividing had to say."""


def divide(table: SampleTable, config: DataConfig) -> Division:
    """Divide a table as a training would; where that would be refused, the given splits stay as they are."""
    given = table.splits is not None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            divided = assign_splits(table, config, all_classes_learned=True)
        except (DataError, ConfigError) as error:
            how = "in the given splits" if given else "there are no splits"
            return Division(table, how, str(error), ())
    notes = tuple(str(warning.message) for warning in caught)
    made = {split for split in SPLITS if len(divided.rows_of(split))} - set(table.splits or ())
    if not given:
        how = f"as tercet train would divide them, with seed {config.split_seed}"
    elif made:
        how = f"in the given splits; {' and '.join(sorted(made))} as tercet train would hold it out"
    else:
        how = "in the given splits"
    return Division(divided, how, None, notes)


def copies_of(inspection: Inspection, *, near_distance: int | None) -> tuple[tuple[Ints, ...], Pairs]:
    """Return groups of equal images, and near duplicates among their first ones; positions among the M readable.

    Args:
        inspection: What was seen of the images.
        near_distance: Bits up to which hashes propose near duplicates; None for none.
    """
    same = exact_groups(inspection.digests)
    if near_distance is None or inspection.hashes is None:
        return same, no_pairs()
    alone = np.array([not flat for flat in inspection.flat], dtype=np.bool_)
    for group in same:
        alone[group[1:]] = False
    chosen = np.flatnonzero(alone)
    found = near_pairs(inspection.hashes[chosen], inspection.grey[chosen], distance=near_distance)
    return same, replace(found, first=chosen[found.first], second=chosen[found.second])


def audit_table(
    table: SampleTable,
    inspection: Inspection,
    config: DataConfig,
    options: AuditConfig,
    *,
    embedded: Pairs | None = None,
    labels: LabelCheck | None = None,
) -> Audit:
    """Return everything that can be told of a data set.

    Args:
        table: The samples as they were read.
        inspection: What was seen of their images.
        config: How they are to be divided.
        options: What is looked for.
        embedded: Further copies by a network's features; positions among the M readable images.
        labels: What a run's predictions say about labels.
    """
    readable = table.take(inspection.rows)
    division = divide(readable, config)
    divided = division.table
    same, near = copies_of(inspection, near_distance=options.near_distance)
    further = _without(embedded or no_pairs(), same, near)
    owner = np.arange(len(readable))
    for group in same:
        owner[group] = group[0]
    named = _Copies(divided, divided.label_names(), {int(group[0]): group for group in same})
    copies = (*map(named.group, same), *named.pairs(near, "hash"), *named.pairs(further, "network"))
    small, units = _small_classes(readable, options.folds)
    shapes = Counter((int(height), int(width)) for height, width in inspection.sizes)
    return Audit(
        name=table.name,
        classes=table.classes,
        images=len(table),
        unlabelled=int((readable.labels == UNLABELLED).sum()),
        counts=_counts(readable),
        by_split={} if divided.splits is None else {split: _counts(_part(divided, split)) for split in _used(divided)},
        split_sizes={} if divided.splits is None else {split: len(_part(divided, split)) for split in _used(divided)},
        division=division.how,
        refusal=division.refusal,
        unreadable=inspection.bad,
        missing=table.missing,
        empty=table.empty,
        sizes=tuple((height, width, count) for (height, width), count in shapes.most_common()),
        modes=tuple(Counter(inspection.modes).most_common()),
        flat=tuple(readable.ids[row] for row in np.flatnonzero(inspection.flat)),
        copies=copies,
        complete=near.complete and (embedded is None or embedded.complete),
        near_distance=options.near_distance,
        leaks=_leaks(divided, owner, [near, further]),
        torn=_torn(readable),
        folds=options.folds,
        small=small,
        units="groups" if units else "images",
        absent=_absent(readable),
        most_imbalance=options.imbalance,
        labels=labels,
        notes=(*table.notes, *division.notes),
    )


def _counts(table: SampleTable) -> dict[str, int]:
    return dict(zip(table.classes, table.class_counts().tolist(), strict=True))


def _used(table: SampleTable) -> list[str]:
    """Return the splits that hold rows, in order; rows that are left out come last."""
    found = set(table.splits or ())
    return [split for split in (*SPLITS, LEFT_OUT) if split in found]


def _part(table: SampleTable, split: str) -> SampleTable:
    return table.take(np.array(table.splits, dtype=np.str_) == split)


@dataclass(frozen=True)
class _Copies:
    """Makes `Copy` values of positions in a table."""

    table: SampleTable
    labels: Sequence[str]
    members: Mapping[int, Ints]
    """By the first of equal images: all of them."""

    def group(self, rows: Ints) -> Copy:
        return Copy("pixels", *self._names(rows.tolist()))

    def pairs(self, pairs: Pairs, how: How) -> Iterator[Copy]:
        """Yield each pair; of equal images those are named that lie in two splits, where there are such."""
        ends = zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
        for place, (first, second) in enumerate(ends):
            distance = int(pairs.distance[place])
            yield Copy(
                how,
                *self._names(self._torn(first, second)),
                similarity=round(float(pairs.similarity[place]), 4),
                distance=None if distance < 0 else distance,
                orientation=ORIENTATIONS[int(pairs.orientation[place])],
            )

    def _torn(self, first: int, second: int) -> tuple[int, int]:
        splits, members = self.table.splits, self.members
        if splits is None or splits[first] != splits[second] or not {first, second} & members.keys():
            return first, second
        ours, theirs = (members[row].tolist() if row in members else [row] for row in (first, second))
        crossing = ((one, other) for one in ours for other in theirs if splits[one] != splits[other])
        return next(crossing, (first, second))

    def _names(self, rows: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        table = self.table
        splits = tuple(table.splits[row] for row in rows) if table.splits else ("",) * len(rows)
        return tuple(table.ids[row] for row in rows), splits, tuple(self.labels[row] for row in rows)


def _without(pairs: Pairs, same: Sequence[Ints], known: Pairs) -> Pairs:
    """Return the pairs that are not known by their pixels or hashes already."""
    if not len(pairs):
        return pairs
    owner = {int(row): int(group[0]) for group in same for row in group}
    told = set(zip(known.first.tolist(), known.second.tolist(), strict=True))
    fresh: list[int] = []
    for place, ends in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)):
        pair = tuple(sorted(owner.get(row, row) for row in ends))
        if pair[0] != pair[1] and pair not in told:
            told.add((pair[0], pair[1]))
            fresh.append(place)
    return pairs.take(np.array(fresh, dtype=np.int64))


def _leaks(table: SampleTable, owner: Ints, pairs: Sequence[Pairs]) -> tuple[Leak, ...]:
    """Count the images of each split that have a direct copy in another; `owner` is the first of equal images (M)."""
    if table.splits is None:
        return ()
    splits = np.array(table.splits, dtype=np.str_)
    leaks = []
    for split, other in (("val", "train"), ("test", "train"), ("test", "val")):
        there = np.zeros(len(table), dtype=np.bool_)  # by first of equal images: one of them lies in `other`
        there[owner[splits == other]] = True
        linked = there.copy()
        for some in pairs:
            first, second = owner[some.first], owner[some.second]
            np.logical_or.at(linked, first, there[second])
            np.logical_or.at(linked, second, there[first])
        if count := int(linked[owner[splits == split]].sum()):
            leaks.append(Leak(split, other, count))
    return tuple(leaks)


def _torn(table: SampleTable) -> dict[str, tuple[str, ...]]:
    """Return the groups that lie in several given splits."""
    if table.groups is None or table.splits is None:
        return {}
    places: dict[str, set[str]] = {}
    for group, split in zip(table.groups, table.splits, strict=True):
        places.setdefault(group, set()).add(split)
    ordered = {group: tuple(split for split in SPLITS if split in found) for group, found in places.items()}
    return {group: found for group, found in ordered.items() if len(found) > 1}


def _small_classes(table: SampleTable, folds: int) -> tuple[dict[str, int], bool]:
    """Return classes with too few images, or groups, outside a given test split; and whether groups were counted."""
    pool = table if table.splits is None else table.take(np.array(table.splits, dtype=np.str_) != "test")
    grouped = pool.groups is not None
    counts = _groups_by_class(pool) if pool.groups is not None else _counts(pool)
    return {name: count for name, count in counts.items() if count < folds}, grouped


def _groups_by_class(table: SampleTable) -> dict[str, int]:
    assert table.groups is not None
    groups = np.unique(np.array(table.groups), return_inverse=True)[1]
    if table.membership is not None:
        shown = [groups[table.membership[:, label]] for label in range(table.num_classes)]
    else:
        shown = [groups[table.labels == label] for label in range(table.num_classes)]
    return {name: len(np.unique(found)) for name, found in zip(table.classes, shown, strict=True)}


def _absent(table: SampleTable) -> dict[str, tuple[str, ...]]:
    """Return the classes that a given split does not show, by split; a split without labels shows none on purpose."""
    if table.splits is None:
        return {}
    lacking = {}
    for split in _used(table):
        shown = _part(table, split).class_counts()
        if split and shown.any() and not shown.all():
            lacking[split] = tuple(table.classes[label] for label in np.flatnonzero(shown == 0))
    return lacking
