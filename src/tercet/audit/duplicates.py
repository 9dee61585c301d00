"""Which images are copies of one another: pixel by pixel, by perceptual hashes, or by what a network makes of them.

Hashes only propose: pictures of one kind of thing often have like hashes. What they propose is confirmed by the
correlation of the small grey copies (`linked` says of which). N images, Q of their orientations, P pairs, D features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.audit.inspect import SIDE, PerceptualHashes, rotate
from tercet.audit.pairs import Floats, PairList, PairSearch
from tercet.data.decode import Pixels
from tercet.data.table import Ints

BITS = 64
LEAST_CORRELATION = 0.97
"""Correlation of two small grey copies from which on they count as one picture (see docs/reports.md)."""
MOST_PAIRS = 20_000
"""Pairs that are listed whatever they tell: one picture 200 times over is not told better by more of them."""
_PORTION = 1 << 21  # pairs of hashes compared at a time
_GATHERING = 16  # times as long as comparing in order takes comparing what an index finds
_CONFIRMED, _FEW = 1 << 16, 1 << 12  # pairs of small copies compared at a time, and of scattered ones
_DENSE = 4  # times as many pairs, in one product of matrices, take no longer than pair by pair
_BLOCK = 1 << 23  # pairs of features compared at a time


def exact_groups(digests: Sequence[bytes]) -> tuple[Ints, ...]:
    """Return the positions of images with the same pixels, for every picture that is there more than once."""
    rows: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        rows[digest].append(row)
    return tuple(np.array(same, dtype=np.int64) for same in rows.values() if len(same) > 1)


def near_pairs(
    hashes: PerceptualHashes,
    grey: Pixels,
    *,
    distance: int,
    splits: Ints | None = None,
    least: float = LEAST_CORRELATION,
    most: int = MOST_PAIRS,
) -> PairList:
    """Return the pairs of images that are near duplicates in any of the eight orientations.

    Two hashes that differ in `distance` bits agree in at least one of `distance + 1` bands, so only images that share
    a band are compared, unless these are so many that comparing all is faster.

    Args:
        hashes: N 8, as `perceptual.hashes` makes them.
        grey: N SIDE SIDE.
        distance: Different bits up to which a pair is proposed.
        splits: N sets of splits in which an image lies, a bit each; None where there are none.
        least: Correlation of the small grey copies from which on it is confirmed; -1 confirms all.
        most: Pairs within splits, and between splits, that are listed even if redundant (see `PairSearch`).
    """
    search = PairSearch(_somewhere(len(hashes), splits), most=most, least=least)
    for first, second, way, bits in _proposed(hashes, distance):
        search.add(first, second, way, bits, partial(_correlated, grey, first, second, way))
        if search.stopped:
            break
    return search.pairs()


def _somewhere(count: int, splits: Ints | None) -> Ints:
    return np.zeros(count, dtype=np.int64) if splits is None else splits


def _correlated(grey: Pixels, first: Ints, second: Ints, way: Ints, some: Ints) -> Floats:
    return correlations(grey, first[some], second[some], way[some])


def _proposed(hashes: PerceptualHashes, distance: int) -> Iterator[tuple[Ints, Ints, Ints, Ints]]:
    """Yield pairs of near hashes: positions (the smaller first), orientation, distance; some of them several times."""
    upright = hashes[:, 0]
    queries = hashes.reshape(-1)  # Q: the eight orientations of every image
    bands = list(_bands(queries, upright, distance))
    cheap = _GATHERING * sum(int(count.sum()) for _, _, count in bands) < len(queries) * len(upright)
    for query, target in _sharing(bands) if cheap else _all_near(queries, upright, distance):
        bits = np.bitwise_count(queries[query] ^ upright[target]).astype(np.int64)
        image, way = np.divmod(query, hashes.shape[1])
        near = (bits <= distance) & (image != target) & ((way > 0) | (image < target))  # upright, one way tells both
        image, target, way, bits = image[near], target[near], way[near], bits[near]
        swapped = image > target  # turned back, the other image looks like this one
        first, second = np.where(swapped, target, image), np.where(swapped, image, target)
        yield first, second, np.where(swapped, _UNDONE[way], way), bits


def _bands(queries: PerceptualHashes, upright: PerceptualHashes, distance: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Yield for each band images in its order and, of each query, where those that share it begin, and their number."""
    borders = np.linspace(0, BITS, distance + 2).round().astype(int)
    for low, high in pairwise(borders.tolist()):
        shift, mask = np.uint64(low), np.uint64((1 << (high - low)) - 1)
        band, asked = (upright >> shift) & mask, (queries >> shift) & mask
        order = np.argsort(band, kind="stable")
        start = np.searchsorted(band[order], asked, side="left")
        yield order, start, np.searchsorted(band[order], asked, side="right") - start


