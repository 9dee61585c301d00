"""Decode every image once: checksums, perceptual hashes, defects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tercet.core.errors import ConfigError, DataError
from tercet.core.resource_limits import available_cores
from tercet.data.decode import Pixels, decode, pillow_limits, to_depth, to_pixels
from tercet.data.image_cache import BadImage
from tercet.data.sources import DepthSource, FolderSource, ImageSource, ZipSource
from tercet.data.table import Ints, SampleTable

try:
    import imagehash
except ImportError:  # an extra: `pip install tercet[audit]`
    imagehash = None

PerceptualHashes = NDArray[np.uint64]
SIDE = 32
"""Pixels a side of the small grey copy: what a perceptual hash of 64 bits is made from."""
ORIENTATIONS = (
    "as it is",
    "mirrored",
    "upside down",
    "turned by 90°",
    "turned by 180°",
    "turned by 270°",
    "transposed",
    "transposed and turned by 180°",
)
"""The ways in which a rectangle can lie, in words; the first leaves it alone."""
_FLATTEST = 2.0  # standard deviation, in grey levels, below which noise alone would make the hash


def require_imagehash() -> None:
    """Refuse to look for near duplicates without imagehash.

    Raises:
        ConfigError: It is not installed.
    """
    if imagehash is None:
        raise ConfigError(
            "near duplicates need imagehash, which is not installed: pip install 'tercet[audit]', or leave them out "
            "with --max-hash-distance null"
        )


def downscale(image: Pixels) -> Pixels:
    """Return the small grey copy (SIDE SIDE) of an image H W C."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def orient(image: Pixels, way: int) -> Pixels:
    """Return an image (H W, or H W C) as it lies in one of the `ORIENTATIONS` (a view)."""
    if way in (1, 2):
        return image[:, ::-1] if way == 1 else image[::-1]
    if way in (3, 4, 5):
        return np.rot90(image, way - 2)
    return image if way == 0 else (image if way == 6 else image[::-1, ::-1]).swapaxes(0, 1)


def rotate(grey: Pixels) -> Pixels:
    """Return a small grey copy in its eight orientations (8 SIDE SIDE), in the order of `ORIENTATIONS`."""
    return np.stack([orient(grey, way) for way in range(len(ORIENTATIONS))])


def hashes(grey: Pixels) -> PerceptualHashes:
    """Return the perceptual hashes of a small grey copy in its eight orientations (8), 64 bits each."""
    bits = np.stack([imagehash.phash(Image.fromarray(one)).hash.reshape(-1) for one in rotate(grey)])
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def is_flat(grey: Pixels) -> bool:
    """Tell whether a picture is of one colour, so that there is nothing to know it by."""
    return bool(grey.std() < _FLATTEST)


_AHEAD = 256  # images decoded before they are looked at


@dataclass(frozen=True)
class ImageInspection:
    """One image."""

    size: tuple[int, int]
    """Height and width, upright."""
    mode: str
    """How it is stored, such as JPEG RGB; `in memory` where it is in no file."""
    digest: bytes
    """SHA-256 of its pixels; that of a colour image without colours is that of the grey one."""
    grey: Pixels
    """The small grey copy, SIDE SIDE."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was seen of a table's images."""

    rows: Ints
    """M positions in the table of the images that can be read, in increasing order."""
    bad: tuple[BadImage, ...]
    """The others."""
    sizes: Ints
    """M 2: height and width."""
    modes: tuple[str, ...]
    """M ways to store an image."""
    digests: tuple[bytes, ...]
    """M."""
    grey: Pixels
    """M SIDE SIDE."""
    hashes: PerceptualHashes | None
    """M 8; None where near duplicates are not asked for."""
    flat: tuple[bool, ...]
    """M: whether the image is of one colour."""


def inspect(table: SampleTable, *, max_pixels: int, hashed: bool = True) -> Inspection:
    """Look at every image of a table once.

    Args:
        table: The samples.
        max_pixels: Largest image that is decoded.
        hashed: Whether to make perceptual hashes.
    """
    rows: list[int] = []
    bad: list[BadImage] = []
    looks: list[ImageInspection] = []
    codes: list[PerceptualHashes] = []
    for row, seen in enumerate(_looks(table, max_pixels)):
        if isinstance(seen, str):
            bad.append(BadImage(table.ids[row], table.locations[row], seen))
            continue
        rows.append(row)
        looks.append(seen)
        if hashed:
            codes.append(hashes(seen.grey))
    return Inspection(
        rows=np.array(rows, dtype=np.int64),
        bad=tuple(bad),
        sizes=np.array([inspect_image.size for inspect_image in looks], dtype=np.int64).reshape(-1, 2),
        modes=tuple(inspect_image.mode for inspect_image in looks),
        digests=tuple(inspect_image.digest for inspect_image in looks),
        grey=np.array([inspect_image.grey for inspect_image in looks], dtype=np.uint8).reshape(-1, SIDE, SIDE),
        hashes=np.array(codes, dtype=np.uint64).reshape(-1, len(ORIENTATIONS)) if hashed else None,
        flat=tuple(is_flat(inspect_image.grey) for inspect_image in looks),
    )


def _looks(table: SampleTable, max_pixels: int) -> Iterator[ImageInspection | str]:
    """Yield what was seen of each image in the table's order, or why it cannot be read; threads decode ahead."""

    def attempt(location: str) -> ImageInspection | str:
        try:
            return inspect_image(table.source, location, max_pixels=max_pixels)
        except DataError as error:
            return str(error)

    with pillow_limits(max_pixels), ThreadPoolExecutor(available_cores()) as pool:
        for start in range(0, len(table), _AHEAD):
            yield from pool.map(attempt, table.locations[start : start + _AHEAD])


def inspect_image(source: ImageSource, location: str, *, max_pixels: int) -> ImageInspection:
    """Decode one image and note what is told of it.

    Raises:
        DataError: It cannot be read.
    """
    modes: list[str] = []

    def noting(convert: Callable[[Image.Image], Pixels]) -> Callable[[Image.Image], Pixels]:
        def note(image: Image.Image) -> Pixels:
            modes.append(f"{image.format} {image.mode}")
            return convert(image)

        return note

    match source:
        case FolderSource():
            pixels = decode(source.root / location, max_pixels=max_pixels, convert=noting(to_pixels))
        case ZipSource():
            pixels = decode(source.content(location), max_pixels=max_pixels, convert=noting(to_pixels))
        case DepthSource():
            pixels = decode(source.inner.content(location), max_pixels=max_pixels, convert=noting(to_depth))
        case _:
            pixels = source.pixels(location, max_pixels=max_pixels)
    height, width = pixels.shape[:2]
    return ImageInspection((height, width), modes[0] if modes else "in memory", _digest(pixels), downscale(pixels))


def _digest(pixels: Pixels) -> bytes:
    if pixels.shape[2] == 3 and bool((pixels == pixels[..., :1]).all()):
        pixels = pixels[..., :1]
    head = repr(pixels.shape).encode()
    return hashlib.sha256(head + np.ascontiguousarray(pixels).tobytes()).digest()
