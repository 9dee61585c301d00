"""Decode every image once: checksums, perceptual hashes, defects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tercet.core.errors import ConfigError
from tercet.data.decode import decode
from tercet.data.parquet_source import ParquetSource
from tercet.data.pixel_digests import pixel_digest
from tercet.data.pixel_values import Pixels, to_depth, to_pixels
from tercet.data.read_ahead import BadImage, read_ahead
from tercet.data.sources import DepthSource, FolderSource, ImageSource, ZipSource
from tercet.data.table import Ints, SampleTable

try:
    import imagehash
except ImportError:  # an extra: `pip install tercet[audit]`
    imagehash = None

PerceptualHashes = NDArray[np.uint64]
SIDE = 32
"""Side of the downscaled grey image in pixels: the input size of a 64-bit pHash."""
ORIENTATIONS = (
    "identity",
    "flipped horizontally",
    "flipped vertically",
    "rotated by 90°",
    "rotated by 180°",
    "rotated by 270°",
    "transposed",
    "transposed and rotated by 180°",
)
"""The eight orientations of an image (dihedral group), named by the transform from upright."""
_MIN_DEVIATION = 2.0  # standard deviation in grey levels; below it noise determines the hash


def require_imagehash() -> None:
    """Raise ConfigError if imagehash is not installed."""
    if imagehash is None:
        raise ConfigError(
            "finding near duplicates requires imagehash: pip install 'tercet[audit]', or skip it with "
            "--max-hash-distance null"
        )


def downscale(image: Pixels) -> Pixels:
    """Convert H W C to grey and resize it to SIDE SIDE."""
    pil_image = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.asarray(pil_image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def orient(image: Pixels, orientation: int) -> Pixels:
    """Return a view of an image (H W, or H W C) in one of the `ORIENTATIONS`."""
    if orientation in (1, 2):
        return image[:, ::-1] if orientation == 1 else image[::-1]
    if orientation in (3, 4, 5):
        return np.rot90(image, orientation - 2)
    return image if orientation == 0 else (image if orientation == 6 else image[::-1, ::-1]).swapaxes(0, 1)


def all_orientations(grey: Pixels) -> Pixels:
    """Return a downscaled image in its eight orientations (8 SIDE SIDE)."""
    return np.stack([orient(grey, index) for index in range(len(ORIENTATIONS))])


def hashes(grey: Pixels) -> PerceptualHashes:
    """Return the 64-bit pHashes (8) of a downscaled image in its eight orientations."""
    bits = np.stack([imagehash.phash(Image.fromarray(image)).hash.reshape(-1) for image in all_orientations(grey)])
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def is_uniform(grey: Pixels) -> bool:
    """Whether an image is (almost) of one colour and therefore has no meaningful hash."""
    return bool(grey.std() < _MIN_DEVIATION)


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


def inspect(table: SampleTable, *, max_pixels: int, compute_hashes: bool = True) -> Inspection:
    """Decode and inspect every image of a table once; larger ones than `max_pixels` count as unreadable."""
    rows: list[int] = []
    bad: list[BadImage] = []
    inspections: list[ImageInspection] = []
    codes: list[PerceptualHashes] = []
    read = partial(inspect_image, table.source, max_pixels=max_pixels)
    for row, result in enumerate(read_ahead(read, table.locations, max_pixels=max_pixels)):
        if isinstance(result, str):
            bad.append(BadImage(table.ids[row], table.locations[row], result))
            continue
        rows.append(row)
        inspections.append(result)
        if compute_hashes:
            codes.append(hashes(result.grey))
    return Inspection(
        rows=np.array(rows, dtype=np.int64),
        bad=tuple(bad),
        sizes=np.array([image.size for image in inspections], dtype=np.int64).reshape(-1, 2),
        modes=tuple(image.mode for image in inspections),
        digests=tuple(image.digest for image in inspections),
        grey=np.array([image.grey for image in inspections], dtype=np.uint8).reshape(-1, SIDE, SIDE),
        hashes=np.array(codes, dtype=np.uint64).reshape(-1, len(ORIENTATIONS)) if compute_hashes else None,
        uniform=tuple(is_uniform(image.grey) for image in inspections),
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
    return ImageInspection((height, width), modes[0] if modes else "in memory", pixel_digest(pixels), downscale(pixels))
