"""The copies of an audit: pictures that are there more than once, and how many images of a split have one in another.

N rows of the table, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.audit.duplicates import exact_groups, near_pairs, similar_pairs
from tercet.audit.inspect import ORIENTATIONS, Inspection
from tercet.audit.pairs import PairList, no_pairs
from tercet.audit.result import Copy, Leak, Method
from tercet.config.analysis import AuditConfig
from tercet.data.table import SPLITS, Ints, SampleTable


@dataclass(frozen=True)
class DuplicateFinder:
    """What is there more than once."""

    told: tuple[Copy, ...]
    """Those in two splits first, then those with two labels; each kind by equal pixels first, then the surest pairs."""
    leaks: tuple[Leak, ...]
    """Splits whose images have copies in another."""
    complete: bool
    """Whether all pairs are listed."""
    leaks_complete: bool
    """Whether all pairs of two splits were looked at."""


def find_copies(
    table: SampleTable, inspection: Inspection, options: AuditConfig, features: NDArray[np.floating[Any]] | None
) -> DuplicateFinder:
    """Return the copies in a table.

    Args:
        table: The N images that can be read, with their splits.
        inspection: What was seen of them.
        options: What is looked for.
        features: N 8 F, what a network makes of each orientation; None where none was asked.
    """
    same = exact_groups(inspection.digests)
    owner = np.arange(len(table))  # the first of equal images
    for group in same:
        owner[group] = group[0]
    own = np.array([_BITS[split] for split in table.splits or ("",) * len(table)], dtype=np.int64)
    where = np.zeros(len(table), dtype=np.int64)
    np.bitwise_or.at(where, owner, own)
    chosen = np.flatnonzero((owner == np.arange(len(table))) & ~np.array(inspection.flat, dtype=np.bool_))
    near = network = no_pairs()
    if options.max_hash_distance is not None and inspection.hashes is not None:
        hashes, grey = inspection.hashes[chosen], inspection.grey[chosen]
        near = _among(near_pairs(hashes, grey, distance=options.max_hash_distance, splits=where[chosen]), chosen)
    if features is not None:
        network = _among(similar_pairs(features[chosen], least=options.similarity, splits=where[chosen]), chosen)
    known = set(zip(near.first.tolist(), near.second.tolist(), strict=True))
    ends = zip(network.first.tolist(), network.second.tolist(), strict=True)
    further = network.take(np.array([place for place, pair in enumerate(ends) if pair not in known], dtype=np.int64))
    members = {int(group[0]): _one_of_each(group.tolist(), table.splits) for group in same} if table.splits else {}
    named = _Named(table, table.label_names(), members)
    told = [*map(named.group, same), *named.pairs(near, "hash"), *named.pairs(further, "network")]
    return DuplicateFinder(
        tuple(sorted(told, key=lambda copy: (not copy.crosses, not copy.disagrees))),
        _leaks(own, where, owner, [near, network]),
        near.complete and network.complete,
        near.all_crossing and network.all_crossing,
    )


_BITS = {"": 0} | {split: 1 << place for place, split in enumerate(SPLITS)}


def _among(pairs: PairList, chosen: Ints) -> PairList:
    return replace(pairs, first=chosen[pairs.first], second=chosen[pairs.second])


def _leaks(own: Ints, where: Ints, owner: Ints, pairs: Sequence[PairList]) -> tuple[Leak, ...]:
    """Count the images of each split that have a direct copy in another.

    Args:
        own: Split of each image, as a bit (N).
        where: By the first of equal images: the splits in which one of them lies (N).
        owner: The first of equal images (N).
        pairs: Copies that are not equal.
    """
    known = where.copy()
    for some in pairs:
        np.bitwise_or.at(known, some.first, where[some.second])
        np.bitwise_or.at(known, some.second, where[some.first])
    counts = [
        Leak(split, other, int(((own == _BITS[split]) & (known[owner] & _BITS[other] != 0)).sum()))
        for split, other in (("val", "train"), ("test", "train"), ("test", "val"))
    ]
    return tuple(leak for leak in counts if leak.images)


@dataclass(frozen=True)
class _Named:
    """Makes `Copy` values of positions in a table."""

    table: SampleTable
    labels: Sequence[str]
    members: Mapping[int, list[int]]
    """By the first of equal images: one of them in each split."""

    def group(self, rows: Ints) -> Copy:
        return Copy("pixels", *self._names(rows.tolist()))

    def pairs(self, pairs: PairList, how: Method) -> Iterator[Copy]:
        """Yield each pair; of equal images those are named that lie in two splits, where there are such."""
        ends = zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
        for place, (first, second) in enumerate(ends):
            distance = int(pairs.distance[place])
            yield Copy(
                how,
                *self._names(self._apart(first, second)),
                similarity=round(float(pairs.similarity[place]), 4),
                distance=None if distance < 0 else distance,
                orientation=ORIENTATIONS[int(pairs.orientation[place])],
            )

    def _apart(self, first: int, second: int) -> tuple[int, int]:
        splits, members = self.table.splits, self.members
        if splits is None or not {first, second} & members.keys():
            return first, second
        ours, theirs = members.get(first, [first]), members.get(second, [second])
        crossing = ((one, other) for one in ours for other in theirs if splits[one] != splits[other])
        return next(crossing, (first, second))

    def _names(self, rows: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        table = self.table
        splits = tuple(table.splits[row] for row in rows) if table.splits else ("",) * len(rows)
        return tuple(table.ids[row] for row in rows), splits, tuple(self.labels[row] for row in rows)


def _one_of_each(rows: Sequence[int], splits: Sequence[str]) -> list[int]:
    """Return the first row of every split, where there are any; rows that are left out lie in none."""
    return list({splits[row]: row for row in reversed(rows) if splits[row]}.values()) or list(rows[:1])
