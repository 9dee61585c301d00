"""Files of stored features: safetensors with the features, the digests of their images, and checksums.

Shapes: n images of a file, F features or h x w cells of D features.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from tercet.data.feature_table import Stored
from tercet.data.image_traits import DIGEST_BYTES

_TYPES = {"F16": np.float16, "F32": np.float32}


def pack_features(digests: Sequence[bytes], features: Stored, metadata: Mapping[str, str]) -> bytes:
    """Return the content of a file with the features of n images."""
    table = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
    checks = np.array([checksum(*row) for row in zip(table, features, strict=True)], dtype=np.uint32)
    return save({"features": features, "checksums": checks, "digests": table}, metadata=dict(metadata))


def open_features(path: Path, metadata: Mapping[str, str]) -> tuple[NDArray[np.uint8], NDArray[np.uint32], Stored]:
    """Return the digests, checksums and features of a file as views of the memory-mapped file.

    Raises:
        OSError: The file cannot be read.
        ValueError, KeyError, TypeError: The file is damaged, or has other metadata.
    """
    content = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    if header["__metadata__"] != metadata:
        raise ValueError("the features belong to another encoder or view")

    def tensor(name: str, dtype: Any) -> Any:
        begin, end = header[name]["data_offsets"]
        return content[start + begin : start + end].view(dtype).reshape(header[name]["shape"])

    features = tensor("features", _TYPES[header["features"]["dtype"]])
    return tensor("digests", np.uint8), tensor("checksums", np.uint32), features


def checksum(digest: NDArray[np.uint8], features: Stored) -> int:
    """Return a checksum that shows a flipped bit."""
    return zlib.crc32(features.data, zlib.crc32(digest.data))
