import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn
from tests.fixtures.drawings import drawing, poorer

from tercet.data import duplicate_pairs as pairs_module
from tercet.data import duplicates
from tercet.data.duplicate_pairs import PairList
from tercet.data.duplicates import correlations, exact_groups, near_pairs, similar_pairs
from tercet.data.perceptual_hashes import ORIENTATIONS, all_orientations, downscale, hashes, is_uniform, orient

SEEDS = st.integers(0, 2**32 - 1)
WAYS = range(len(ORIENTATIONS))


def grey(*pictures: Image.Image) -> np.ndarray:
    return np.stack([downscale(np.asarray(picture)) for picture in pictures])


def pairs_among(*pictures: Image.Image, distance: int = 6) -> list[tuple[int, int]]:
    small = grey(*pictures)
    pairs = near_pairs(hashes(small), small, max_distance=distance)
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def test_orientations_equal_pillow_transposes() -> None:
    picture = drawing(0)
    pixels = np.asarray(picture)
    assert (orient(pixels, 0) == pixels).all()
    for way, transpose in enumerate(Image.Transpose, 1):
        assert (orient(pixels, way) == np.asarray(picture.transpose(transpose))).all(), ORIENTATIONS[way]


def test_hashes_are_those_of_the_cosine_transform_of_each_orientation() -> None:
    small = grey(*map(drawing, range(5)))
    for image, codes in zip(small, hashes(small), strict=True):
        low = np.stack([dctn(view.astype(float), type=2)[:8, :8].reshape(-1) for view in all_orientations(image)])
        bits = low.round(3) > np.median(low.round(3), axis=1, keepdims=True)
        assert codes.tolist() == [int("".join(map(str, row.astype(int))), 2) for row in bits]


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(WAYS))
def test_rotation_permutes_the_hashes(seed: int, way: int) -> None:
    small = np.random.default_rng(seed).integers(0, 256, (32, 32), dtype=np.uint8)
    assert set(hashes(orient(small, way)[None])[0].tolist()) == set(hashes(small[None])[0].tolist())


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(20, 90), st.integers(20, 90), st.sampled_from(WAYS))
def test_rotated_image_of_any_size_is_detected(seed: int, width: int, height: int, way: int) -> None:
    picture = drawing(seed, (width, height))
    other = Image.fromarray(np.ascontiguousarray(orient(np.asarray(picture), way)))
    assert pairs_among(picture, other) == [(0, 1)]


def test_orientation_maps_the_first_image_to_the_second() -> None:
    picture = drawing(1)
    for way in WAYS:
        other = Image.fromarray(np.ascontiguousarray(orient(np.asarray(picture), way)))
        for pair, orientation in (((picture, other), way), ((other, picture), {3: 5, 5: 3}.get(way, way))):
            small = grey(*pair)
            pairs = near_pairs(hashes(small), small, max_distance=2)
            assert pairs.orientation.tolist() == [orientation]
            assert pairs.similarity[0] > 0.99 and pairs.distance[0] <= 2


def test_only_reencoded_and_resized_duplicates_are_detected() -> None:
    pictures = [drawing(seed) for seed in range(60)]
    copies = [poorer(picture) for picture in pictures[:10]]
    assert pairs_among(*pictures) == []
    assert sorted(pairs_among(*pictures, *copies)) == [(index, 60 + index) for index in range(10)]


def brute_force(codes: np.ndarray, distance: int) -> dict[tuple[int, int], int]:
    expected_pairs = {}
    for row in range(len(codes)):
        for other in range(row + 1, len(codes)):
            forward = np.bitwise_count(codes[row] ^ codes[other, 0]).min()
            backward = np.bitwise_count(codes[other] ^ codes[row, 0]).min()
            if min(forward, backward) <= distance:
                expected_pairs[row, other] = int(min(forward, backward))
    return expected_pairs


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(0, 9), st.sampled_from([0, 10**9]))
def test_index_equals_brute_force(seed: int, distance: int, gather_cost: int) -> None:
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 2**64, (30, 8), dtype=np.uint64)
    for copy in range(10, 20):  # a few bits different from another image, in some orientation
        bits = generator.choice(64, generator.integers(0, 12), replace=False)
        flips = np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64)) if len(bits) else np.uint64(0)
        codes[copy, 0] = codes[copy - 10, generator.integers(8)] ^ flips
    small = np.repeat(grey(drawing(0)), 30, axis=0)  # all correlations are equal: only the hashes decide
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_GATHER_COST", gather_cost)  # 0: index; 10**9: brute force
        pairs = near_pairs(codes, small, max_distance=distance, min_correlation=-1)
    ends = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    expected = brute_force(codes, distance)
    assert sorted(ends) == sorted(expected)
    assert (pairs.first < pairs.second).all() and (np.diff(pairs.distance) >= 0).all()


