"""Find duplicates: identical pixels, near duplicates by perceptual hash, similar network features.

Hashes only propose candidates, as images of similar objects often have similar hashes; the correlation of downscaled
grey images decides. N images, Q = 8 N orientations of them, P pairs, D features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.data.duplicate_pairs import Floats, PairList, PairSearch
from tercet.data.perceptual_hashes import BITS, SIDE, PerceptualHashes, all_orientations
from tercet.data.pixel_values import Pixels
from tercet.data.table import Ints

MIN_CORRELATION = 0.97
"""Correlation of two downscaled images from which they are near duplicates."""
MAX_PAIRS = 20_000
"""Pairs that are listed even if redundant; 200 duplicates of one image already have as many."""
_HASH_CHUNK = 1 << 21  # pairs of hashes compared at a time
_GATHER_COST = 16  # cost of comparing an indexed pair relative to comparing in memory order
_CORRELATION_CHUNK, _SPARSE_CHUNK = 1 << 16, 1 << 12  # pairs correlated at a time
_DENSE = 4  # one matrix product of this many times the pairs is as fast as pair by pair
_FEATURE_CHUNK = 1 << 23  # pairs of features compared at a time


def exact_groups(digests: Sequence[bytes]) -> tuple[Ints, ...]:
    """Return the positions of images with equal digests, one array per group of at least two."""
    rows: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        rows[digest].append(row)
    return tuple(np.array(group, dtype=np.int64) for group in rows.values() if len(group) > 1)


def near_pairs(
    hashes: PerceptualHashes,
    grey: Pixels,
    *,
    max_distance: int,
    splits: Ints | None = None,
    min_correlation: float = MIN_CORRELATION,
    max_pairs: int = MAX_PAIRS,
) -> PairList:
    """Return the pairs of images that are near duplicates in any of the eight orientations.

    Two hashes that differ in d bits agree in at least one of d + 1 bands of bits. Only images that share a band are
    compared, unless there are so many of them that comparing all is faster.

    Hashes are N 8, grey images N SIDE SIDE; for `splits` and `max_pairs` see `PairSearch`.
    """
    search = PairSearch(_split_bits(len(hashes), splits), max_pairs=max_pairs, min_similarity=min_correlation)
    for first, second, orientation, bits in _candidates(hashes, max_distance):
        search.add(first, second, orientation, bits, partial(_correlate, grey, first, second, orientation))
        if search.stopped:
            break
    return search.pairs()


def _split_bits(count: int, splits: Ints | None) -> Ints:
    return np.zeros(count, dtype=np.int64) if splits is None else splits


def _correlate(grey: Pixels, first: Ints, second: Ints, orientation: Ints, subset: Ints) -> Floats:
    return correlations(grey, first[subset], second[subset], orientation[subset])


def _candidates(hashes: PerceptualHashes, distance: int) -> Iterator[tuple[Ints, Ints, Ints, Ints]]:
    """Yield pairs of similar hashes: positions (the smaller first), orientation, distance. A pair may be repeated."""
    upright = hashes[:, 0]
    queries = hashes.reshape(-1)  # Q
    bands = list(_bands(queries, upright, distance))
    use_index = _GATHER_COST * sum(int(count.sum()) for _, _, count in bands) < len(queries) * len(upright)
    for query, target in _pairs_in_band(bands) if use_index else _all_pairs(queries, upright, distance):
        bits = np.bitwise_count(queries[query] ^ upright[target]).astype(np.int64)
        image, orientation = np.divmod(query, hashes.shape[1])
        near = (bits <= distance) & (image != target) & ((orientation > 0) | (image < target))  # each pair once
        image, target, orientation, bits = image[near], target[near], orientation[near], bits[near]
        swapped = image > target  # the inverse transform maps the other image to this one
        first, second = np.where(swapped, target, image), np.where(swapped, image, target)
        yield first, second, np.where(swapped, _INVERSE[orientation], orientation), bits


def _bands(queries: PerceptualHashes, upright: PerceptualHashes, distance: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Yield per band the images sorted by it, and for each query start and number of the images with the same value."""
    edges = np.linspace(0, BITS, distance + 2).round().astype(int)
    for low, high in pairwise(edges.tolist()):
        shift, mask = np.uint64(low), np.uint64((1 << (high - low)) - 1)
        band, query_band = (upright >> shift) & mask, (queries >> shift) & mask
        order = np.argsort(band, kind="stable")
        start = np.searchsorted(band[order], query_band, side="left")
        yield order, start, np.searchsorted(band[order], query_band, side="right") - start


