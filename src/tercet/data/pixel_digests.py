"""Digests of decoded images, by which stored features are found.

Shapes: N images.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercet.core.files import atomic_path, file_lock
from tercet.data.image_cache import CachedImages
from tercet.data.table import Ints

DIGEST_BYTES = 16


def pixel_digests(images: CachedImages, rows: Ints, *, file: Path | None = None) -> list[bytes]:
    """Return a digest of the shape and the decoded pixels of some images.

    Args:
        images: The images.
        rows: N rows of them.
        file: Where the digests of all images are stored, so that further processes do not compute them.
    """
    if file is None:
        return [_pixel_digest(images, row) for row in rows.tolist()]
    with ExitStack() as stack:
        with suppress(OSError):  # the folder is read-only: computed by each process
            stack.enter_context(file_lock(file.with_name(f".{file.name}.lock"), busy=lambda owner: None))
        stored = _read_digests(file, len(images))
        if stored is None:
            parts = [_pixel_digest(images, row) for row in range(len(images))]
            stored = np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
            with suppress(OSError), atomic_path(file) as temporary, open(temporary, "wb") as stream:
                np.save(stream, stored, allow_pickle=False)
    return [row.tobytes() for row in stored[rows]]


def _pixel_digest(images: CachedImages, row: int) -> bytes:
    pixels = images.read(row)
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()[:DIGEST_BYTES]


def _read_digests(file: Path, count: int) -> NDArray[np.uint8] | None:
    try:
        digests: NDArray[np.uint8] = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return digests if digests.dtype == np.uint8 and digests.shape == (count, DIGEST_BYTES) else None
