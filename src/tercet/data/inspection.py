"""Every image of a table looked at once: whether it can be read, its size and mode, and what tells copies.

The pixels themselves are not kept. N images of the table, M of them readable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tercet.data.images import Pixels, decode, guard, to_depth, to_pixels
from tercet.data.perceptual import ORIENTATIONS, SIDE, Hashes, hashes, is_flat, shrink
from tercet.data.samples import Ints, SampleTable
from tercet.data.sources import DepthSource, FolderSource, ImageSource, ZipSource
from tercet.data.store import BadImage
from tercet.ground.cores import available_cores
from tercet.ground.errors import DataError

_AHEAD = 256  # images decoded before they are looked at


@dataclass(frozen=True)
class Look:
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
    hashes: Hashes | None
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
    looks: list[Look] = []
    codes: list[Hashes] = []
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
        sizes=np.array([look.size for look in looks], dtype=np.int64).reshape(-1, 2),
        modes=tuple(look.mode for look in looks),
        digests=tuple(look.digest for look in looks),
        grey=np.array([look.grey for look in looks], dtype=np.uint8).reshape(-1, SIDE, SIDE),
        hashes=np.array(codes, dtype=np.uint64).reshape(-1, len(ORIENTATIONS)) if hashed else None,
        flat=tuple(is_flat(look.grey) for look in looks),
    )


def _looks(table: SampleTable, max_pixels: int) -> Iterator[Look | str]:
    """Yield what was seen of each image in the table's order, or why it cannot be read; threads decode ahead."""

    def attempt(location: str) -> Look | str:
        try:
            return look(table.source, location, max_pixels=max_pixels)
        except DataError as error:
            return str(error)

    with guard(max_pixels), ThreadPoolExecutor(available_cores()) as pool:
        for start in range(0, len(table), _AHEAD):
            yield from pool.map(attempt, table.locations[start : start + _AHEAD])


def look(source: ImageSource, location: str, *, max_pixels: int) -> Look:
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
    return Look((height, width), modes[0] if modes else "in memory", _digest(pixels), shrink(pixels))


def _digest(pixels: Pixels) -> bytes:
    if pixels.shape[2] == 3 and bool((pixels == pixels[..., :1]).all()):
        pixels = pixels[..., :1]
    head = repr(pixels.shape).encode()
    return hashlib.sha256(head + np.ascontiguousarray(pixels).tobytes()).digest()
