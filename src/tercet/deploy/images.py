"""Images as people hand them over: paths, folders, arrays, PIL images, in any sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tercet.data.images import IMAGE_SUFFIXES, decode
from tercet.data.loading import prepare
from tercet.ground.errors import DataError
from tercet.ground.files import natural_key
from tercet.records.contracts import Batch, InputSpec

ImageLike = str | Path | NDArray[np.uint8] | Image.Image
_MAX_PIXELS = 100_000_000


def list_images(path: Path) -> list[Path]:
    """Return a file itself, or every image below a folder in natural order, hidden ones and links left out.

    Raises:
        DataError: The path is absent, or the folder holds no image.
    """
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"there is no file or folder {path}")
        return [path]
    below = (item.relative_to(path) for item in path.rglob("*"))
    kept = [
        path / item
        for item in sorted(below, key=lambda item: natural_key(str(item)))
        if item.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in item.parts)
        and (path / item).is_file()
        and not (path / item).is_symlink()
    ]
    if not kept:
        raise DataError(f"the folder {path} holds no images")
    return kept


class LooseImages:
    """Images of any kind and size as batches: one tensor B C H W a spec, decoded when they are asked for.

    Args:
        images: Paths, folders, uint8 arrays or PIL images; one or many.
        specs: What each network wants to be shown.
        batch_size: Images a batch.

    Raises:
        DataError: There is no image, or two have the same name; while iterating: an image cannot be read.
    """

    def __init__(self, images: ImageLike | Sequence[ImageLike], specs: Sequence[InputSpec], *, batch_size: int) -> None:
        self.items = list(_named(images))
        self.specs, self.batch_size = tuple(specs), batch_size
        names = [name for name, _ in self.items]
        if not names:
            raise DataError("there are no images to classify")
        if len(set(names)) != len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise DataError(f"the image {twice} was given twice")

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the images in the order they were given."""
        for first in range(start * self.batch_size, len(self.items), self.batch_size):
            part = self.items[first : first + self.batch_size]
            pixels = [_pixels(name, image) for name, image in part]
            views = tuple(torch.stack([prepare(image, spec) for image in pixels]) for spec in self.specs)
            yield Batch(views, None, tuple(name for name, _ in part))


def _named(images: ImageLike | Sequence[ImageLike]) -> Iterator[tuple[str, Any]]:
    if isinstance(images, (str, Path, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4):
        images = [images]
    for index, image in enumerate(images):
        if isinstance(image, (str, Path)):
            for path in list_images(Path(image)):
                yield str(path), path
        else:
            yield str(index), image


def _pixels(name: str, image: Any) -> NDArray[np.uint8]:
    try:
        if isinstance(image, Path):
            return decode(image, max_pixels=_MAX_PIXELS)
        if isinstance(image, Image.Image):
            return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
            return image.reshape(*image.shape[:2], -1)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    shape = f"{image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise DataError(f"image {name} is a {shape}; expected a path, a PIL image, or uint8 H W, H W 1 or H W 3")
