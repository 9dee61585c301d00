"""Unit tests of the queue, the memory budget, allowed hosts, crop boxes and limits."""

import asyncio
import gc
import io
import json
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.config.deployment import ServerLimits
from tercet.core.errors import ConfigError, ModelError
from tercet.core.resize import visible_window
from tercet.serve.batching import Batcher, BatchItem, MemoryBudget, MemoryLease
from tercet.serve.errors import Overloaded
from tercet.serve.listener import AllowedHosts, is_loopback
from tercet.serve.responses import CropBoxes
from tercet.serve.server import freeze_start_up_objects
from tests.serve.models import picture as png_of
from tests.serve.server import local_client


@dataclass
class Output:
    probabilities: np.ndarray
    members: np.ndarray
    chosen: None = None
    maps: None = None


class RecordingModel:
    """A model that records its batches, waits for `go`, and fails on images with the value 13 or 14."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.sizes: list[int] = []
        self.seconds = 0.0
        self.go = threading.Event()
        self.go.set()

    def run(self, images: np.ndarray) -> Output:
        self.shapes.append(images.shape)
        self.go.wait(20)
        time.sleep(self.seconds * len(images))
        if (images == 13).any():
            raise ModelError("thirteen")
        if (images == 14).any():
            raise RuntimeError("internal")
        values = images[:, 0, 0].astype(np.float32)
        return Output(values, values[:, None])

    def batch(self, size: int, seconds: float) -> None:
        self.sizes.append(size)


class BrokenModel:
    """A model that always raises."""

    classes, member_names, metadata, card, has_maps, multilabel = ("a", "b"), ("m",), {}, {}, False, False  # type: ignore[var-annotated]

    def run(self, images: np.ndarray) -> Output:
        raise RuntimeError("/secret/place")


GREY = png_of((14, 14, 14))


def picture(value: int, height: int = 2) -> np.ndarray:
    return np.full((height, 3, 3), value, np.uint8)


def run_batcher(
    work: Callable[[Batcher, RecordingModel], Coroutine[Any, Any, None]], *, limits: ServerLimits | None = None
) -> RecordingModel:
    """Run a coroutine with a started batcher, and stop the batcher."""
    model = RecordingModel()
    batcher = Batcher(model.run, limits or ServerLimits(), model)
    batcher.start()
    try:
        asyncio.run(work(batcher, model))
    finally:
        model.go.set()
        batcher.stop()
        assert not batcher.alive
    return model


def value(row: BatchItem) -> float:
    return float(row.output.probabilities[row.index][0])


def test_batches_have_one_shape_and_start_with_the_oldest_image() -> None:
    async def work(batcher: Batcher, model: RecordingModel) -> None:
        model.go.clear()
        tasks = [asyncio.create_task(batcher.predict(picture(0)))]
        while not model.shapes:
            await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(batcher.predict(picture(number, 2 + number % 2))) for number in range(1, 8)]
        await asyncio.sleep(0.01)
        assert batcher.waiting == 7
        model.go.set()
        assert [value(row) for row in await asyncio.gather(*tasks)] == list(range(8))

    model = run_batcher(work)
    assert [shape[:2] for shape in model.shapes] == [(1, 2), (4, 3), (3, 2)]
    assert model.sizes == [1, 4, 3]


def test_batch_size_is_limited_in_images_and_pixels() -> None:
    async def work(batcher: Batcher, model: RecordingModel) -> None:
        model.go.clear()
        tasks = [asyncio.create_task(batcher.predict(picture(1))) for _ in range(9)]
        await asyncio.sleep(0.05)
        model.go.set()
        await asyncio.gather(*tasks)

    assert max(run_batcher(work, limits=ServerLimits(max_batch=3, batch_wait=0)).sizes) == 3
    assert max(run_batcher(work, limits=ServerLimits(max_pixels=12, batch_wait=0)).sizes) == 2


def test_slow_model_gets_smaller_batches() -> None:
    """20 ms per image and 50 ms per batch: at most two images, after the speed of the first batch is known."""

    async def work(batcher: Batcher, model: RecordingModel) -> None:
        model.seconds = 0.02
        await batcher.predict(picture(1))
        await asyncio.gather(*(batcher.predict(picture(1)) for _ in range(9)))

    sizes = run_batcher(work, limits=ServerLimits(batch_time=50, batch_wait=0)).sizes
    assert sum(sizes) == 10 and max(sizes) <= 2


def test_batch_waits_only_for_images_being_decoded() -> None:
    async def work(batcher: Batcher, model: RecordingModel) -> None:
        await asyncio.wait_for(batcher.predict(picture(1)), 60)
        batcher.decoding = 1  # another image is being decoded
        first = asyncio.create_task(batcher.predict(picture(2)))
        await asyncio.sleep(0.05)
        assert not first.done()
        batcher.decoding = 0
        await batcher.predict(picture(3))
        await first

    assert run_batcher(work, limits=ServerLimits(batch_wait=600_000)).sizes == [1, 2]


def test_cancelled_images_are_dropped() -> None:
    async def work(batcher: Batcher, model: RecordingModel) -> None:
        model.go.clear()
        first = asyncio.create_task(batcher.predict(picture(0)))
        while not model.shapes:
            await asyncio.sleep(0.001)
        cancelled = [asyncio.create_task(batcher.predict(picture(1))) for _ in range(4)]
        last = asyncio.create_task(batcher.predict(picture(2)))
        await asyncio.sleep(0.01)
        for task in (first, *cancelled):
            task.cancel()
        model.go.set()
        assert value(await last) == 2

    assert run_batcher(work).sizes == [1, 1]


def test_only_the_faulty_image_of_a_batch_fails() -> None:
    async def work(batcher: Batcher, model: RecordingModel) -> None:
        model.go.clear()
        tasks = [asyncio.create_task(batcher.predict(picture(number))) for number in (0, 12, 13, 15)]
        await asyncio.sleep(0.02)
        model.go.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [value(item) for item in outcomes if isinstance(item, BatchItem)] == [0, 12, 15]
        assert isinstance(outcomes[2], ModelError)
        with pytest.raises(RuntimeError, match="internal"):
            await batcher.predict(picture(14))
        assert value(await batcher.predict(picture(1))) == 1  # the thread still runs

    run_batcher(work)


def test_queue_slots_are_reserved_and_released() -> None:
    batcher = Batcher(RecordingModel().run, ServerLimits(queue=32), RecordingModel())
    batcher.admit(30)
    with pytest.raises(Overloaded):
        batcher.admit(3)
    batcher.release(1)
    batcher.admit(3)
    assert batcher.admitted == 32


def test_memory_leases_stay_within_the_budget() -> None:
    memory = MemoryBudget(100)
    with MemoryLease(memory) as first, MemoryLease(memory) as second:
        first.resize(60)
        with pytest.raises(Overloaded):
            second.resize(41)
        second.resize(40)
        first.resize(10)
        second.resize(90)
        assert memory.held == 100
    assert memory.held == 0
    with pytest.raises(Overloaded):  # a decoding thread may outlive its client
        first.resize(1)
    assert memory.held == 0


def test_model_exception_is_a_500_and_is_logged() -> None:
    stream = io.StringIO()
    with local_client(BrokenModel(), stream=stream) as client:
        response, ready = client.post("/v1/predict", content=GREY), client.get("/health/ready")
    assert (response.status_code, ready.status_code) == (500, 200)
    assert response.json() == {"error": "internal server error: see the server's log"}
    assert json.loads(stream.getvalue().splitlines()[0])["status"] == 500


@given(
    st.integers(1, 900),
    st.integers(1, 900),
    st.sampled_from([(8, 8), (30, 20), (224, 224)]),
    st.sampled_from(["squash", "center", "border"]),
    st.sampled_from([1.0, 0.875]),
)
def test_map_covers_the_crop_of_the_members(
    height: int, width: int, size: tuple[int, int], crop_mode: Literal["squash", "center", "border"], crop: float
) -> None:
    model = BrokenModel()
    spec = {"size": list(size), "crop_mode": crop_mode, "crop_pct": crop}
    members = [{"name": "a", "input": spec}, {"name": "b", "input": {**spec, "mean": [0.1]}}]
    model.metadata = {"members": members}  # type: ignore[misc]
    window = visible_window((height, width), size, crop_mode=crop_mode, crop_pct=crop)
    expected = (window.top / height, window.left / width, window.height / height, window.width / width)
    assert CropBoxes(model).of(height, width) == pytest.approx(expected, abs=1e-9)  # type: ignore[arg-type]
    members.append({"name": "c", "input": {**spec, "crop_pct": 0.5}})
    assert CropBoxes(model).of(height, width) == (0, 0, 1, 1)  # type: ignore[arg-type]
    model.metadata["maps"] = ["a", "b"]
    assert CropBoxes(model).of(height, width) == pytest.approx(expected, abs=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bound", "allowed", "header", "accepted"),
    [
        ("127.0.0.1", (), "localhost:8000", True),
        ("127.0.0.1", (), "10.0.0.1", False),
        ("10.0.0.1", (), "10.0.0.1:8000", True),
        ("0.0.0.0", (), "[2001:db8::1]:80", True),
        ("0.0.0.0", (), "example.org", False),
        ("0.0.0.0", ("Example.org",), "EXAMPLE.ORG.:443", True),
        ("::1", (), "[::1]", True),
        ("::1", (), "localhost:99999999", False),
        ("::1", (), "localhost/x", False),
        ("127.0.0.1", (), "2130706433", False),
    ],
)
def test_allowed_hosts(bound: str, allowed: tuple[str, ...], header: str, accepted: bool) -> None:
    assert AllowedHosts(bound, allowed).accepts(header) is accepted


def test_loopback_addresses() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org")))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"queue": 0}, "limits.queue 0 must be positive"),
        ({"deadline": -1.0, "max_images": 0}, "max_images 0 must be positive; limits.deadline -1.0 must be positive"),
        ({"memory": 100}, "memory 100 is too small"),
        ({"queue": 8, "max_images": 9}, "limits.queue 8 must be at least limits.max_images 9"),
    ],
)
def test_invalid_limits_are_rejected(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServerLimits(**values)


def test_start_up_objects_are_excluded_from_garbage_collection() -> None:
    gc.collect()
    before = len(gc.get_objects())
    with freeze_start_up_objects():
        assert gc.get_freeze_count() > 10_000 and len(gc.get_objects()) < before / 100
        with freeze_start_up_objects():
            pass
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0