def _sharing(bands: Sequence[tuple[Ints, Ints, Ints]]) -> Iterator[tuple[Ints, Ints]]:
    """Yield queries and images that share a band."""
    for order, start, count in bands:
        for some in _portions(count):
            query = np.repeat(some, count[some])
            behind = np.arange(len(query)) - np.repeat(np.cumsum(count[some]) - count[some], count[some])
            yield query, order[np.repeat(start[some], count[some]) + behind]


def _all_near(queries: PerceptualHashes, upright: PerceptualHashes, distance: int) -> Iterator[tuple[Ints, Ints]]:
    """Yield near queries and images, comparing all with all: for pictures so alike that bands say little."""
    step = max(1, (_PORTION >> 3) // max(1, len(upright)))  # small enough for the processor's cache
    for start in range(0, len(queries), step):
        near = np.bitwise_count(queries[start : start + step, None] ^ upright) <= distance
        query, target = np.nonzero(near)
        yield query + start, target


def _portions(count: Ints) -> Iterator[Ints]:
    """Yield positions of queries whose comparisons together are few enough for the memory."""
    busy = np.flatnonzero(count)
    portion = np.cumsum(count[busy]) // _PORTION
    yield from np.split(busy, np.flatnonzero(np.diff(portion)) + 1) if len(busy) else ()


_UNDONE = np.array([0, 1, 2, 5, 4, 3, 6, 7])  # the orientation that undoes another: quarter turns swap


def correlations(grey: Pixels, first: Ints, second: Ints, orientation: Ints) -> Floats:
    """Return the correlations (P) of small grey copies, the first of each pair turned."""
    likeness = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), _CONFIRMED):
        ways = orientation[start : start + _CONFIRMED]
        for way in np.unique(ways):
            some = start + np.flatnonzero(ways == way)
            (left, ones), (right, others) = (np.unique(ends[some], return_inverse=True) for ends in (first, second))
            if len(left) * len(right) <= _DENSE * len(some):  # many look alike: nearly each of some with each of others
                likeness[some] = (_seen(grey, left, way) @ _seen(grey, right, 0).T)[ones, others]
                continue
            for part in np.split(some, range(_FEW, len(some), _FEW)):
                ours, theirs = _seen(grey, first[part], way), _seen(grey, second[part], 0)
                likeness[part] = np.einsum("pd,pd->p", ours, theirs)
    return likeness


def _seen(grey: Pixels, rows: Ints, way: int) -> Floats:
    """Return small grey copies as they lie in an orientation, with a mean of 0 and a length of 1 (rows, SIDE²)."""
    return _standard(np.take(grey[rows].reshape(len(rows), -1), _PLACES[way], axis=1))


def _standard(values: Pixels) -> Floats:
    centred = values - values.mean(axis=1, keepdims=True, dtype=np.float32)
    length = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    return np.asarray(centred / np.maximum(length, 1e-6), dtype=np.float32)


def _turned_places() -> Ints:
    """Return for each orientation where its pixels lie in the copy that was not turned (8 SIDE²)."""
    row, column = np.divmod(np.arange(SIDE * SIDE).reshape(SIDE, SIDE), SIDE)
    rows, columns = rotate(row.astype(np.uint8)), rotate(column.astype(np.uint8))
    return (rows.astype(np.int64) * SIDE + columns).reshape(len(rows), -1)


_PLACES = _turned_places()


def similar_pairs(
    features: NDArray[np.floating[Any]], *, least: float, splits: Ints | None = None, most: int = MOST_PAIRS
) -> PairList:
    """Return the pairs of images whose features point the same way.

    Args:
        features: N 8 D, of the eight orientations; or N 1 D where images are compared as they are.
        least: Cosine from which on two images are a pair.
        splits: N sets of splits in which an image lies, a bit each; None where there are none.
        most: Pairs within splits, and between splits, that are listed even if redundant (see `PairSearch`).
    """
    search = PairSearch(_somewhere(len(features), splits), most=most, least=least)
    upright = _unit(features[:, 0])
    step = max(1, _BLOCK // max(1, len(features)))
    for start in range(0, len(features), step):
        block = features[start : start + step]
        best, way = np.full((len(block), len(features)), -np.inf, dtype=np.float32), np.zeros((), dtype=np.int64)
        for lies in range(features.shape[1]):
            cosines = _unit(block[:, lies]) @ upright.T
            way = np.where(cosines > best, lies, way)
            np.maximum(best, cosines, out=best)
        first, second = np.nonzero(best >= least)
        later = second > first + start
        first, second = first[later], second[later]
        similar = best[first, second]
        search.add(first + start, second, way[first, second], np.full(len(first), -1), similar.__getitem__)
    return search.pairs()


def _unit(features: NDArray[np.floating[Any]]) -> Floats:
    wide = features.astype(np.float32)  # the squares of halves overflow
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12), dtype=np.float32)
