"""Decoded images: in one flat buffer that processes can share, or decoded on demand if memory is short.

Shapes: N images, B images of a batch, H x W pixels, C channels.
"""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.core.files import atomic_path, write_text
from tercet.core.resource_limits import available_cores
from tercet.data.decode import pillow_limits
from tercet.data.decoding import Decoding
from tercet.data.image_traits import DIGEST_BYTES, ImageTraits, decode_with_traits, searches_near, traits_of
from tercet.data.memory_sources import ArraySource
from tercet.data.pixel_values import Pixels
from tercet.data.read_ahead import BadImage, read_ahead, require_readable
from tercet.data.sources import ImageSource, with_decoding
from tercet.data.table import Ints, SampleTable

PIXELS, SHAPES, SOURCE, DIGESTS = "pixels.npy", "shapes.npy", "source.json", "digests.npy"
"""Files of saved images; the digests are those of the pixels."""


class CachedImages(ABC):
    """Images of a table by row, all with the same number of channels.

    Args:
        shapes: N 3: height, width and channels of each image.
    """

    on_demand: ClassVar[bool]
    """Whether `read` decodes, so that worker processes help."""
    notes: tuple[str, ...] = ()
    """Sentences for the report about unusual values."""

    def __init__(self, shapes: NDArray[np.int64]) -> None:
        self._shapes = shapes
        self.channels = int(shapes[0, 2]) if len(shapes) else 1
        """C: 3 if any image has colour, else 1."""
        self.uniform_shape = _uniform(shapes)
        """(H, W, C) of every image, or None if they differ."""
        self.traits: ImageTraits | None = None
        """Digests and downscaled images, where `decode` computed them."""

    def __len__(self) -> int:
        return len(self._shapes)

    @abstractmethod
    def read(self, row: int) -> Pixels:
        """Return one image, H W C."""

    def in_memory(self) -> CachedImages:
        """Return the same images, decoded if they fit in memory."""
        return self

    def gather(self, rows: Ints) -> Pixels:
        """Return some images, B H W C.

        Raises:
            ValueError: The images differ in size.
        """
        if self.uniform_shape is None:
            raise ValueError("cannot gather images of different sizes: read them one by one")
        return np.stack([self.read(int(row)) for row in rows])

    def save(self, folder: Path) -> None:
        """Write the files that `open_cache` reads in other processes, each atomically."""
        _save_array(folder / SHAPES, self._shapes)
        if self.traits is not None:
            digests = np.frombuffer(b"".join(self.traits.digests), dtype=np.uint8)
            _save_array(folder / DIGESTS, digests.reshape(-1, DIGEST_BYTES))


class ImageCache(CachedImages):
    """Decoded images in memory, or in memory-mapped files.

    Args:
        pixels: All pixels, one image after the other.
        shapes: N 3: height, width and channels of each image.
        files: The files that the images were decoded from; None for images that exist in memory only.
    """

    on_demand = False

    def __init__(self, pixels: Pixels, shapes: NDArray[np.int64], files: OnDemandImages | None = None) -> None:
        super().__init__(shapes)
        self._pixels, self._files = pixels, files
        self._offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))]).astype(np.int64)
        if self._offsets[-1] != pixels.size or (len(shapes) and (shapes[:, 2] != self.channels).any()):
            raise DataError(f"{pixels.size} bytes of pixels do not match {len(shapes)} shapes")

    @staticmethod
    def decode(table: SampleTable, config: DataConfig) -> tuple[CachedImages, list[BadImage]]:
        """Decode every image of a table once.

        Returns:
            The good images in the table's order (in memory if they fit `memory_budget`, else decoded on demand), and
            the bad images: remove their rows from the table so that its rows match the images.

        Raises:
            DataError: More images than `max_bad` tolerates, or all of them, are bad.
        """
        near = searches_near(config, len(table))
        if isinstance(table.source, ArraySource) and isinstance(table.source.images, np.ndarray):
            cache = _from_array(table.source.images, np.array(table.locations, dtype=np.int64))
            cache.traits = traits_of(map(cache.read, range(len(cache))), near=near)
            return cache, []
        good: list[int] = []
        traits: list[ImageTraits] = []
        bad: list[BadImage] = []
        decoded: list[Pixels] | None = []
        shapes: list[tuple[int, ...]] = []
        area, channels = 0, 1
        decoding = Decoding.of(config)
        source = with_decoding(table.source, decoding)
        decode = decode_with_traits(source, max_pixels=config.max_pixels, near=near)
        for row, result in enumerate(read_ahead(decode, table.locations, max_pixels=config.max_pixels)):
            if isinstance(result, str):
                bad.append(BadImage(table.ids[row], table.locations[row], result))
                continue
            image, trait = result
            good.append(row)
            traits.append(trait)
            shapes.append(image.shape)
            area, channels = area + image.shape[0] * image.shape[1], max(channels, image.shape[2])
            if area * channels > config.memory_budget:
                decoded = None  # too large for memory: further images are only checked
            if decoded is not None:
                decoded.append(image)
        require_readable(bad, len(table), config)
        notes = tuple(f"{table.name}: {text}" for text in decoding.warnings())
        for text in notes:
            warnings.warn(text, stacklevel=2)
        sizes = np.array(shapes, dtype=np.int64).reshape(-1, 3)
        sizes[:, 2] = channels
        locations = tuple(table.locations[row] for row in good)
        fits = decoded is not None
        images: CachedImages
        images = files = OnDemandImages(source, locations, sizes, max_pixels=config.max_pixels, fits_memory=fits)
        if decoded is not None:
            is_array = isinstance(table.source, ArraySource)
            images = ImageCache(_flatten(decoded, sizes), sizes, None if is_array else files)
        images.notes, images.traits = notes, ImageTraits.concatenate(traits)
        return images, bad

    def read(self, row: int) -> Pixels:
        """Return one image, H W C (a view)."""
        return self._pixels[self._offsets[row] : self._offsets[row + 1]].reshape(self._shapes[row])

    def gather(self, rows: Ints) -> Pixels:
        """Return some images of the same size, B H W C (a copy)."""
        if self.uniform_shape is None:
            return super().gather(rows)
        return np.asarray(self._pixels.reshape(len(self), *self.uniform_shape).take(rows, axis=0))

    def save(self, folder: Path) -> None:
        """Write shapes and a description of the files; of images that exist in memory only, shapes and pixels."""
        if self._files is not None:
            self._files.traits = self.traits
            self._files.save(folder)
            return
        self.save_pixels(folder)
        super().save(folder)

    def save_pixels(self, folder: Path) -> None:
        """Write the buffer as a `.npy` file."""
        _save_array(folder / PIXELS, self._pixels)


