"""Features of images, computed once for each encoder and image, in files that all commands of a user share.

Shapes: N images, F features.
"""

from __future__ import annotations

import hashlib
import os
import uuid
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tercet.core.files import write_bytes
from tercet.data.image_cache import CachedImages
from tercet.data.table import Ints

Features = NDArray[np.float32]
DIGEST_BYTES = 16
MAX_BYTES = 4_000_000_000
"""Size of all stored features; beyond it, the files that were unused for longest are removed."""


def default_folder() -> Path:
    """Return `features` in the folder that TERCET_CACHE names, by default `.cache/tercet` of the user."""
    return Path(os.environ.get("TERCET_CACHE") or Path.home() / ".cache" / "tercet") / "features"


def pixel_digests(images: CachedImages, rows: Ints) -> list[bytes]:
    """Return a digest of the shape and the decoded pixels of some images."""
    digests = []
    for row in rows.tolist():
        pixels = images.read(row)
        digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=DIGEST_BYTES)
        digest.update(np.ascontiguousarray(pixels).data)
        digests.append(digest.digest())
    return digests


def _checksum(digests: NDArray[np.uint8], features: Features) -> str:
    """Return a checksum that shows a flipped bit."""
    return str(zlib.crc32(features.data, zlib.crc32(digests.data)))


@dataclass
class FeatureCache:
    """Features by encoder and image, with counters for the metrics of a run."""

    folder: Path = field(default_factory=default_folder)
    """One folder per encoder, with one file per computation."""
    computed: int = 0
    """Features that were computed."""
    reused: int = 0
    """Features that were read."""

    def features(self, key: str, digests: Sequence[bytes], compute: Callable[[Ints], Features]) -> Features:
        """Return the features N F of some images; those that are not stored are computed and stored.

        A file that is damaged or belongs to another key is ignored, and a full disk is only warned of: then the
        features are computed again next time.

        Args:
            key: SHA-256 of all that determines the features of an image: weights, network, input spec and view.
            digests: N digests of the images; equal images are computed once.
            compute: From positions in `digests` to their features.
        """
        stored = self._read(key, set(digests))
        first = {digest: position for position, digest in reversed(list(enumerate(digests)))}
        missing = [position for digest, position in first.items() if digest not in stored]
        missing.sort()
        self.computed += len(missing)
        self.reused += len(digests) - len(missing)
        if missing:
            added = np.ascontiguousarray(compute(np.array(missing)), dtype=np.float32)
            new = [digests[position] for position in missing]
            self._write(key, new, added)
            stored |= dict(zip(new, added, strict=True))
        return np.stack([stored[digest] for digest in digests])

    def _read(self, key: str, missing: set[bytes]) -> dict[bytes, Features]:
        stored: dict[bytes, Features] = {}
        for path in sorted((self.folder / key).glob("*.safetensors")):
            try:
                with safe_open(path, framework="numpy") as file:
                    metadata = file.metadata() or {}
                    digests, values = file.get_tensor("digests"), file.get_tensor("features")
                if metadata.get("key") != key or metadata.get("crc32") != _checksum(digests, values):
                    continue
                names = [row.tobytes() for row in digests]
                stored |= {name: row for name, row in zip(names, values, strict=True) if name in missing}
                os.utime(path)
            except (OSError, SafetensorError, ValueError, KeyError):
                continue
        return stored

    def _write(self, key: str, digests: Sequence[bytes], features: Features) -> None:
        names = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        metadata = {"key": key, "crc32": _checksum(names, features)}
        content = save({"digests": names, "features": features}, metadata=metadata)
        try:
            (self.folder / key).mkdir(parents=True, exist_ok=True)
            write_bytes(self.folder / key / f"{uuid.uuid4().hex}.safetensors", content)
            self._remove_oldest()
        except OSError as error:
            warnings.warn(f"features are not stored in {self.folder}: {error}", stacklevel=2)

    def _remove_oldest(self) -> None:
        files = sorted(self.folder.glob("*/*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for path in files:
            total += path.stat().st_size
            if total > MAX_BYTES:
                path.unlink(missing_ok=True)
