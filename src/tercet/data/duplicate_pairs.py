"""Selection of duplicate pairs: all up to a limit, beyond it those that connect new groups or splits.

Of n images that look alike, the n² / 2 pairs carry no more information than n pairs that connect them.
N images, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tercet.data.table import Ints

Floats = NDArray[np.float32]
MAX_COMPARED = 5_000_000
"""Pairs within splits, and across splits, that are verified at most, which takes half a minute; only reached if many
different images have similar hashes."""
_ALL_SPLITS = -1  # all bits set
_CHUNK = 1 << 12  # pairs verified at a time while all of them are listed


@dataclass(frozen=True, eq=False)
class PairList:
    """Duplicate pairs, the most certain first."""

    first: Ints
    """P positions, each smaller than that of the second image."""
    second: Ints
    """P positions."""
    orientation: Ints
    """P indices of `ORIENTATIONS`: transform of the first image that yields the second."""
    distance: Ints
    """P numbers of different hash bits; -1 if hashes were not compared."""
    similarity: Floats
    """P: correlation of the downscaled images, or cosine of the features."""
    complete: bool = True
    """False if pairs may be missing; these connect no further images and no further splits."""
    all_crossing: bool = True
    """False if the search stopped, so that duplicates across splits may be missing."""

    def __len__(self) -> int:
        return len(self.first)

    def take(self, indices: Ints) -> PairList:
        """Return a subset of the pairs in the given order."""
        columns = ("first", "second", "orientation", "distance", "similarity")
        return replace(self, **{column: getattr(self, column)[indices] for column in columns})


class PairSearch:
    """Verifies candidate pairs and collects them.

    Guarantees, however many images look alike: every image with a duplicate is in a pair, and for every other split in
    which an image has a duplicate there is a pair that implies it.

    Args:
        splits: N bit sets of the splits of an image and of its identical images; 0 if it is in no split.
        max_pairs: Pairs within splits, and across splits, that are listed even if redundant.
        min_similarity: Similarity from which a pair is accepted.
    """

    def __init__(self, splits: Ints, *, max_pairs: int, min_similarity: float) -> None:
        self._splits, self._max_pairs, self._min_similarity = splits, max_pairs, min_similarity
        self._known = np.where(splits == 0, _ALL_SPLITS, splits)  # splits of the image and its known duplicates
        self._component = np.arange(len(splits))  # connected component of each image
        self._pairs: dict[tuple[int, int], tuple[int, int, float]] = {}
        self._listed = {True: 0, False: 0}  # by whether the pair crosses splits
        self._compared = {True: 0, False: 0}
        self._complete = {True: True, False: True}
        self._stopped = {True: False, False: False}

    def add(
        self, first: Ints, second: Ints, orientation: Ints, distance: Ints, similarity: Callable[[Ints], Floats]
    ) -> None:
        """Verify candidate pairs as far as they are needed.

        Args:
            first: P positions, each smaller than that of the second image.
            second: P positions.
            orientation: P indices of `ORIENTATIONS`.
            distance: P numbers of different hash bits, or -1.
            similarity: Returns the similarities of a subset of the P pairs, given their indices.
        """
        bits, other_bits = self._splits[first], self._splits[second]
        union = bits | other_bits
        crossing = (union & (union - 1) != 0) & (bits != 0) & (other_bits != 0)

        def verify(subset: Ints, crosses: bool) -> None:
            if self._compared[crosses] + len(subset) > MAX_COMPARED:
                self._stopped[crosses] = True
                return
            self._compared[crosses] += len(subset)
            values = similarity(subset)
            accepted = values >= self._min_similarity
            if accepted.any():
                subset = subset[accepted]
                columns = first[subset], second[subset], orientation[subset], distance[subset], values[accepted]
                self._store(*columns, crosses)
                self._connect(first[subset], second[subset])

        for crosses in (True, False):
            rest = np.flatnonzero(crossing == crosses)
            while len(rest) and not self._stopped[crosses]:
                remaining = self._max_pairs - self._listed[crosses]
                if remaining <= 0:
                    break
                subset, rest = np.split(rest, [min(_CHUNK, remaining)])
                verify(subset, crosses)
            self._complete[crosses] &= not len(rest)
            per_image = 1
            while len(rest) and not self._stopped[crosses]:
                image = self._informed_image(first[rest], second[rest])
                rest, image = rest[image >= 0], image[image >= 0]
                chosen = _first_per_value(image, per_image)
                verify(rest[chosen], crosses)
                # Most images need one pair; doubling keeps the number of rounds low for the others.
                rest, per_image = rest[~chosen], 2 * per_image

    @property
    def stopped(self) -> bool:
        """Whether no further pair will be verified."""
        return all(self._stopped.values())

    def pairs(self) -> PairList:
        """Return the accepted pairs, sorted by distance and similarity."""
        pairs = self._pairs
        order = sorted(pairs, key=lambda pair: (pairs[pair][1], -pairs[pair][2], pair))
        first, second = np.array(order, dtype=np.int64).reshape(-1, 2).T
        orientation, distance = np.array([pairs[pair][:2] for pair in order], dtype=np.int64).reshape(-1, 2).T
        similarity = np.array([pairs[pair][2] for pair in order], dtype=np.float32)
        complete = all(self._complete.values()) and not any(self._stopped.values())
        return PairList(first, second, orientation, distance, similarity, complete, not self._stopped[True])

    def _store(
        self, first: Ints, second: Ints, orientation: Ints, distance: Ints, similarity: Floats, crosses: bool
    ) -> None:
        """Keep the most similar orientation of each pair."""
        columns = (column.tolist() for column in (first, second, orientation, distance, similarity))
        for row, other, way, bits, value in zip(*columns, strict=True):
            known = self._pairs.get((row, other))
            if known is None or value > known[2]:
                self._pairs[row, other] = (way, bits, value)
                self._listed[crosses] += known is None

    def _connect(self, first: Ints, second: Ints) -> None:
        np.bitwise_or.at(self._known, first, self._splits[second])
        np.bitwise_or.at(self._known, second, self._splits[first])
        ends = self._component[first], self._component[second]
        count = len(self._component)
        edges = coo_array((np.ones(len(first), dtype=np.int64), ends), shape=(count, count))
        self._component = connected_components(edges, directed=False)[1].astype(np.int64)[self._component]

    def _informed_image(self, first: Ints, second: Ints) -> Ints:
        """Return for each pair the image for which it would add a split or a connection; -1 if neither."""
        informs_first = (self._splits[second] & ~self._known[first]) != 0
        informs_first |= self._component[first] != self._component[second]
        informs_second = (self._splits[first] & ~self._known[second]) != 0
        return np.where(informs_first, first, np.where(informs_second, second, -1))


def _first_per_value(values: Ints, count: int) -> NDArray[np.bool_]:
    """Return a mask of the first `count` occurrences of each value."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    mask = np.empty(len(values), dtype=np.bool_)
    mask[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered, side="left") < count
    return mask
