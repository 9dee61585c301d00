"""Tiny files in the exact layout of the official ones, for the tests of named data sets."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def pickled_batch(values: Mapping[str, object]) -> bytes:
    """A dictionary as Python 2 pickled the batches of CIFAR (protocol 2): texts, lists of numbers, arrays of bytes."""
    body = b"".join(_text(key) + _value(value) for key, value in values.items())
    return b"\x80\x02}q\x00(" + body + b"u."


def _text(value: str) -> bytes:
    return b"U" + bytes([len(value)]) + value.encode("latin-1") + b"q\x01"


def _number(value: int) -> bytes:
    if value < 256:
        return b"K" + bytes([value])
    return b"M" + struct.pack("<H", value) if value < 65_536 else b"J" + struct.pack("<i", value)


def _value(value: object) -> bytes:
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, list):
        return b"]q\x02(" + b"".join(_text(item) if isinstance(item, str) else _number(item) for item in value) + b"e"
    return _text(str(value))


def _array(values: np.ndarray) -> bytes:
    shape = b"".join(_number(size) for size in values.shape) + b"\x86"
    kind = b"cnumpy\ndtype\nq\x03U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    content = b"T" + struct.pack("<i", values.size) + values.tobytes()
    call = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return call + b"(K\x01" + shape + kind + b"\x89" + content + b"tb"


def tar(path: Path, files: Mapping[str, bytes], mode: str = "w:gz") -> Path:
    """Write an archive."""
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a zip archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def unpacked(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def mat(x: np.ndarray, y: np.ndarray) -> bytes:
    """A MATLAB 5.0 file with the compressed variables X and y."""
    from scipy.io import savemat

    stream = io.BytesIO()
    savemat(stream, {"X": x, "y": y}, do_compression=True)
    return stream.getvalue()
