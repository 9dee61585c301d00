"""A small real task for whole runs: three kinds of drawn shapes, and one finished run that several tests read."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tercet.workflows.train.run import Run, train

MEMBERS = [
    {"model": "small-cnn", "epochs": 6},
    {"model": "row-gru", "epochs": 6, "hidden_size": 16, "num_layers": 1},
    {"name": "wide", "model": "small-cnn", "epochs": 4, "head_hidden_dim": 48},
]
OPTIONS = {
    "members": MEMBERS,
    "lr": 3e-3,
    "batch_size": 16,
    "threads": 1,
    "tensorboard": False,
    "fusion": {"width": 32, "steps": 60, "folds": 3},
}


def draw(kind: str, generator: np.random.Generator, size: int = 20) -> Image.Image:
    image = Image.new("L", (size, size), int(generator.integers(0, 60)))
    pen = ImageDraw.Draw(image)
    left, top = (int(value) for value in generator.integers(1, 7, 2))
    box, shade = (left, top, left + 11, top + 11), int(generator.integers(120, 255))
    if kind == "disc":
        pen.ellipse(box, fill=shade)
    elif kind == "square":
        pen.rectangle(box, fill=shade)
    else:
        pen.line((left, top, left + 11, top + 11), fill=shade, width=3)
    noise = generator.normal(0, 8, (size, size))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def draw_folder(root: Path, count: int = 40, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    for kind in ("disc", "square", "stroke"):
        (root / kind).mkdir(parents=True)
        for index in range(count):
            draw(kind, generator).save(root / kind / f"{kind}-{index}.png")
    return root


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("data") / "shapes")


@contextmanager
def one_core() -> Iterator[None]:
    """On one core members train one after the other, here: a process each would cost seconds of imports."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)} if os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0" else {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture
def alone() -> Iterator[None]:
    with one_core():
        yield


@pytest.fixture(scope="session")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with one_core():
        return train(shapes, output=str(tmp_path_factory.mktemp("runs") / "run"), **OPTIONS)


def metrics_of(path: Path) -> dict:
    return json.loads((path / "metrics.json").read_text())
