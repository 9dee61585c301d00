"""Which images are copies of one another: pixel by pixel, by perceptual hashes, or by what a network makes of them.

Hashes only propose: pictures of one kind of thing often have like hashes. What they propose is confirmed by the
correlation of the small grey copies. N images, Q of their orientations, P pairs, D features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.data.images import Pixels
from tercet.data.perceptual import SIDE, Hashes, turned
from tercet.data.samples import Ints

Floats = NDArray[np.float32]
BITS = 64
LEAST_CORRELATION = 0.97
"""Correlation of two small grey copies from which on they count as one picture (see docs/pictures.md)."""
MOST_PAIRS = 200_000
"""Pairs at which the search stops: one picture 600 times over is not told better by more of them."""
_PORTION = 1 << 21  # pairs of hashes compared at a time
_GATHERING = 16  # times as long as comparing in order takes comparing what an index finds
_CONFIRMED = 1 << 12  # pairs of small copies compared at a time
_BLOCK = 1 << 11  # images whose features are compared with all others at a time


@dataclass(frozen=True, eq=False)
class Pairs:
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
    """False where there were more than `MOST_PAIRS`."""

    def __len__(self) -> int:
        return len(self.first)

    def take(self, places: Ints) -> Pairs:
        """Return some of the pairs, in this order."""
        return Pairs(
            self.first[places],
            self.second[places],
            self.orientation[places],
            self.distance[places],
            self.similarity[places],
            self.complete,
        )


def no_pairs() -> Pairs:
    """Return no pair at all."""
    nothing = np.zeros(0, dtype=np.int64)
    return Pairs(nothing, nothing, nothing, nothing, np.zeros(0, dtype=np.float32))


def exact_groups(digests: Sequence[bytes]) -> tuple[Ints, ...]:
    """Return the positions of images with the same pixels, for every picture that is there more than once."""
    rows: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        rows[digest].append(row)
    return tuple(np.array(same, dtype=np.int64) for same in rows.values() if len(same) > 1)


def near_pairs(
    hashes: Hashes, grey: Pixels, *, distance: int, least: float = LEAST_CORRELATION, most: int = MOST_PAIRS
) -> Pairs:
    """Return the pairs of images that are near duplicates in any of the eight orientations.

    Two hashes that differ in `distance` bits agree in at least one of `distance + 1` bands, so only images that share
    a band are compared, unless these are so many that comparing all is faster.

    Args:
        hashes: N 8, as `perceptual.hashes` makes them.
        grey: N SIDE SIDE.
        distance: Different bits up to which a pair is proposed.
        least: Correlation of the small grey copies from which on it is confirmed; -1 confirms all.
        most: Pairs at which the search stops.
    """
    found: dict[tuple[int, int], tuple[int, int, float]] = {}
    complete = True
    for first, second, way, bits in _proposed(hashes, distance):
        likeness = correlations(grey, first, second, way)
        for place in np.flatnonzero(likeness >= least).tolist():
            pair, value = (int(first[place]), int(second[place])), float(likeness[place])
            if pair not in found or value > found[pair][2]:
                found[pair] = (int(way[place]), int(bits[place]), value)
        if len(found) >= most:
            complete = False
            break
    if not found:
        return no_pairs()
    order = sorted(found, key=lambda pair: (found[pair][1], -found[pair][2], pair))[:most]
    first, second = np.array(order, dtype=np.int64).T
    ways, bits = np.array([found[pair][:2] for pair in order], dtype=np.int64).T
    similar = np.array([found[pair][2] for pair in order], dtype=np.float32)
    return Pairs(first, second, ways, bits, similar, complete)


def _proposed(hashes: Hashes, distance: int) -> Iterator[tuple[Ints, Ints, Ints, Ints]]:
    """Yield pairs of near hashes: positions (the smaller first), orientation, distance; some of them several times."""
    upright = hashes[:, 0]
    queries = hashes.reshape(-1)  # Q: the eight orientations of every image
    bands = list(_bands(queries, upright, distance))
    cheap = _GATHERING * sum(int(count.sum()) for _, _, count in bands) < len(queries) * len(upright)
    for query, target in _sharing(bands) if cheap else _all_near(queries, upright, distance):
        bits = np.bitwise_count(queries[query] ^ upright[target]).astype(np.int64)
        image, way = np.divmod(query, hashes.shape[1])
        near = (bits <= distance) & (image != target)
        image, target, way, bits = image[near], target[near], way[near], bits[near]
        swapped = image > target  # turned back, the other image looks like this one
        first, second = np.where(swapped, target, image), np.where(swapped, image, target)
        yield first, second, np.where(swapped, _UNDONE[way], way), bits


def _bands(queries: Hashes, upright: Hashes, distance: int) -> Iterator[tuple[Ints, Ints, Ints]]:
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


def _all_near(queries: Hashes, upright: Hashes, distance: int) -> Iterator[tuple[Ints, Ints]]:
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
        part = slice(start, start + _CONFIRMED)
        pixels = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
        places = _PLACES[orientation[part]]
        left = np.take_along_axis(grey[first[part]].reshape(-1, pixels.size), places, axis=1)
        likeness[part] = (_standard(left) * _standard(grey[second[part]].reshape(-1, pixels.size))).sum(axis=1)
    return likeness


def _standard(values: Pixels) -> Floats:
    centred = values - values.mean(axis=1, keepdims=True, dtype=np.float32)
    length = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    return np.asarray(centred / np.maximum(length, 1e-6), dtype=np.float32)


def _turned_places() -> Ints:
    """Return for each orientation where its pixels lie in the copy that was not turned (8 SIDE²)."""
    row, column = np.divmod(np.arange(SIDE * SIDE).reshape(SIDE, SIDE), SIDE)
    rows, columns = turned(row.astype(np.uint8)), turned(column.astype(np.uint8))
    return (rows.astype(np.int64) * SIDE + columns).reshape(len(rows), -1)


_PLACES = _turned_places()


def similar_pairs(features: NDArray[np.floating[Any]], *, least: float, most: int = MOST_PAIRS) -> Pairs:
    """Return the pairs of images whose features point the same way.

    Args:
        features: N 8 D, of the eight orientations; or N 1 D where images are compared as they are.
        least: Cosine from which on two images are a pair.
        most: Pairs at which the search stops.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=2, keepdims=True), 1e-12)
    upright = unit[:, 0].astype(np.float32)
    parts: list[tuple[Ints, Ints, Ints, Floats]] = []
    total = 0
    for start in range(0, len(unit), _BLOCK):
        block = unit[start : start + _BLOCK].astype(np.float32)
        cosines = np.stack([block[:, way] @ upright.T for way in range(block.shape[1])])  # ways, block, N
        best, way = cosines.max(axis=0), cosines.argmax(axis=0)
        first, second = np.nonzero(best >= least)
        later = second > first + start
        first, second = first[later], second[later]
        parts.append((first + start, second, way[first, second], best[first, second]))
        total += len(first)
        if total >= most:
            break
    if not total:
        return no_pairs()
    one, other, ways, similar = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((other, one, -similar))[:most]
    unasked = np.full(len(order), -1)
    return Pairs(one[order], other[order], ways[order], unasked, similar[order], complete=total < most)
