"""Features are computed once per encoder and image, and never taken from another encoder or a damaged file."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.data import feature_cache
from tercet.data.feature_cache import FeatureCache, pixel_digests
from tercet.data.image_cache import ImageCache


def images(count: int, *, size: int = 4) -> ImageCache:
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return ImageCache(pixels.reshape(-1), np.tile([size, size, 3], (count, 1)))


class Counting:
    """Computes features that name their digest, and counts."""

    def __init__(self, digests: list[bytes]) -> None:
        self.digests, self.count = digests, 0

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        self.count += len(positions)
        return np.array([[digest[0], digest[1]] for digest in (self.digests[at] for at in positions)], np.float32)


def test_features_are_computed_once_for_all_users_of_a_folder(tmp_path: Path) -> None:
    digests = pixel_digests(images(6), np.arange(6))
    compute = Counting(digests)
    first = FeatureCache(tmp_path)
    expected = first.features("a", digests, compute)
    second = FeatureCache(tmp_path)
    assert (second.features("a", digests[::-1], compute) == expected[::-1]).all()
    assert (compute.count, first.computed, second.computed, second.reused) == (6, 6, 0, 6)


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=4))
def test_any_order_and_repetition(requests: list[list[int]]) -> None:
    digests = pixel_digests(images(10), np.arange(10))
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder))
        seen: set[int] = set()
        for rows in filter(None, requests):
            names = [digests[row] for row in rows]
            compute = Counting(names)
            features = cache.features("key", names, compute)
            assert [tuple(row) for row in features] == [(name[0], name[1]) for name in names]
            assert compute.count == len(set(rows) - seen)
            seen |= set(rows)


def test_another_encoder_has_its_own_features(tmp_path: Path) -> None:
    digests = pixel_digests(images(3), np.arange(3))
    cache = FeatureCache(tmp_path)
    cache.features("a", digests, Counting(digests))
    other = Counting(digests)
    cache.features("b", digests, other)
    assert other.count == 3


@pytest.mark.parametrize("damage", ["truncated", "moved", "text", "flipped"])
def test_damaged_and_foreign_files_are_computed_again(tmp_path: Path, damage: str) -> None:
    digests = pixel_digests(images(3), np.arange(3))
    compute = Counting(digests)
    FeatureCache(tmp_path).features("a", digests, compute)
    (file,) = tmp_path.glob("a/*.safetensors")
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-4])
    elif damage == "moved":  # from the folder of another encoder
        FeatureCache(tmp_path).features("b", digests, lambda rows: np.full((len(rows), 2), 9, np.float32))
        (other,) = tmp_path.glob("b/*.safetensors")
        other.replace(file)
    elif damage == "text":
        file.write_text("not features")
    else:
        content = bytearray(file.read_bytes())
        content[-60] ^= 1
        file.write_bytes(bytes(content))
    again = Counting(digests)
    features = FeatureCache(tmp_path).features("a", digests, again)
    assert again.count == 3 and features[0, 0] == digests[0][0]


def test_pixels_and_shape_decide() -> None:
    flat = np.zeros(24, np.uint8)
    wide, high = (ImageCache(flat, np.array([shape])) for shape in ((2, 4, 3), (4, 2, 3)))
    assert pixel_digests(wide, np.array([0])) != pixel_digests(high, np.array([0]))


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    digests = pixel_digests(images(2), np.arange(2))
    with pytest.warns(UserWarning, match="features are not stored"):
        features = FeatureCache(blocked).features("a", digests, Counting(digests))
    assert features.shape == (2, 2)


def test_the_oldest_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "MAX_BYTES", 3000)
    digests = pixel_digests(images(20), np.arange(20))
    cache = FeatureCache(tmp_path)
    for row in range(20):
        cache.features("a", [digests[row]], lambda rows: np.zeros((1, 100), np.float32))
    assert 0 < sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= 3000
