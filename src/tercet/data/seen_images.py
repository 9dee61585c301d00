"""Digests of the images that a model has seen in training, and the images of a table that are among them.

An image has a digest of its file and one of its decoded pixels, so that it is recognized under another name, in another
data set, and after encoding it again without loss. N rows of a table.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.core.errors import ModelError
from tercet.data.sources import FILE_DIGEST_BYTES
from tercet.data.table import PIXEL_BYTES, Ints, SampleTable

FILES, PIXELS = "seen", "seen_pixels"
DIGEST_KEYS = (FILES, PIXELS)
"""Keys of the digests in the description of the training data (`card["data"]`); in older bundles only the first."""


def training_digests(table: SampleTable) -> dict[str, str]:
    """Return the packed digests of the training and validation images, by `DIGEST_KEYS`.

    A key is missing if digests are not known, as in runs of version 0.1.0.
    """
    rows = np.concatenate([table.rows_of("train"), table.rows_of("val")])
    digests = {FILES: _pack(table.digests(rows), FILE_DIGEST_BYTES)}
    if table.pixels is not None:
        digests[PIXELS] = _pack((table.pixels[row] for row in rows.tolist()), PIXEL_BYTES)
    return {key: text for key, text in digests.items() if text is not None}


@dataclass(frozen=True)
class SeenImages:
    """Digests of training and validation images; None where a model has none of the kind."""

    files: frozenset[bytes] | None
    pixels: frozenset[bytes] | None

    @classmethod
    def read(cls, trained_on: Mapping[str, Any]) -> SeenImages | None:
        """Read the digests from the description of the training data; None if there are none.

        Raises:
            ModelError: They are damaged.
        """
        if not any(key in trained_on for key in DIGEST_KEYS):
            return None
        try:
            sizes = zip(DIGEST_KEYS, (FILE_DIGEST_BYTES, PIXEL_BYTES), strict=True)
            files, pixels = (_unpack(trained_on[key], size) if key in trained_on else None for key, size in sizes)
        except (TypeError, ValueError) as error:
            raise ModelError(f"the bundle's list of training images cannot be read: {error}") from error
        return cls(files, pixels)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of digests: files, pixels, or both."""
        kinds = (("files", self.files), ("pixels", self.pixels))
        return tuple(name for name, digests in kinds if digests is not None)

    def among(self, table: SampleTable, rows: Ints) -> NDArray[np.bool_]:
        """Return which of some rows are images that the model has seen."""
        mask = np.zeros(len(rows), dtype=np.bool_)
        if self.files is not None:
            mask |= [digest in self.files for digest in table.digests(rows)]
        if self.pixels is not None and table.pixels is not None:
            mask |= [table.pixels[row] in self.pixels for row in rows.tolist()]
        return mask


def _pack(digests: Iterable[bytes], size: int) -> str | None:
    """Return sorted digests as base64; None if one has another length, as in runs of version 0.1.0."""
    unique = sorted(set(digests))
    if any(len(digest) != size for digest in unique):
        return None
    return base64.b64encode(b"".join(unique)).decode("ascii")


def _unpack(text: str, size: int) -> frozenset[bytes]:
    """Invert `_pack`; raises ValueError if the text is not base64 of entire digests."""
    content = base64.b64decode(text, validate=True)
    if len(content) % size:
        raise ValueError(f"{len(content)} bytes are not digests of {size} bytes")
    return frozenset(content[start : start + size] for start in range(0, len(content), size))
