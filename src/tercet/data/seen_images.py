"""The images that a model was trained on, as one line of text: the digests of their stored bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterable

import numpy as np

from tercet.data.sources import DIGEST_BYTES
from tercet.data.table import SampleTable


def pack_digests(digests: Iterable[bytes]) -> str | None:
    """Return digests as base64, sorted; None if one of them has another length, as in runs of version 0.1.0."""
    unique = sorted(set(digests))
    if any(len(digest) != DIGEST_BYTES for digest in unique):
        return None
    return base64.b64encode(b"".join(unique)).decode("ascii")


def unpack_digests(text: str) -> frozenset[bytes]:
    """Return what `pack_digests` packed.

    Raises:
        ValueError: It is not base64, or holds part of a digest.
    """
    content = base64.b64decode(text, validate=True)
    if len(content) % DIGEST_BYTES:
        raise ValueError(f"{len(content)} bytes are not digests of {DIGEST_BYTES} bytes")
    return frozenset(content[start : start + DIGEST_BYTES] for start in range(0, len(content), DIGEST_BYTES))


def training_digests(table: SampleTable) -> str | None:
    """Return the packed digests of the rows that train and validate."""
    return pack_digests(table.digests(np.concatenate([table.rows_of("train"), table.rows_of("val")])))
