"""Which of many pairs of copies are worth confirming: those that are listed, and beyond them those that tell news.

Of n pictures that look alike, n² / 2 pairs tell no more than n that join them. N images, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tercet.data.table import Ints

Floats = NDArray[np.float32]
MOST_COMPARED = 5_000_000
"""Pairs of one kind, within a split or between two, after whose confirming the search stops: half a minute, and only
where pictures have like hashes and are different."""
_EVERYWHERE = -1  # all bits: nothing more to know
_AT_ONCE = 1 << 12  # pairs confirmed at a time, as long as all of them are listed


@dataclass(frozen=True, eq=False)
class PairList:
    """Pairs of images that are taken for copies, the surest first."""

    first: Ints
    """P positions, each smaller than that of the second image."""
    second: Ints
    """P positions."""
    orientation: Ints
    """P indices of `ORIENTATIONS`: how the first image lies to look like the second."""
    distance: Ints
    """P different bits of the hashes; -1 where no hash was asked."""
    similarity: Floats
    """P: correlation of the small grey copies, or cosine of the features."""
    complete: bool = True
    """False where there may be more; left out are pairs that join no further images and tell of no further split."""
    all_crossing: bool = True
    """False where the search stopped, so that images of two splits may be copies that no pair tells of."""

    def __len__(self) -> int:
        return len(self.first)

    def take(self, places: Ints) -> PairList:
        """Return some of the pairs, in this order."""
        return PairList(
            self.first[places],
            self.second[places],
            self.orientation[places],
            self.distance[places],
            self.similarity[places],
            self.complete,
            self.all_crossing,
        )


def no_pairs() -> PairList:
    """Return no pair at all."""
    nothing = np.zeros(0, dtype=np.int64)
    return PairList(nothing, nothing, nothing, nothing, np.zeros(0, dtype=np.float32))


class PairSearch:
    """Gathers pairs: all up to a limit within splits and between splits, then those that tell something new.

    So every image that has a copy is in a pair, and for every image and every other split in which it has a copy
    there is a pair that tells so, however many look alike.

    Args:
        splits: N sets of splits in which an image lies, a bit each; 0 where it lies in none.
        most: Pairs of one kind that are listed whatever they tell.
        least: Similarity from which on a pair is confirmed.
    """

    def __init__(self, splits: Ints, *, most: int, least: float) -> None:
        self._splits, self._most, self._least = splits, most, least
        self._known = np.where(splits == 0, _EVERYWHERE, splits)  # splits in which it, or a copy of it, is known to lie
        self._group = np.arange(len(splits))  # images that pairs have joined
        self._found: dict[tuple[int, int], tuple[int, int, float]] = {}
        self._listed = {True: 0, False: 0}  # by whether the pair lies in two splits
        self._compared = {True: 0, False: 0}
        self._complete = {True: True, False: True}
        self._stopped = {True: False, False: False}

    def add(self, first: Ints, second: Ints, way: Ints, bits: Ints, similarity: Callable[[Ints], Floats]) -> None:
        """Confirm proposed pairs, as far as they are wanted.

        Args:
            first: P positions, each smaller than that of the second image.
            second: P positions.
            way: P indices of `ORIENTATIONS`.
            bits: P different bits, or -1.
            similarity: Of some of the P pairs, by position.
        """
        mine, theirs = self._splits[first], self._splits[second]
        both = mine | theirs
        crossing = (both & (both - 1) != 0) & (mine != 0) & (theirs != 0)

        def confirm(some: Ints, kind: bool) -> None:
            if self._compared[kind] + len(some) > MOST_COMPARED:
                self._stopped[kind] = True
                return
            self._compared[kind] += len(some)
            likeness = similarity(some)
            sure = likeness >= self._least
            if sure.any():
                some = some[sure]
                self._note(first[some], second[some], way[some], bits[some], likeness[sure], kind)
                self._join(first[some], second[some])

        for kind in (True, False):
            rest = np.flatnonzero(crossing == kind)
            while len(rest) and not self._stopped[kind] and (room := self._most - self._listed[kind]) > 0:
                some, rest = np.split(rest, [min(_AT_ONCE, room)])
                confirm(some, kind)
            self._complete[kind] &= not len(rest)
            each = 1
            while len(rest) and not self._stopped[kind]:
                asking = self._asking(first[rest], second[rest])
                rest, asking = rest[asking >= 0], asking[asking >= 0]
                chosen = _some_of_each(asking, each)
                confirm(rest[chosen], kind)
                rest, each = rest[~chosen], 2 * each  # most images need one pair; those that need many, few rounds

    @property
    def stopped(self) -> bool:
        """Whether nothing more will be confirmed."""
        return all(self._stopped.values())

    def pairs(self) -> PairList:
        """Return what was found, the surest first."""
        whole = {"complete": all(self._complete.values()) and not any(self._stopped.values())}
        whole["all_crossing"] = not self._stopped[True]
        found = self._found
        if not found:
            nothing = no_pairs()
            return PairList(
                nothing.first, nothing.second, nothing.orientation, nothing.distance, nothing.similarity, **whole
            )
        order = sorted(found, key=lambda pair: (found[pair][1], -found[pair][2], pair))
        first, second = np.array(order, dtype=np.int64).T
        ways, bits = np.array([found[pair][:2] for pair in order], dtype=np.int64).T
        return PairList(
            first, second, ways, bits, np.array([found[pair][2] for pair in order], dtype=np.float32), **whole
        )

    def _note(self, first: Ints, second: Ints, way: Ints, bits: Ints, likeness: Floats, kind: bool) -> None:
        columns = (first.tolist(), second.tolist(), way.tolist(), bits.tolist(), likeness.tolist())
        for one, other, lies, differ, value in zip(*columns, strict=True):
            known = self._found.get((one, other))
            if known is None or value > known[2]:
                self._found[one, other] = (lies, differ, value)
                self._listed[kind] += known is None

    def _join(self, first: Ints, second: Ints) -> None:
        np.bitwise_or.at(self._known, first, self._splits[second])
        np.bitwise_or.at(self._known, second, self._splits[first])
        ends = self._group[first], self._group[second]
        count = len(self._group)
        edges = coo_array((np.ones(len(first), dtype=np.int64), ends), shape=(count, count))
        self._group = connected_components(edges, directed=False)[1].astype(np.int64)[self._group]

    def _asking(self, first: Ints, second: Ints) -> Ints:
        """Return the image of each pair that would learn something from it: a split, or a copy; -1 for none."""
        one = (self._splits[second] & ~self._known[first]) != 0
        one |= self._group[first] != self._group[second]
        other = (self._splits[first] & ~self._known[second]) != 0
        return np.where(one, first, np.where(other, second, -1))


def _some_of_each(asking: Ints, count: int) -> NDArray[np.bool_]:
    """Choose up to `count` places of each image."""
    order = np.argsort(asking, kind="stable")
    ordered = asking[order]
    chosen = np.empty(len(asking), dtype=np.bool_)
    chosen[order] = np.arange(len(asking)) - np.searchsorted(ordered, ordered, side="left") < count
    return chosen
