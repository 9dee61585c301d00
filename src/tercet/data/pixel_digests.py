"""Digests of decoded images: they find stored features, and identical images.

Shapes: N images, H x W pixels, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercet.core.files import atomic_path, file_lock
from tercet.data.image_cache import CachedImages
from tercet.data.pixel_values import Pixels
from tercet.data.table import Ints

DIGEST_BYTES = 32
_POLLED = 64  # images between two calls of `poll`


def pixel_digest(pixels: Pixels) -> bytes:
    """Return the SHA-256 of the shape and the pixels H W C of an image; the same for grey images stored as RGB."""
    if pixels.shape[2] == 3 and _is_grey(pixels[:1]) and _is_grey(pixels):
        pixels = pixels[..., :1]
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _is_grey(pixels: Pixels) -> bool:
    return bool((pixels == pixels[..., :1]).all())


def pixel_digests(
    images: CachedImages, rows: Ints, *, file: Path | None = None, poll: Callable[[], None] = lambda: None
) -> list[bytes]:
    """Return the digests of some images.

    Args:
        images: The images.
        rows: N rows of them.
        file: Where the digests of all images are stored, so that further processes do not compute them; without
            effect if its folder does not exist.
        poll: Called repeatedly; it may raise an exception to stop.
    """
    if file is None or not file.parent.is_dir():
        return list(_compute(images, rows.tolist(), poll))
    with ExitStack() as stack:
        with suppress(OSError):  # a folder that is not writable: each process computes them
            stack.enter_context(file_lock(file.with_name(f".{file.name}.lock"), busy=lambda owner: None, waiting=poll))
        stored = _read(file, len(images))
        if stored is None:
            parts = _compute(images, range(len(images)), poll)
            stored = np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
            with suppress(OSError), atomic_path(file) as temporary, open(temporary, "wb") as stream:
                np.save(stream, stored, allow_pickle=False)
    return [row.tobytes() for row in stored[rows]]


def _compute(images: CachedImages, rows: Iterable[int], poll: Callable[[], None]) -> Iterator[bytes]:
    for number, row in enumerate(rows):
        if number % _POLLED == 0:
            poll()
        yield pixel_digest(images.read(row))


def _read(file: Path, count: int) -> NDArray[np.uint8] | None:
    try:
        digests: NDArray[np.uint8] = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return digests if digests.dtype == np.uint8 and digests.shape == (count, DIGEST_BYTES) else None