class OnDemandImages(CachedImages):
    """Images that are decoded on every read, after all were checked once.

    Args:
        source: Where the images are.
        locations: Location of each image within the source.
        shapes: N 3: height, width and channels of each image.
        max_pixels: Largest number of pixels of an image.
        fits_memory: Whether all decoded images fit in the memory budget.
        digests: Digests of the stored bytes when the run began (default: those of today).
    """

    on_demand = True

    def __init__(
        self,
        source: ImageSource,
        locations: tuple[str, ...],
        shapes: NDArray[np.int64],
        *,
        max_pixels: int,
        fits_memory: bool = False,
        digests: tuple[str, ...] = (),
    ) -> None:
        super().__init__(shapes)
        self._source, self._locations, self._max_pixels = source, locations, max_pixels
        self._fits_memory, self._digests = fits_memory, digests

    def read(self, row: int) -> Pixels:
        """Return one image, H W C.

        Raises:
            DataError: The file is missing or has changed since the cache was created.
        """
        location = self._locations[row]
        try:
            image = self._source.pixels(location, max_pixels=self._max_pixels)
            changed = bool(self._digests) and self._source.digest(location).hex() != self._digests[row]
        except DataError as error:
            raise DataError(f"{location} can no longer be read: {error}") from error
        if changed or image.shape[:2] != tuple(self._shapes[row, :2]) or image.shape[2] > self.channels:
            raise DataError(f"{location} has changed since the start of the run: restore it or start a new run")
        return np.broadcast_to(image, tuple(self._shapes[row]))

    def in_memory(self) -> CachedImages:
        """Return the same images, decoded if they fit in memory.

        Raises:
            DataError: A file is missing or has changed.
        """
        if not self._fits_memory:
            return self
        with pillow_limits(self._max_pixels), ThreadPoolExecutor(available_cores()) as pool:
            pixels = _flatten(list(pool.map(self.read, range(len(self)))), self._shapes)
        return ImageCache(pixels, self._shapes, self)

    def save(self, folder: Path) -> None:
        """Write locations and digests of the images, for other processes on this machine."""
        super().save(folder)
        digests = self._digests or [self._source.digest(location).hex() for location in self._locations]
        document = {
            **self._source.describe(),
            "locations": self._locations,
            "digests": digests,
            "max_pixels": self._max_pixels,
            "fits_memory": self._fits_memory,
        }
        write_text(folder / SOURCE, json.dumps(document))  # ASCII: names with undecodable bytes survive


def _uniform(shapes: NDArray[np.int64]) -> tuple[int, int, int] | None:
    if not len(shapes) or (shapes != shapes[0]).any():
        return None
    height, width, channels = (int(size) for size in shapes[0])
    return height, width, channels


def _from_array(images: Pixels, rows: Ints) -> ImageCache:
    """Wrap rows of an array, without a copy if they are all rows in order."""
    if len(rows) != len(images) or (rows != np.arange(len(images))).any():
        images = images.take(rows, axis=0)
    shapes = np.tile(np.array(images.shape[1:], dtype=np.int64), (len(images), 1))
    return ImageCache(np.ascontiguousarray(images).reshape(-1), shapes)


def _flatten(images: list[Pixels], shapes: NDArray[np.int64]) -> Pixels:
    """Copy images into one buffer, grey ones broadcast to the common channels; empties the list to free memory."""
    buffer = np.empty(int(shapes.prod(axis=1).sum()), dtype=np.uint8)
    end = len(buffer)
    while images:
        shape = tuple(shapes[len(images) - 1])
        start = end - int(np.prod(shape))
        buffer[start:end].reshape(shape)[...] = images.pop()
        end = start
    return buffer


def _save_array(path: Path, array: NDArray[np.generic]) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array, allow_pickle=False)
