import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.fixtures.drawings import drawing, poorer

from tercet.audit import duplicates
from tercet.audit import pairs as linked
from tercet.audit.duplicates import correlations, exact_groups, near_pairs, similar_pairs
from tercet.audit.inspect import ORIENTATIONS, downscale, hashes, is_flat, orient, rotate
from tercet.audit.pairs import PairList

SEEDS = st.integers(0, 2**32 - 1)
WAYS = range(len(ORIENTATIONS))


def grey(*pictures: Image.Image) -> np.ndarray:
    return np.stack([downscale(np.asarray(picture)) for picture in pictures])


def found_among(*pictures: Image.Image, distance: int = 6) -> list[tuple[int, int]]:
    small = grey(*pictures)
    pairs = near_pairs(np.stack([hashes(one) for one in small]), small, distance=distance)
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def test_orientations_are_those_of_pillow() -> None:
    picture = drawing(0)
    pixels = np.asarray(picture)
    assert (orient(pixels, 0) == pixels).all()
    for way, transpose in enumerate(Image.Transpose, 1):
        assert (orient(pixels, way) == np.asarray(picture.transpose(transpose))).all(), ORIENTATIONS[way]


def test_the_first_hash_is_imagehashs_own() -> None:
    assert int(hashes(downscale(np.asarray(drawing(3))))[0]) == int(str(imagehash.phash(drawing(3))), 16)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(WAYS))
def test_a_turned_picture_has_the_same_hashes_in_another_order(seed: int, way: int) -> None:
    small = np.random.default_rng(seed).integers(0, 256, (32, 32), dtype=np.uint8)
    assert set(hashes(orient(small, way)).tolist()) == set(hashes(small).tolist())


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(20, 90), st.integers(20, 90), st.sampled_from(WAYS))
def test_a_turned_picture_of_any_size_is_found(seed: int, width: int, height: int, way: int) -> None:
    picture = drawing(seed, (width, height))
    other = Image.fromarray(np.ascontiguousarray(orient(np.asarray(picture), way)))
    assert found_among(picture, other) == [(0, 1)]


def test_the_orientation_is_told_as_the_first_picture_must_be_turned() -> None:
    picture = drawing(1)
    for way in WAYS:
        other = Image.fromarray(np.ascontiguousarray(orient(np.asarray(picture), way)))
        for pair, undone in (((picture, other), way), ((other, picture), {3: 5, 5: 3}.get(way, way))):
            small = grey(*pair)
            pairs = near_pairs(np.stack([hashes(one) for one in small]), small, distance=2)
            assert pairs.orientation.tolist() == [undone]
            assert pairs.similarity[0] > 0.99 and pairs.distance[0] <= 2


def test_reencoded_and_resized_copies_are_found_and_nothing_else() -> None:
    pictures = [drawing(seed) for seed in range(60)]
    copies = [poorer(picture) for picture in pictures[:10]]
    assert found_among(*pictures) == []
    assert sorted(found_among(*pictures, *copies)) == [(place, 60 + place) for place in range(10)]


def brute_force(codes: np.ndarray, distance: int) -> dict[tuple[int, int], int]:
    found = {}
    for one in range(len(codes)):
        for other in range(one + 1, len(codes)):
            forth = np.bitwise_count(codes[one] ^ codes[other, 0]).min()
            back = np.bitwise_count(codes[other] ^ codes[one, 0]).min()
            if min(forth, back) <= distance:
                found[one, other] = int(min(forth, back))
    return found


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(0, 9), st.sampled_from([0, 10**9]))
def test_the_index_finds_what_comparing_all_with_all_finds(seed: int, distance: int, gathering: int) -> None:
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 2**64, (30, 8), dtype=np.uint64)
    for copy in range(10, 20):  # a few bits away from another picture, in some orientation
        bits = generator.choice(64, generator.integers(0, 12), replace=False)
        flips = np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64)) if len(bits) else np.uint64(0)
        codes[copy, 0] = codes[copy - 10, generator.integers(8)] ^ flips
    small = np.repeat(grey(drawing(0)), 30, axis=0)  # likeness is the same for all: hashes alone decide
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_GATHERING", gathering)  # both ways to search
        pairs = near_pairs(codes, small, distance=distance, least=-1)
    ends = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    expected = brute_force(codes, distance)
    assert sorted(ends) == sorted(expected)
    assert (pairs.first < pairs.second).all() and (np.diff(pairs.distance) >= 0).all()


