"""The IDX format of the MNIST family, read within its bounds.

A file is two zero bytes, a type code, the number of dimensions, one big-endian 32-bit size a dimension, and the values.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from tercet.data.images import Pixels, open_regular
from tercet.ground.errors import DataError

_UNSIGNED_BYTE = 0x08
_MAX_DIMENSIONS = 4
_MAX_BYTES = 1 << 32
_PART = 1 << 24  # bytes read at a time
_GZIP = b"\x1f\x8b"


def read_idx(path: Path) -> Pixels:
    """Read an IDX file of unsigned bytes, gzipped or plain (recognised by content).

    Returns:
        The values in the shape that the file states.

    Raises:
        DataError: The file is absent, of another format or type, or shorter or longer than it says.
    """
    with open_regular(path) as stream:
        packed = stream.read(2) == _GZIP
        stream.seek(0)
        try:
            if not packed:
                return parse_idx(stream, name=str(path))
            with gzip.GzipFile(fileobj=stream) as unpacked:
                return parse_idx(cast(BinaryIO, unpacked), name=str(path))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is damaged: {error}; get it again") from error


def parse_idx(stream: BinaryIO, *, name: str) -> Pixels:
    """Read IDX values from a stream; no more is read than the header allows.

    Raises:
        DataError: As `read_idx`.
    """
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0":
        raise DataError(f"{name} is not an IDX file: it begins with {head.hex() or 'nothing'}, expected 0000")
    kind, dimensions = head[2], head[3]
    if kind != _UNSIGNED_BYTE:
        raise DataError(f"{name} holds values of type 0x{kind:02x}, expected 0x08 (unsigned bytes)")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise DataError(f"{name} states {dimensions} dimensions, expected 1 to {_MAX_DIMENSIONS}")
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise DataError(f"{name} ends within its header")
    shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
    expected = math.prod(shape)
    if expected > _MAX_BYTES:
        raise DataError(f"{name} states {expected} values, more than {_MAX_BYTES}")
    values = bytearray()  # grown as bytes arrive: a lie about the size costs nothing
    while len(values) < expected and (part := stream.read(min(_PART, expected - len(values)))):
        values += part
    if len(values) < expected or stream.read(1):
        found = f"only {len(values)}" if len(values) < expected else "more"
        raise DataError(f"{name} states {expected} values but holds {found}; get it again")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)
