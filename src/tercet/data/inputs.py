"""User-supplied images: paths, folders, arrays, PIL images. Does not import PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tercet.core.errors import DataError
from tercet.core.files import natural_key
from tercet.core.predictions import Ints
from tercet.data.decode import decode, to_pixels
from tercet.data.image_cache import BadImage, CachedImages
from tercet.data.readers.scan import is_image, scan_folder, summarise_skipped
from tercet.data.sources import FolderSource
from tercet.data.table import UNLABELLED, SampleTable


def table_of_files(paths: Sequence[str | Path]) -> SampleTable:
    """List images to classify, unlabelled: files, and all images below folders.

    Raises:
        DataError: A path does not exist, or there are no images.
    """
    locations: list[str] = []
    notes: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            listing = scan_folder(path)
            names = sorted(filter(is_image, listing.files), key=lambda name: (natural_key(name), name))
            locations += [str(path / name) for name in names]
            others = [(name, "no image extension") for name in listing.files if not is_image(name)]
            notes += summarise_skipped([*listing.skipped, *others])
        elif path.exists():
            locations.append(str(path))
        else:
            raise DataError(f"no file or folder at {path}")
    unique = tuple(dict.fromkeys(locations))
    if not unique:
        raise DataError(f"no images under {', '.join(map(str, paths))}")
    labels = np.full(len(unique), UNLABELLED)
    return SampleTable("images", unique, unique, labels, (), FolderSource(Path(".")), notes=tuple(notes))


ImageLike = str | Path | NDArray[np.uint8] | Image.Image
_MAX_PIXELS = 100_000_000


class ImageInputs:
    """Images of any kind and size, decoded lazily.

    Args:
        images: Paths, folders, uint8 arrays or PIL images; one or many.
        skip_bad: Skip unreadable images and list them in `bad`, instead of raising.

    Raises:
        DataError: There are no images, or two have the same name; during iteration: an image is unreadable.
    """

    def __init__(self, images: ImageLike | Sequence[ImageLike], *, skip_bad: bool = False) -> None:
        self.items = list(_named(images))
        self.bad: list[BadImage] = []
        self.skip_bad = skip_bad
        names = [name for name, _ in self.items]
        if not names:
            raise DataError("there are no images to classify")
        if len(set(names)) != len(names):
            duplicate = next(name for name, count in Counter(names).items() if count > 1)
            raise DataError(f"the image {duplicate} was given twice")

    @classmethod
    def of(cls, images: AnyImages) -> ImageInputs:
        """Return `images` if they are `ImageInputs` already."""
        return images if isinstance(images, ImageInputs) else cls(images)

    def pixels(self, start: int = 0) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield each image's name and its pixels H W C at the original size, from one on; refills `bad`."""
        self.bad = []
        for name, image in self.items[start:]:
            pixels = self._read(name, image)
            if pixels is not None:
                yield name, pixels

    def _read(self, name: str, image: Any) -> NDArray[np.uint8] | None:
        try:
            return _pixels(image)
        except DataError as error:
            if not self.skip_bad:
                raise DataError(f"image {name}: {error}") from error
            self.bad.append(BadImage(name, name, str(error)))
            return None


def _named(images: ImageLike | Sequence[ImageLike]) -> Iterator[tuple[str, Any]]:
    if isinstance(images, (str, Path, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4):
        images = [images]
    for index, image in enumerate(images):
        if isinstance(image, (str, Path)):
            for name in table_of_files([image]).ids:
                yield name, Path(name)
        else:
            yield str(index), image


def _pixels(image: Any) -> NDArray[np.uint8]:
    if isinstance(image, Path):
        return decode(image, max_pixels=_MAX_PIXELS)
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3) and image.size:
        pixels = image[..., None] if image.ndim == 2 else image
        if pixels.shape[2] in (1, 3):
            return np.ascontiguousarray(pixels)  # torch does not accept negative strides, which flipped views have
    kind = f"{image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise DataError(f"a {kind} is not an image: expected a path, a PIL image, or uint8 H W, H W 1 or H W 3")


def _from_pillow(image: Image.Image) -> NDArray[np.uint8]:
    """Convert a PIL image, whose file Pillow may read only now, with any exception type for damaged files."""
    try:
        pixels = to_pixels(image)
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"truncated or damaged: {error}") from error
    if not pixels.size:
        raise DataError(f"the image has {image.width} x {image.height} pixels")
    return pixels


AnyImages = ImageLike | Sequence[ImageLike] | ImageInputs


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """N images of a data set, with their labels as numbered by a model."""

    images: CachedImages
    rows: Ints
    """N positions in `images`."""
    ids: tuple[str, ...]
    labels: Ints
    """N class indices, or N K label sets of 0 and 1."""
    num_workers: int = 0
    """Decoding processes, if images are decoded on demand."""

    def pixels(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield each image's name and its pixels H W C at the original size."""
        return ((name, np.asarray(self.images.read(int(row)))) for name, row in zip(self.ids, self.rows, strict=True))
