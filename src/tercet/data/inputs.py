"""User-supplied images: paths, folders, arrays, PIL images, datasets, data frames. Does not import PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tercet.core.errors import DataError
from tercet.core.files import natural_key
from tercet.core.predictions import Ints
from tercet.data.decode import decode, to_pixels
from tercet.data.image_cache import CachedImages
from tercet.data.read_ahead import BadImage
from tercet.data.readers.columns import IMAGE_COLUMNS
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


ImageLike: TypeAlias = Any
"""A path or folder, array, tensor or PIL image; a sequence, array, Dataset or DataFrame of several; a `SampleTable`."""
_MAX_PIXELS = 100_000_000
_EXPECTED = "a path, a PIL image, or an array H W, H W 1 or H W 3 (or several, N H W 1 or N H W 3)"


class ImageInputs:
    """Images of any kind and size, decoded lazily.

    Args:
        images: Paths, folders, arrays or PIL images, one or many; a Dataset, DataFrame or `SampleTable`.
        skip_bad: Skip unreadable images and list them in `bad`, instead of raising.

    Raises:
        DataError: There are no images, or two have the same name; during iteration: an image is unreadable.
    """

    def __init__(self, images: ImageLike, *, skip_bad: bool = False) -> None:
        self.items = list(named_images(images))
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
            return to_image(image)
        except DataError as error:
            if not self.skip_bad:
                raise DataError(f"image {name}: {error}") from error
            self.bad.append(BadImage(name, name, str(error)))
            return None


def named_images(images: ImageLike) -> Iterator[tuple[str, Any]]:
    """Yield a name, which is the path or the position, and what `to_image` reads, for each image."""
    if isinstance(images, SampleTable):
        for name, location in zip(images.ids, images.locations, strict=True):
            yield name, partial(images.source.pixels, location, max_pixels=_MAX_PIXELS)
        return
    if is_dataset(images):
        yield from ((str(index), partial(dataset_item, images, index)) for index in range(len(images)))
        return
    images = as_sequence(images)
    if isinstance(images, (str, Path, Image.Image)) or (isinstance(images, np.ndarray) and _is_one_image(images)):
        images = [images]
    for index, image in enumerate(images):
        if isinstance(image, (str, Path)):
            for name in table_of_files([image]).ids:
                yield name, Path(name)
        else:
            yield str(index), image


def _is_one_image(array: NDArray[Any]) -> bool:
    """Return whether an array is H W or H W C, or may be meant as C H W, which is refused; N H W are grey images."""
    return array.ndim < 3 or (array.ndim == 3 and bool({array.shape[0], array.shape[2]} & {1, 3}))


def is_dataset(value: Any) -> bool:
    """Return whether a value is a map-style Dataset: it has a length and items, and is not a container of images."""
    if isinstance(value, (str, Sequence, Mapping, np.ndarray)) or _is_tensor(value) or is_frame(value):
        return False
    return hasattr(type(value), "__getitem__") and hasattr(type(value), "__len__") and not hasattr(value, "to_numpy")


def is_frame(value: Any) -> bool:
    """Return whether a value is a DataFrame, of pandas or with its interface."""
    return hasattr(value, "columns") and hasattr(value, "to_csv")


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach") and hasattr(value, "numpy")  # without an import of PyTorch


def image_column(frame: Any, name: str | None = None) -> str:
    """Return the column of a DataFrame with the paths: `name`, else one with a usual name, else the only one.

    Raises:
        DataError: There is none.
    """
    columns = [str(column) for column in frame.columns]
    names = IMAGE_COLUMNS if name is None else (name,)
    matches = [column for alias in names for column in columns if column.casefold() == alias.casefold()]
    if not matches and not (name is None and len(columns) == 1):
        raise DataError(f"the DataFrame has no column {', '.join(names)} with paths (columns: {', '.join(columns)})")
    return (matches or columns)[0]


def as_sequence(images: Any) -> Any:
    """Return tensors as arrays with the channels last, columns as lists, and other values unchanged."""
    if is_frame(images):
        images = images[image_column(images)]
    if _is_tensor(images):
        array = np.asarray(images.detach().cpu())
        return np.moveaxis(array, -3, -1) if array.ndim > 2 else array
    if hasattr(images, "to_numpy"):
        images = images.to_numpy()
    return images.tolist() if isinstance(images, np.ndarray) and images.dtype.kind in "OUT" else images


def dataset_item(dataset: Any, index: int) -> tuple[Any, Any]:
    """Return image and label of an item; the label is None if the items are images only.

    Raises:
        DataError: The dataset raises an exception.
    """
    try:
        item = dataset[index]
    except Exception as error:  # of code that is not ours
        kind = type(error).__name__
        raise DataError(f"item {index} of {type(dataset).__name__} cannot be read: {kind}: {error}") from error
    return (item[0], item[1]) if isinstance(item, (tuple, list)) and len(item) > 1 else (item, None)


def to_image(image: Any) -> NDArray[np.uint8]:
    """Return the pixels H W C of one image: a path, array, tensor, PIL image, or a function that returns one.

    Raises:
        DataError: It is damaged, or not an image.
    """
    if callable(image):
        image = image()
    if isinstance(image, tuple) and len(image) == 2:  # an item of a Dataset
        image = image[0]
    if isinstance(image, (str, Path)):
        return decode(Path(image), max_pixels=_MAX_PIXELS)
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    image = as_sequence(image)
    if isinstance(image, np.ndarray) and image.ndim in (2, 3) and image.size and image.dtype.kind in "fu":
        pixels = image[..., None] if image.ndim == 2 else image
        if pixels.shape[2] in (1, 3):
            # torch does not accept negative strides, which flipped views have
            return np.ascontiguousarray(to_bytes(pixels, "image"))
    kind = f"{image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise DataError(f"a {kind} is not an image: expected {_EXPECTED}, of uint8 or of floats in [0, 1]")


def to_bytes(pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Return pixels as uint8; floats must be multiples of 1/255 in [0, 1], so that nothing is lost.

    Args:
        pixels: Pixels of any shape.
        name: Variable name for the conversion in the message.

    Raises:
        DataError: They are of another type, or would change; the message says how to convert them.
    """
    if pixels.dtype == np.uint8:
        return pixels
    kind = f"{name} of type {pixels.dtype}"
    if pixels.dtype.kind != "f":
        raise DataError(f"{kind}, expected uint8, or floats in [0, 1]: convert with {name}.astype('uint8')")
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.size else (0.0, 0.0)
    if not np.isfinite([low, high]).all():
        raise DataError(f"{kind} has values that are not finite")
    levels = (pixels * 255).round()
    if low >= 0 and high <= 1 and np.abs(levels - pixels * 255).max(initial=0) < 0.1:  # float16 rounds by 0.06
        return np.asarray(levels, dtype=np.uint8)
    scale = "255" if high <= 1 else f"(255 / {name}.max())"
    shift = name if low >= 0 else f"({name} - {name}.min())"
    conversion = f"({shift} * {scale}).round().astype('uint8')"
    raise DataError(f"{kind} with values from {low:.4g} to {high:.4g}, expected uint8: convert with {conversion}")


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
