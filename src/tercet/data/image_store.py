"""Images in a run folder: a description of their files, and decoded pixels while trainings share them.

Decoded photos take up ten to thirty times the space of their files, so that only images without files stay decoded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.core.errors import DataError
from tercet.data.decoding import DEFAULT, Decoding
from tercet.data.image_cache import PIXELS, SHAPES, SOURCE, CachedImages, ImageCache, OnDemandImages
from tercet.data.parquet_source import ParquetSource
from tercet.data.sources import DepthSource, FolderSource, ImageSource, ZipSource


def open_cache(folder: Path) -> CachedImages:
    """Open saved images; decoded pixels are memory-mapped, so that processes share them.

    Raises:
        DataError: The files are missing or damaged.
    """
    try:
        shapes = np.load(folder / SHAPES, allow_pickle=False)
        files = _open_files(folder, shapes) if (folder / SOURCE).exists() else None
        if files is not None and not (folder / PIXELS).exists():
            return files
        return ImageCache(np.load(folder / PIXELS, mmap_mode="r", allow_pickle=False), shapes, files)
    except (OSError, ValueError, KeyError, IndexError, EOFError) as error:
        raise DataError(f"{folder} does not hold readable decoded images: {error}; decode them again") from error


def _open_files(folder: Path, shapes: NDArray[np.int64]) -> OnDemandImages:
    document = json.loads((folder / SOURCE).read_text("ascii"))
    return OnDemandImages(
        source_of(document),
        tuple(document["locations"]),
        shapes,
        max_pixels=document["max_pixels"],
        fits_memory=document.get("fits_memory", False),
        digests=tuple(document.get("digests", ())),
    )


@contextmanager
def shared_pixels(folder: Path, images: CachedImages | None = None) -> Iterator[None]:
    """Within the block, saved images that fit in memory are also in a file of decoded pixels, which processes map.

    Args:
        folder: What `save` wrote.
        images: The same images, if they are open.

    Raises:
        DataError: A file of the source is missing or has changed.
    """
    if (folder / SOURCE).exists() and not (folder / PIXELS).exists():
        decoded = (images or open_cache(folder)).in_memory()
        if isinstance(decoded, ImageCache):
            decoded.save_pixels(folder)
        del decoded
    try:
        yield
    finally:
        if (folder / SOURCE).exists():
            with suppress(PermissionError):  # Windows keeps a file that is still mapped
                (folder / PIXELS).unlink(missing_ok=True)


def source_of(description: Mapping[str, Any]) -> ImageSource:
    """Restore a source from its `describe()`.

    Raises:
        DataError: The kind is unknown.
    """
    path, kind = Path(description.get("path", "")), description.get("kind", "")
    decoding = Decoding.from_dict(description["decoding"]) if "decoding" in description else DEFAULT
    if kind == "parquet":
        return ParquetSource(path, description.get("column", ""), decoding)
    inner = {"folder": FolderSource, "zip": ZipSource}.get(kind.removeprefix("depth "))
    if inner is None:
        raise DataError(f"unknown image source '{kind}': expected folder, zip or parquet")
    return DepthSource(inner(path)) if kind.startswith("depth ") else inner(path, decoding)
