"""Generated images on disk, for the tests of this room."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Tree = Callable[..., Path]


def picture(value: int = 0, *, size: tuple[int, int] = (6, 5), channels: int = 3) -> Image.Image:
    """A noisy picture (width, height) whose pixels depend on `value` only."""
    shape = (size[1], size[0], channels) if channels == 3 else (size[1], size[0])
    pixels = np.random.default_rng(value).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Write pictures at the given relative paths below `tmp_path`/data and return that folder."""

    def write(*paths: str, **options: object) -> Path:
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        for value, path in enumerate(paths):
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            picture(value, **options).save(target)  # type: ignore[arg-type]
        return root

    return write


@pytest.fixture
def pets(tree: Tree) -> Path:
    """Three classes of ten pictures each."""
    return tree(*(f"{name}/{index}.png" for name in ("cat", "dog", "eel") for index in range(10)))