@pytest.mark.parametrize("max_pairs", [0, 7, 60])
def test_limited_pairs_keep_all_connections_and_splits(max_pairs: int) -> None:
    generator = np.random.default_rng(0)
    picture = np.asarray(drawing(0)).astype(int)
    similar = [
        Image.fromarray((picture + generator.integers(-1, 2, picture.shape)).clip(0, 255).astype(np.uint8))
        for _ in range(40)
    ]
    pictures = [*similar, *(poorer(drawing(seed)) for seed in range(1, 7)), *(drawing(seed) for seed in range(1, 7))]
    splits = np.array([1 << int(split) for split in generator.integers(0, 3, 40)] + [1] * 6 + [4] * 6)
    small = grey(*pictures)
    codes = hashes(small)
    pairs = near_pairs(codes, small, max_distance=6, splits=splits, max_pairs=max_pairs)
    all_pairs = near_pairs(codes, small, max_distance=6, splits=splits)
    assert all_pairs.complete and not pairs.complete and pairs.all_crossing
    assert len(pairs) <= 2 * max_pairs + 3 * len(pictures) < len(all_pairs)

    def connections(pairs: PairList) -> tuple[list[int], list[set[int]]]:
        known, groups = splits.tolist(), [{row} for row in range(len(splits))]
        for row, other in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
            known[row], known[other] = known[row] | splits[other], known[other] | splits[row]
            joined = groups[row] | groups[other]
            for row in joined:
                groups[row] = joined
        return known, groups

    assert connections(pairs) == connections(all_pairs)


def test_search_stops_after_too_many_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    small = grey(*map(drawing, range(40)))
    codes = np.repeat(hashes(small[:1]), 40, axis=0)  # equal hashes of different images
    for splits, all_crossing in ((np.ones(40, dtype=np.int64), True), (1 << np.arange(40) % 2, False)):
        assert near_pairs(codes, small, max_distance=0, splits=splits).complete
        with monkeypatch.context() as patch:
            patch.setattr(pairs_module, "MAX_COMPARED", 100)
            pairs = near_pairs(codes, small, max_distance=0, splits=splits)
        assert (len(pairs), pairs.complete, pairs.all_crossing) == (0, False, all_crossing)


def test_dense_and_sparse_correlations_agree() -> None:
    small = grey(*map(drawing, range(12)))
    first, second = (places.reshape(-1) for places in np.indices((12, 12)))
    ways = np.tile(np.arange(8), 18)
    together = correlations(small, first, second, ways)
    single = [
        correlations(small, *(column[index : index + 1] for column in (first, second, ways))) for index in range(144)
    ]
    assert together == pytest.approx(np.concatenate(single), abs=1e-5)


def test_is_uniform() -> None:
    assert is_uniform(np.full((1, 32, 32), 7, np.uint8)).all()
    assert not is_uniform(grey(drawing(0))).any()
    assert all_orientations(grey(drawing(0))[0]).shape == (8, 32, 32)


def test_exact_groups() -> None:
    groups = exact_groups([b"a", b"b", b"a", b"c", b"b", b"a"])
    assert [group.tolist() for group in groups] == [[0, 2, 5], [1, 4]]


@pytest.mark.parametrize("ways", [1, 8])
def test_similar_features_are_pairs(ways: int) -> None:
    features = np.random.default_rng(0).normal(size=(9, ways, 64)).astype(np.float16)
    features[7, 0] = features[2, ways - 1] * 3  # only the direction counts
    pairs = similar_pairs(features, min_similarity=0.95)
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([2], [7])
    assert pairs.orientation.tolist() == [ways - 1] and pairs.similarity[0] > 0.99 and pairs.distance.tolist() == [-1]
    assert not len(similar_pairs(features[:5], min_similarity=0.95))
    assert not len(similar_pairs(features[:5] * np.float16(1e4), min_similarity=0.95))  # squares overflow in float16


def test_many_similar_features_do_not_hide_a_leak() -> None:
    features = np.concatenate([np.tile(np.eye(4)[:1], (30, 1)), np.tile(np.eye(4)[1:2], (2, 1))])[:, None]
    splits = np.array([1] * 31 + [4])
    pairs = similar_pairs(features, min_similarity=0.9, splits=splits, max_pairs=10)
    assert (30, 31) in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    assert not pairs.complete and pairs.all_crossing and len(pairs) < 60
