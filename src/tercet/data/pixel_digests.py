"""Digests of decoded images: they find stored features, and identical images.

Shapes: N images, H x W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercet.core.files import atomic_path, file_lock
from tercet.data.image_cache import CachedImages
from tercet.data.image_traits import DIGEST_BYTES, pixel_digest
from tercet.data.table import Ints

_POLLED = 64  # images between two calls of `poll`


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
    if images.traits is not None:
        return [images.traits.digests[row] for row in rows.tolist()]
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
