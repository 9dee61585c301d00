"""Features are computed once per encoder, view and image, and never taken from another encoder or a damaged file."""

import multiprocessing
import os
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.data import feature_cache
from tercet.data.feature_cache import CHUNK, FeatureCache
from tercet.data.image_cache import ImageCache
from tercet.data.image_traits import pixel_digest
from tercet.data.pixel_digests import pixel_digests

VIEWS = ("plain", "flipped", "cropped")


def images(count: int, *, size: int = 4) -> ImageCache:
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return ImageCache(pixels.reshape(-1), np.tile([size, size, 3], (count, 1)))


def digests_of(count: int) -> list[bytes]:
    return pixel_digests(images(count), np.arange(count))


class Counting:
    """Computes features that name their digest and view, and counts."""

    def __init__(self, digests: Sequence[bytes], *, batch: int = 3) -> None:
        self.digests, self.batch, self.count = digests, batch, 0

    def __call__(self, positions: np.ndarray, views: Sequence[int]) -> Iterator[np.ndarray]:
        for start in range(0, len(positions), self.batch):
            part = positions[start : start + self.batch]
            self.count += len(part) * len(views)
            yield np.array([[expected(self.digests[at], view) for view in views] for at in part], np.float32)


def expected(digest: bytes, view: int) -> list[int]:
    return [digest[0], digest[1], view]


def all_expected(digests: Sequence[bytes], views: int = 1) -> np.ndarray:
    return np.array([[expected(digest, view) for view in range(views)] for digest in digests], np.float32)


def test_features_are_computed_once_for_all_users_of_a_folder(tmp_path: Path) -> None:
    digests = digests_of(6)
    compute = Counting(digests)
    first = FeatureCache(tmp_path)
    values = first.features("a", ["plain"], digests, compute)
    second = FeatureCache(tmp_path)
    assert (second.features("a", ["plain"], digests[::-1], compute)[:] == values[:][::-1]).all()
    assert (compute.count, first.computed, second.computed, second.reused) == (6, 6, 0, 6)


@given(st.lists(st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 3)), max_size=4))
def test_any_order_repetition_and_views(requests: list[tuple[list[int], int]]) -> None:
    digests = digests_of(10)
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder))
        known: set[tuple[int, int]] = set()
        for rows, count in requests:
            names = [digests[row] for row in rows]
            compute = Counting(names)
            np.testing.assert_array_equal(
                cache.features("key", VIEWS[:count], names, compute)[:], all_expected(names, count)
            )
            new = {(row, view) for row in rows for view in range(count)} - known
            assert compute.count == len(new)
            known |= new
        assert cache.computed == len(known)
        assert cache.computed + cache.reused == sum(len(rows) * count for rows, count in requests)


def test_another_encoder_has_its_own_features(tmp_path: Path) -> None:
    digests = digests_of(3)
    cache = FeatureCache(tmp_path)
    cache.features("a", ["plain"], digests, Counting(digests))
    other = Counting(digests)
    cache.features("b", ["plain"], digests, other)
    assert other.count == 3


@pytest.mark.parametrize("damage", ["truncated", "empty", "encoder", "view", "text", "digest", "features"])
def test_damaged_and_foreign_files_are_computed_again(tmp_path: Path, damage: str) -> None:
    digests = digests_of(1)
    FeatureCache(tmp_path).features("a", ["plain"], digests, Counting(digests))
    (file,) = tmp_path.glob("a/*.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[:-4])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage in ("encoder", "view"):  # a file of another encoder or view in the place of this one
        key, view = ("b", "plain") if damage == "encoder" else ("a", "other")

        def nines(positions: np.ndarray, views: Sequence[int]) -> Iterator[np.ndarray]:
            yield np.full((len(positions), len(views), 3), 9, np.float32)

        FeatureCache(tmp_path).features(key, [view], digests, nines)
        (other,) = tmp_path.glob(f"{key}/{view}_*.safetensors")
        other.replace(file)
    elif damage == "text":
        file.write_text("not features")
    else:
        content[-1 if damage == "digest" else -20] ^= 1  # one bit
        file.write_bytes(content)
    again = Counting(digests)
    np.testing.assert_array_equal(
        FeatureCache(tmp_path).features("a", ["plain"], digests, again)[:], all_expected(digests)
    )
    assert again.count == 1


def test_grey_images_stored_as_colour_are_the_same() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (4, 5, 1), dtype=np.uint8)
    colour = np.repeat(grey, 3, axis=2)
    assert pixel_digest(grey) == pixel_digest(colour)
    colour[3, 4, 2] ^= 1
    assert pixel_digest(grey) != pixel_digest(colour)


