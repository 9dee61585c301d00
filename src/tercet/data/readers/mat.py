"""The MAT files of SVHN's cropped digits (MATLAB 5.0): `X` 32 x 32 x 3 x N and `y` N x 1.

SciPy reads them: it builds arrays only and runs nothing. What the variables say of themselves is checked before their
values are read, so that a lie costs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat, whosmat

from tercet.data.images import Pixels, open_regular
from tercet.data.samples import Ints
from tercet.ground.errors import DataError, MemoryExhausted

_HEADER = 128  # bytes: a text, a version, and a mark of the byte order
_VERSIONS = (b"\x00\x01IM", b"\x01\x00MI")
_KINDS = ("uint8", "double", "single", "int8", "int16", "uint16", "int32", "uint32")
_DIGITS = 10


def count_digits(path: Path) -> int:
    """Return how many images a file states.

    Raises:
        DataError: It is no such file.
    """
    with open_regular(path) as stream:
        head = stream.read(_HEADER)
    if len(head) < _HEADER or head[-4:] not in _VERSIONS:
        raise DataError(f"{path} is not a MATLAB 5.0 file: expected the official one of SVHN's cropped digits")
    found = _guarded(path, whosmat, str(path), appendmat=False)
    named = {name: (tuple(shape), kind) for name, shape, kind in found if name in ("X", "y")}
    if len(named) != 2 or sum(name in named for name, _, _ in found) != 2:
        raise DataError(f"{path} does not hold the variables X and y once each")
    (shape, kind), (label_shape, label_kind) = named["X"], named["y"]
    if kind != "uint8" or len(shape) != 4 or shape[:3] != (32, 32, 3) or shape[3] < 1:
        raise DataError(f"{path}: X is {_told(shape, kind)}, expected 32 x 32 x 3 x N of uint8")
    if label_shape != (shape[3], 1) or label_kind not in _KINDS:
        raise DataError(f"{path}: y is {_told(label_shape, label_kind)}, expected {shape[3]} x 1 numbers")
    return int(shape[3])


def read_digits(path: Path, images: Pixels) -> Ints:
    """Read a file's images into an array (N 32 32 3), and return its labels (N): 10 in the file is the digit 0.

    Args:
        path: The file.
        images: Filled; as long as `count_digits` says.

    Raises:
        DataError: It is damaged, or not what it says it is.
    """
    content = _guarded(path, loadmat, str(path), variable_names=("X", "y"), appendmat=False)
    pixels, labels = content.get("X"), content.get("y")
    expected = (*images.shape[1:], len(images))
    if not isinstance(pixels, np.ndarray) or pixels.shape != expected or pixels.dtype != np.uint8:
        raise DataError(f"{path} is damaged: X is not what its header states; get it again")
    if not isinstance(labels, np.ndarray) or labels.shape != (len(images), 1) or labels.dtype.kind not in "iuf":
        raise DataError(f"{path} is damaged: y is not what its header states; get it again")
    digits = labels[:, 0]
    if not np.isin(digits, np.arange(1, _DIGITS + 1)).all():
        raise DataError(f"{path} holds labels other than 1 to {_DIGITS}; get it again")
    images[...] = pixels.transpose(3, 0, 1, 2)
    return digits.astype(np.int64) % _DIGITS


def _guarded(path: Path, function: Any, *arguments: Any, **options: Any) -> Any:
    """Call a reader of SciPy, which meets hostile bytes with every kind of exception."""
    try:
        return function(*arguments, **options)
    except MemoryError as error:
        raise MemoryExhausted(f"no memory to read {path}") from error
    except Exception as error:
        raise DataError(f"{path} is damaged: {error or type(error).__name__}; get it again") from error


def _told(shape: tuple[int, ...], kind: str) -> str:
    return f"{' x '.join(map(str, shape)) or 'a single value'} of {kind}"
