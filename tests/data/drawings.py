"""Generated pictures that differ from one another as photographs do: soft shapes, no two alike."""

import io

import numpy as np
from PIL import Image

from tercet.data.samples import SampleTable
from tercet.data.sources import ArraySource


def drawing(seed: int, size: tuple[int, int] = (72, 60)) -> Image.Image:
    """A soft coloured picture (width, height) with some hard edges."""
    generator = np.random.default_rng(seed)
    soft = Image.fromarray(generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.array(soft)
    for _ in range(3):
        top, left = generator.integers(0, size[1] - 15), generator.integers(0, size[0] - 15)
        pixels[top : top + 12, left : left + 12] = generator.integers(0, 256, 3)
    return Image.fromarray(pixels)


def poorer(picture: Image.Image) -> Image.Image:
    """The same picture at 90 % of its size, encoded as JPEG of quality 60."""
    stream = io.BytesIO()
    size = (round(picture.width * 0.9), round(picture.height * 0.9))
    picture.resize(size, Image.Resampling.LANCZOS).save(stream, "JPEG", quality=60)
    return Image.open(stream).copy()


def pixels_of(*pictures: Image.Image) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures])


def table_of(
    *pictures: Image.Image,
    labels: list[int] | None = None,
    splits: list[str] | None = None,
    groups: list[str] | None = None,
    classes: tuple[str, ...] = ("cat", "dog"),
) -> SampleTable:
    """Pictures of one size in memory, named a, b, c, ..."""
    count = len(pictures)
    return SampleTable(
        name="drawn",
        ids=tuple(f"{chr(ord('a') + row % 26)}{row // 26 or ''}" for row in range(count)),
        locations=tuple(map(str, range(count))),
        labels=np.array(labels if labels is not None else [row % len(classes) for row in range(count)]),
        classes=classes,
        source=ArraySource(pixels_of(*pictures)),
        splits=None if splits is None else tuple(splits),
        groups=None if groups is None else tuple(groups),
    )