def test_pixels_and_shape_decide() -> None:
    flat = np.zeros(24, np.uint8)
    wide, high = (ImageCache(flat, np.array([shape])) for shape in ((2, 4, 3), (4, 2, 3)))
    assert pixel_digests(wide, np.array([0])) != pixel_digests(high, np.array([0]))


def test_digests_are_stored_for_further_processes(tmp_path: Path) -> None:
    class CountingReads(ImageCache):
        reads = 0

        def read(self, row: int) -> np.ndarray:
            CountingReads.reads += 1
            return super().read(row)

    plain = images(5)
    counted = CountingReads(plain.gather(np.arange(5)).reshape(-1), np.tile([4, 4, 3], (5, 1)))
    rows, file = np.array([3, 1]), tmp_path / "digests.npy"
    reference = pixel_digests(plain, rows)
    assert pixel_digests(counted, rows, file=file) == pixel_digests(counted, rows, file=file) == reference
    assert CountingReads.reads == 5
    file.write_bytes(file.read_bytes()[:-1])
    assert pixel_digests(counted, rows, file=file) == reference and CountingReads.reads == 10
    assert pixel_digests(images(4), np.array([1]), file=file) == reference[1:]  # digests of other images do not count
    assert pixel_digests(plain, rows, file=tmp_path / "missing" / "digests.npy") == reference


def test_digests_can_be_interrupted(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pixel_digests(images(3), np.arange(3), file=tmp_path / "digests.npy", poll=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("full", [False, True])
def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path, full: bool) -> None:
    folder = tmp_path / "features"
    if not full:
        folder.write_text("in the way")
    digests = digests_of(40)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.warns(UserWarning, match="features are not stored") as caught:
        try:
            if full:  # a file of features cannot be written, the locks can
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
            values = FeatureCache(folder).features("a", VIEWS, digests, Counting(digests))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(values[:], all_expected(digests, 3))
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_oldest_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "MAX_BYTES", 3000)
    digests = digests_of(20)
    cache = FeatureCache(tmp_path)
    for row in range(20):
        cache.features("a", ["plain"], [digests[row]], lambda rows, views: iter([np.zeros((1, 1, 100), np.float32)]))
    assert 0 < sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= 3000


def test_an_interruption_ends_within_a_batch_and_stores_what_was_computed(tmp_path: Path) -> None:
    digests = digests_of(50)
    compute = Counting(digests, batch=2)

    def stop(done: int, total: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path).features("a", VIEWS, digests, compute, stop)
    assert compute.count <= 11 * len(VIEWS)
    cache = FeatureCache(tmp_path)
    cache.features("a", VIEWS, digests, Counting(digests))
    assert cache.computed == 50 * len(VIEWS) - compute.count


def test_many_images_are_stored_in_chunks(tmp_path: Path) -> None:
    digests = [bytes(1) + number.to_bytes(31, "big") for number in range(2 * CHUNK + 5)]  # all in one bucket
    calls: list[tuple[int, int]] = []
    cache = FeatureCache(tmp_path)
    cache.features("a", ["plain"], digests, Counting(digests, batch=100), lambda *call: calls.append(call))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert calls[-1] == (len(digests), len(digests)) and [done for done, _ in calls] == sorted(
        done for done, _ in calls
    )


