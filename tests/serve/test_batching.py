"""The queue before the model, the budget of memory, the hosts, the limits: each alone."""

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.config.deployment import ServerLimits
from tercet.core.errors import ConfigError, ModelError
from tercet.core.resize import visible_window
from tercet.serve.access_log import AccessLog
from tercet.serve.app import make_app, route_paths
from tercet.serve.batching import Batcher, BatchItem, MemoryBudget, MemoryLease
from tercet.serve.errors import Overloaded
from tercet.serve.metrics import Metrics
from tercet.serve.middleware import AllowedHosts, GuardMiddleware, is_loopback
from tercet.serve.model import CropBoxes
from tercet.serve.service import Service
from tests.serve.models import picture as png_of


@dataclass
class Said:
    probabilities: np.ndarray
    members: np.ndarray
    chosen: None = None
    maps: None = None


class Watched:
    """A model that tells what it was asked, waits where it is told to, and fails on images of 13."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.sizes: list[int] = []
        self.seconds = 0.0
        self.go = threading.Event()
        self.go.set()

    def run(self, images: np.ndarray) -> Said:
        self.shapes.append(images.shape)
        self.go.wait(20)
        time.sleep(self.seconds * len(images))
        if (images == 13).any():
            raise ModelError("thirteen")
        if (images == 14).any():
            raise RuntimeError("a fault")
        values = images[:, 0, 0].astype(np.float32)
        return Said(values, values[:, None])

    def batch(self, size: int, seconds: float) -> None:
        self.sizes.append(size)


class Faulty:
    """A model that is broken."""

    classes, member_names, metadata, has_maps, sets = ("a", "b"), ("m",), {}, False, False  # type: ignore[var-annotated]

    def run(self, images: np.ndarray) -> Said:
        raise RuntimeError("/secret/place")


GREY = png_of((14, 14, 14))


def picture(value: int, height: int = 2) -> np.ndarray:
    return np.full((height, 3, 3), value, np.uint8)


def working(
    work: Callable[[Batcher, Watched], Coroutine[Any, Any, None]], *, limits: ServerLimits | None = None
) -> Watched:
    """Run a coroutine with a batcher that works, and stop it."""
    watched = Watched()
    batcher = Batcher(watched.run, limits or ServerLimits(), watched)
    batcher.start()
    try:
        asyncio.run(work(batcher, watched))
    finally:
        watched.go.set()
        batcher.stop()
        assert not batcher.alive
    return watched


def value(row: BatchItem) -> float:
    return float(row.output.probabilities[row.index][0])


def test_batches_have_one_shape_and_start_with_the_oldest_image() -> None:
    async def work(batcher: Batcher, watched: Watched) -> None:
        watched.go.clear()
        tasks = [asyncio.create_task(batcher.predict(picture(0)))]
        while not watched.shapes:
            await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(batcher.predict(picture(one, 2 + one % 2))) for one in range(1, 8)]
        await asyncio.sleep(0.01)
        assert batcher.waiting == 7
        watched.go.set()
        assert [value(row) for row in await asyncio.gather(*tasks)] == list(range(8))

    watched = working(work)
    assert [shape[:2] for shape in watched.shapes] == [(1, 2), (4, 3), (3, 2)]
    assert watched.sizes == [1, 4, 3]


def test_batch_size_is_limited_in_images_and_pixels() -> None:
    async def work(batcher: Batcher, watched: Watched) -> None:
        watched.go.clear()
        tasks = [asyncio.create_task(batcher.predict(picture(1))) for _ in range(9)]
        await asyncio.sleep(0.05)
        watched.go.set()
        await asyncio.gather(*tasks)

    assert max(working(work, limits=ServerLimits(max_batch=3, batch_wait=0)).sizes) == 3
    assert max(working(work, limits=ServerLimits(max_pixels=12, batch_wait=0)).sizes) == 2


def test_slow_model_gets_smaller_batches() -> None:
    """20 ms an image and 50 ms at once: two, after the first batch has told how slow it is."""

    async def work(batcher: Batcher, watched: Watched) -> None:
        watched.seconds = 0.02
        await batcher.predict(picture(1))
        await asyncio.gather(*(batcher.predict(picture(1)) for _ in range(9)))

    sizes = working(work, limits=ServerLimits(batch_time=50, batch_wait=0)).sizes
    assert sum(sizes) == 10 and max(sizes) <= 2


def test_batch_waits_only_for_images_being_decoded() -> None:
    async def work(batcher: Batcher, watched: Watched) -> None:
        await asyncio.wait_for(batcher.predict(picture(1)), 60)
        batcher.decoding = 1  # another is being decoded
        first = asyncio.create_task(batcher.predict(picture(2)))
        await asyncio.sleep(0.05)
        assert not first.done()
        batcher.decoding = 0
        await batcher.predict(picture(3))
        await first

    assert working(work, limits=ServerLimits(batch_wait=600_000)).sizes == [1, 2]


def test_cancelled_images_are_dropped() -> None:
    async def work(batcher: Batcher, watched: Watched) -> None:
        watched.go.clear()
        first = asyncio.create_task(batcher.predict(picture(0)))
        while not watched.shapes:
            await asyncio.sleep(0.001)
        gone = [asyncio.create_task(batcher.predict(picture(1))) for _ in range(4)]
        last = asyncio.create_task(batcher.predict(picture(2)))
        await asyncio.sleep(0.01)
        for task in (first, *gone):
            task.cancel()
        watched.go.set()
        assert value(await last) == 2

    assert working(work).sizes == [1, 1]


def test_only_the_faulty_image_of_a_batch_fails() -> None:
    async def work(batcher: Batcher, watched: Watched) -> None:
        watched.go.clear()
        tasks = [asyncio.create_task(batcher.predict(picture(one))) for one in (0, 12, 13, 15)]
        await asyncio.sleep(0.02)
        watched.go.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [value(one) for one in outcomes if isinstance(one, BatchItem)] == [0, 12, 15]
        assert isinstance(outcomes[2], ModelError)
        with pytest.raises(RuntimeError, match="a fault"):
            await batcher.predict(picture(14))
        assert value(await batcher.predict(picture(1))) == 1  # the thread lives on

    working(work)


def test_queue_slots_are_reserved_and_released() -> None:
    batcher = Batcher(Watched().run, ServerLimits(queue=32), Watched())
    batcher.admit(30)
    with pytest.raises(Overloaded):
        batcher.admit(3)
    batcher.release(1)
    batcher.admit(3)
    assert batcher.admitted == 32


def test_memory_leases_stay_within_the_budget() -> None:
    memory = MemoryBudget(100)
    with MemoryLease(memory) as one, MemoryLease(memory) as other:
        one.resize(60)
        with pytest.raises(Overloaded):
            other.resize(41)
        other.resize(40)
        one.resize(10)
        other.resize(90)
        assert memory.held == 100
    assert memory.held == 0
    with pytest.raises(Overloaded):  # a thread that is still at work for a client that has left
        one.resize(1)
    assert memory.held == 0


def test_model_exception_is_a_500_and_is_logged() -> None:
    async def work() -> tuple[httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(guard, raise_app_exceptions=False)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/v1/predict", content=GREY), await client.get("/health/ready")

    model, limits, metrics, said = Faulty(), ServerLimits(), Metrics(), io.StringIO()
    log = AccessLog(said)
    service = Service(model, limits, metrics)
    app = make_app(model, "faulty", service, limits, metrics)
    guard = GuardMiddleware(
        app, hosts=AllowedHosts("127.0.0.1"), paths=route_paths(app), metrics=metrics, log=log
    )
    service.start()
    try:
        answered, ready = asyncio.run(work())
    finally:
        service.close()
        log.close()
    assert (answered.status_code, ready.status_code) == (500, 200)
    assert answered.json() == {"error": "internal server error: see the server's log"}
    assert json.loads(said.getvalue().splitlines()[0])["status"] == 500


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
    model = Faulty()
    shown = {"size": list(size), "crop_mode": crop_mode, "crop_pct": crop}
    members = [{"name": "a", "input": shown}, {"name": "b", "input": {**shown, "mean": [0.1]}}]
    model.metadata = {"members": members}  # type: ignore[misc]
    window = visible_window((height, width), size, crop_mode=crop_mode, crop_pct=crop)
    expected = (window.top / height, window.left / width, window.height / height, window.width / width)
    assert CropBoxes(model).of(height, width) == pytest.approx(expected, abs=1e-9)  # type: ignore[arg-type]
    members.append({"name": "c", "input": {**shown, "crop_pct": 0.5}})
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
    ("values", "words"),
    [
        ({"queue": 0}, "queue 0 must be positive"),
        ({"deadline": -1.0, "max_images": 0}, "max_images 0 must be positive; deadline -1.0 must be positive"),
        ({"memory": 100}, "memory 100 is too small"),
        ({"queue": 8, "max_images": 9}, "queue 8 must hold max_images 9"),
    ],
)
def test_invalid_limits_are_rejected(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ServerLimits(**values)
