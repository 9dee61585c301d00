"""Decode every image once: checksums, perceptual hashes, defects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tercet.audit.quality import sharpness
from tercet.data.decode import decode
from tercet.data.image_traits import MIN_SIDE, ImageTraits, pixel_digest
from tercet.data.parquet_source import ParquetSource
from tercet.data.perceptual_hashes import SIDE, PerceptualHashes, downscale, hashes, is_uniform
from tercet.data.pixel_values import Pixels, to_depth, to_pixels
from tercet.data.read_ahead import BadImage, read_ahead
from tercet.data.sources import DepthSource, FolderSource, ImageSource, ZipSource
from tercet.data.table import Ints, SampleTable


@dataclass(frozen=True)
class ImageInspection:
    """Properties of one image."""

    size: tuple[int, int]
    """Height and width, upright."""
    mode: str
    """File format and colour mode, such as JPEG RGB; `in memory` without a file."""
    digest: bytes
    """SHA-256 of the pixels; the same for grey images stored as RGB."""
    grey: Pixels
    """Downscaled image, SIDE SIDE."""
    sharpness: float
    """See `sharpness`."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """Properties of the images of a table."""

    rows: Ints
    """M rows of the readable images, in increasing order."""
    bad: tuple[BadImage, ...]
    """The unreadable images."""
    sizes: Ints
    """M 2, height and width."""
    modes: tuple[str, ...]
    """M, see `ImageInspection.mode`."""
    digests: tuple[bytes, ...]
    """M, SHA-256 of the pixels."""
    grey: Pixels
    """M SIDE SIDE."""
    hashes: PerceptualHashes | None
    """M 8; None if near duplicates are not searched."""
    uniform: tuple[bool, ...]
    """M, whether the image is of one colour."""
    sharpness: NDArray[np.float64]
    """M, see `sharpness`."""

    def traits(self) -> ImageTraits:
        """Return the traits by which a training would find copies."""
        comparable = self.sizes.min(axis=1) >= MIN_SIDE
        return ImageTraits(self.digests, self.grey * comparable[:, None, None].astype(np.uint8))


def inspect(table: SampleTable, *, max_pixels: int, compute_hashes: bool = True) -> Inspection:
    """Decode and inspect every image of a table once; larger ones than `max_pixels` count as unreadable."""
    rows: list[int] = []
    bad: list[BadImage] = []
    inspections: list[ImageInspection] = []
    read = partial(inspect_image, table.source, max_pixels=max_pixels)
    for row, result in enumerate(read_ahead(read, table.locations, max_pixels=max_pixels)):
        if isinstance(result, str):
            bad.append(BadImage(table.ids[row], table.locations[row], result))
            continue
        rows.append(row)
        inspections.append(result)
    grey = np.array([image.grey for image in inspections], dtype=np.uint8).reshape(-1, SIDE, SIDE)
    return Inspection(
        rows=np.array(rows, dtype=np.int64),
        bad=tuple(bad),
        sizes=np.array([image.size for image in inspections], dtype=np.int64).reshape(-1, 2),
        modes=tuple(image.mode for image in inspections),
        digests=tuple(image.digest for image in inspections),
        grey=grey,
        hashes=hashes(grey) if compute_hashes else None,
        uniform=tuple(is_uniform(grey).tolist()),
        sharpness=np.array([image.sharpness for image in inspections], dtype=np.float64),
    )


def inspect_image(source: ImageSource, location: str, *, max_pixels: int) -> ImageInspection:
    """Decode and inspect one image.

    Raises:
        DataError: The image is unreadable.
    """
    modes: list[str] = []

    def record_mode(convert: Callable[[Image.Image], Pixels]) -> Callable[[Image.Image], Pixels]:
        def record(image: Image.Image) -> Pixels:
            modes.append(f"{image.format} {image.mode}")
            return convert(image)

        return record

    match source:
        case FolderSource() | ZipSource() | ParquetSource():
            content = source.root / location if isinstance(source, FolderSource) else source.content(location)
            convert = record_mode(partial(to_pixels, decoding=source.decoding))
            pixels = decode(content, max_pixels=max_pixels, decoding=source.decoding, convert=convert)
        case DepthSource():
            pixels = decode(source.inner.content(location), max_pixels=max_pixels, convert=record_mode(to_depth))
        case _:
            pixels = source.pixels(location, max_pixels=max_pixels)
    height, width = pixels.shape[:2]
    return ImageInspection(
        (height, width), modes[0] if modes else "in memory", pixel_digest(pixels), downscale(pixels), sharpness(pixels)
    )