@pytest.mark.parametrize("most", [0, 7, 60])
def test_beyond_the_listed_pairs_those_are_found_that_tell_something_new(most: int) -> None:
    generator = np.random.default_rng(0)
    picture = np.asarray(drawing(0)).astype(int)
    alike = [
        Image.fromarray((picture + generator.integers(-1, 2, picture.shape)).clip(0, 255).astype(np.uint8))
        for _ in range(40)
    ]
    pictures = [*alike, *(poorer(drawing(seed)) for seed in range(1, 7)), *(drawing(seed) for seed in range(1, 7))]
    splits = np.array([1 << int(split) for split in generator.integers(0, 3, 40)] + [1] * 6 + [4] * 6)
    small = grey(*pictures)
    codes = np.stack([hashes(one) for one in small])
    pairs = near_pairs(codes, small, distance=6, splits=splits, most=most)
    everything = near_pairs(codes, small, distance=6, splits=splits)
    assert everything.complete and not pairs.complete and pairs.all_crossing
    assert len(pairs) <= 2 * most + 3 * len(pictures) < len(everything)

    def told(some: PairList) -> tuple[list[int], list[set[int]]]:
        known, groups = splits.tolist(), [{row} for row in range(len(splits))]
        for one, other in zip(some.first.tolist(), some.second.tolist(), strict=True):
            known[one], known[other] = known[one] | splits[other], known[other] | splits[one]
            joined = groups[one] | groups[other]
            for row in joined:
                groups[row] = joined
        return known, groups

    assert told(pairs) == told(everything)


def test_the_search_stops_where_too_many_hashes_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    small = grey(*map(drawing, range(40)))
    codes = np.repeat(hashes(small[0])[None], 40, axis=0)  # alike, and the pictures are not
    for splits, all_crossing in ((np.ones(40, dtype=np.int64), True), (1 << np.arange(40) % 2, False)):
        assert near_pairs(codes, small, distance=0, splits=splits).complete
        with monkeypatch.context() as patch:
            patch.setattr(linked, "MOST_COMPARED", 100)
            pairs = near_pairs(codes, small, distance=0, splits=splits)
        assert (len(pairs), pairs.complete, pairs.all_crossing) == (0, False, all_crossing)


def test_many_and_few_pairs_correlate_alike() -> None:
    small = grey(*map(drawing, range(12)))
    first, second = (places.reshape(-1) for places in np.indices((12, 12)))
    ways = np.tile(np.arange(8), 18)
    together = correlations(small, first, second, ways)
    alone = [
        correlations(small, *(column[place : place + 1] for column in (first, second, ways))) for place in range(144)
    ]
    assert together == pytest.approx(np.concatenate(alone), abs=1e-5)


def test_pictures_of_one_colour_are_known_as_such() -> None:
    assert is_flat(np.full((32, 32), 7, np.uint8))
    assert not is_flat(grey(drawing(0))[0])
    assert rotate(grey(drawing(0))[0]).shape == (8, 32, 32)


def test_equal_digests_make_groups() -> None:
    groups = exact_groups([b"a", b"b", b"a", b"c", b"b", b"a"])
    assert [group.tolist() for group in groups] == [[0, 2, 5], [1, 4]]


@pytest.mark.parametrize("ways", [1, 8])
def test_features_that_point_the_same_way_are_pairs(ways: int) -> None:
    features = np.random.default_rng(0).normal(size=(9, ways, 64)).astype(np.float16)
    features[7, 0] = features[2, ways - 1] * 3  # the length says nothing
    pairs = similar_pairs(features, least=0.95)
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([2], [7])
    assert pairs.orientation.tolist() == [ways - 1] and pairs.similarity[0] > 0.99 and pairs.distance.tolist() == [-1]
    assert not len(similar_pairs(features[:5], least=0.95))
    assert not len(similar_pairs(features[:5] * np.float16(1e4), least=0.95))  # whose squares no half holds


def test_features_that_are_all_alike_hide_no_leak() -> None:
    features = np.concatenate([np.tile(np.eye(4)[:1], (30, 1)), np.tile(np.eye(4)[1:2], (2, 1))])[:, None]
    splits = np.array([1] * 31 + [4])
    pairs = similar_pairs(features, least=0.9, splits=splits, most=10)
    assert (30, 31) in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    assert not pairs.complete and pairs.all_crossing and len(pairs) < 60