def compute_slowly(folder: Path, counts: "multiprocessing.Queue[tuple[int, int]]", seconds: float) -> None:
    digests = digests_of(60)

    def slow(positions: np.ndarray, views: Sequence[int]) -> Iterator[np.ndarray]:
        for part in Counting(digests, batch=4)(positions, views):
            time.sleep(seconds)
            yield part

    cache = FeatureCache(folder)
    values = cache.features("a", ["plain"], digests, slow)
    assert (values[:] == all_expected(digests)).all()
    counts.put((cache.computed, cache.reused))


def test_processes_share_the_work_and_compute_each_feature_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    counts = context.Queue()
    processes = [context.Process(target=compute_slowly, args=(tmp_path, counts, 0.02)) for _ in range(3)]
    for process in processes:
        process.start()
    results = [counts.get(timeout=100) for _ in processes]
    for process in processes:
        process.join()
    assert sum(computed for computed, _ in results) == 60
    assert sum(reused for _, reused in results) == 120


def test_a_killed_process_does_not_block_others(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    counts = context.Queue()
    process = context.Process(target=compute_slowly, args=(tmp_path, counts, 1000))
    process.start()
    while not list(tmp_path.rglob(".*.lock")):
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    compute_slowly(tmp_path, counts, 0)
    assert counts.get(timeout=100) == (60, 0)


class Maps:
    """Computes maps 2 x 2 x 3 that depend on the digest; those of some images exceed the range of half precision."""

    def __init__(self, digests: Sequence[bytes], large: Sequence[int] = ()) -> None:
        self.maps = {
            digest: np.random.default_rng(list(digest)).normal(size=(2, 2, 3)).astype(np.float32)
            * (1e6 if row in large else 1)
            for row, digest in enumerate(digests)
        }
        self.digests = digests

    def __call__(self, positions: np.ndarray, views: Sequence[int]) -> Iterator[np.ndarray]:
        for position in positions:
            yield np.stack([self.maps[self.digests[position]]] * len(views))[None]


@pytest.mark.parametrize("writable", [True, False])
def test_maps_are_rounded_before_they_are_used(tmp_path: Path, writable: bool) -> None:
    digests = digests_of(20)
    compute, folder = Maps(digests, large=[3, 4]), tmp_path / "features"
    if not writable:
        folder.write_text("in the way")
    caches = FeatureCache(folder), FeatureCache(folder)
    tables = []
    for cache in caches:
        with warnings.catch_warnings():
            warnings.simplefilter("error" if writable else "ignore")
            tables.append(cache.features("a", ["plain"], digests, compute, half=True))
    np.testing.assert_array_equal(tables[0][:], tables[1][:])
    assert caches[1].computed == (0 if writable else 20)
    exact = np.stack([compute.maps[digest] for digest in digests])
    np.testing.assert_allclose(tables[0].view(0)[:], exact, rtol=2**-11, atol=6e-8)
    np.testing.assert_array_equal(tables[0].view(0)[np.array([3, 4])], exact[3:5])
    stored = [(part.dtype, len(part)) for part in tables[0].parts]
    assert sum(rows for dtype, rows in stored if dtype == np.float16) == 18


def test_maps_are_read_from_their_files(tmp_path: Path) -> None:
    digests = digests_of(20)
    for _ in range(2):  # computed, stored before
        table = FeatureCache(tmp_path).features("a", ["plain"], digests, Maps(digests), half=True)
        assert all(not part.flags.owndata and not part.flags.writeable for part in table.parts)
    expected = table[:]
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()  # as another process does that makes room
    np.testing.assert_array_equal(table[:], expected)


def test_large_maps_are_stored_in_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "CHUNK_BYTES", 48)  # two maps of 24 bytes
    digests = [bytes(1) + number.to_bytes(31, "big") for number in range(9)]
    FeatureCache(tmp_path).features("a", ["plain"], digests, Maps(digests), half=True)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 5