def _pairs_in_band(bands: Sequence[tuple[Ints, Ints, Ints]]) -> Iterator[tuple[Ints, Ints]]:
    """Yield queries and images that share a band."""
    for order, start, count in bands:
        for chunk in _chunks(count):
            query = np.repeat(chunk, count[chunk])
            offset = np.arange(len(query)) - np.repeat(np.cumsum(count[chunk]) - count[chunk], count[chunk])
            yield query, order[np.repeat(start[chunk], count[chunk]) + offset]


def _all_pairs(queries: PerceptualHashes, upright: PerceptualHashes, distance: int) -> Iterator[tuple[Ints, Ints]]:
    """Yield similar queries and images by comparing all with all, for images too similar for the index."""
    step = max(1, (_HASH_CHUNK >> 3) // max(1, len(upright)))  # fits into the CPU cache
    for start in range(0, len(queries), step):
        near = np.bitwise_count(queries[start : start + step, None] ^ upright) <= distance
        query, target = np.nonzero(near)
        yield query + start, target


def _chunks(count: Ints) -> Iterator[Ints]:
    """Yield positions of queries with a limited total number of comparisons."""
    queries = np.flatnonzero(count)
    chunk = np.cumsum(count[queries]) // _HASH_CHUNK
    yield from np.split(queries, np.flatnonzero(np.diff(chunk)) + 1) if len(queries) else ()


_INVERSE = np.array([0, 1, 2, 5, 4, 3, 6, 7])  # inverse transforms: quarter turns swap


def correlations(grey: Pixels, first: Ints, second: Ints, orientation: Ints) -> Floats:
    """Return the correlations (P) of downscaled images, the first of each pair transformed."""
    result = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), _CORRELATION_CHUNK):
        chunk = orientation[start : start + _CORRELATION_CHUNK]
        for way in np.unique(chunk):
            subset = start + np.flatnonzero(chunk == way)
            left, left_index = np.unique(first[subset], return_inverse=True)
            right, right_index = np.unique(second[subset], return_inverse=True)
            if len(left) * len(right) <= _DENSE * len(subset):
                result[subset] = (_oriented(grey, left, way) @ _oriented(grey, right, 0).T)[left_index, right_index]
                continue
            for part in np.split(subset, range(_SPARSE_CHUNK, len(subset), _SPARSE_CHUNK)):
                firsts, seconds = _oriented(grey, first[part], way), _oriented(grey, second[part], 0)
                result[part] = np.einsum("pd,pd->p", firsts, seconds)
    return result


def _oriented(grey: Pixels, rows: Ints, way: int) -> Floats:
    """Return downscaled images in an orientation, with mean 0 and norm 1 (rows, SIDE²)."""
    values = np.take(grey[rows].reshape(len(rows), -1), _PIXEL_ORDER[way], axis=1)
    centred = values - values.mean(axis=1, keepdims=True, dtype=np.float32)
    norm = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    return np.asarray(centred / np.maximum(norm, 1e-6), dtype=np.float32)


def _pixel_order() -> Ints:
    """Return for each orientation the indices of its pixels in the upright image (8 SIDE²)."""
    row, column = np.divmod(np.arange(SIDE * SIDE).reshape(SIDE, SIDE), SIDE)
    rows, columns = all_orientations(row.astype(np.uint8)), all_orientations(column.astype(np.uint8))
    return (rows.astype(np.int64) * SIDE + columns).reshape(len(rows), -1)


_PIXEL_ORDER = _pixel_order()


def similar_pairs(
    features: NDArray[np.floating[Any]],
    *,
    min_similarity: float,
    splits: Ints | None = None,
    max_pairs: int = MAX_PAIRS,
) -> PairList:
    """Return the pairs of images with similar features: N 8 D, of the eight orientations, or N 1 D, upright only.

    The similarity is the cosine; for `splits` and `max_pairs` see `PairSearch`.
    """
    search = PairSearch(_split_bits(len(features), splits), max_pairs=max_pairs, min_similarity=min_similarity)
    upright = _unit(features[:, 0])
    step = max(1, _FEATURE_CHUNK // max(1, len(features)))
    for start in range(0, len(features), step):
        block = features[start : start + step]
        best = np.full((len(block), len(features)), -np.inf, dtype=np.float32)
        orientation = np.zeros((), dtype=np.int64)
        for way in range(features.shape[1]):
            cosines = _unit(block[:, way]) @ upright.T
            orientation = np.where(cosines > best, way, orientation)
            np.maximum(best, cosines, out=best)
        first, second = np.nonzero(best >= min_similarity)
        later = second > first + start
        first, second = first[later], second[later]
        similar = best[first, second]
        search.add(first + start, second, orientation[first, second], np.full(len(first), -1), similar.__getitem__)
    return search.pairs()


def _unit(features: NDArray[np.floating[Any]]) -> Floats:
    single = features.astype(np.float32)  # squares overflow in float16
    return np.asarray(single / np.maximum(np.linalg.norm(single, axis=1, keepdims=True), 1e-12), dtype=np.float32)
