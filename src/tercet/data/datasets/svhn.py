"""SVHN from its MATLAB files."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.datasets.download import RemoteFile
from tercet.data.datasets.info import DatasetInfo, find_files
from tercet.data.decode import Pixels, open_regular
from tercet.data.table import ArrayPart, Ints, SampleTable, table_of_parts

IMAGE_SHAPE = (32, 32, 3)
_DIGITS = 10
_HEADER = 128  # bytes: description, version, byte order
_VERSION = b"\x00\x01IM"  # 5.0, little-endian
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_UINT8 = 2  # data type of unsigned bytes
_CLASSES = {6: "double", 7: "single", 8: "int8", 9: "uint8", 10: "int16", 11: "uint16", 12: "int32", 13: "uint32"}
_OTHER = "other"
_MAX_SMALL = 1024  # bytes of flags, dimensions or a name
_IMAGES_PER_READ = 4096
_CHUNK = 1 << 16  # compressed bytes per read


@dataclass(frozen=True)
class _Variable:
    """Header of a variable, and the reader of its values."""

    name: str
    dtype: str
    """Type of the values, such as uint8; `other` for cells, strings and complex numbers."""
    shape: tuple[int, ...]
    content: _VariableReader

    def __str__(self) -> str:
        return f"{' x '.join(map(str, self.shape))} of {self.dtype}"


class _VariableReader:
    """Reads the bytes of one variable, decompressed on demand."""

    def __init__(self, stream: BinaryIO, size: int, *, compressed: bool, name: str) -> None:
        self._stream, self._remaining, self._name = stream, size, name
        self._decompressor = zlib.decompressobj() if compressed else None
        self._pending = b""
        self._pushed_back = b""

    def push_back(self, content: bytes) -> None:
        """Return these bytes at the next read."""
        self._pushed_back = content

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        content = bytearray(self._pushed_back[:size])
        self._pushed_back = b""
        while len(content) < size:
            chunk = self._next(size - len(content))
            if not chunk:
                raise _damaged(self._name, "it ends within a variable")
            content += chunk
        return bytes(content)

    def finish(self) -> None:
        """Raise if there are bytes after the values, or if the checksum of compressed values is wrong."""
        while chunk := self._next(_CHUNK):
            if any(chunk):
                raise _damaged(self._name, "a variable is longer than its header states")
        if self._decompressor is not None and not self._decompressor.eof:
            raise _damaged(self._name, "it ends within a variable")

    def read_tag(self) -> tuple[int, int, bytes]:
        """Return an element's type and length, and its bytes if they are within the tag."""
        kind, size = struct.unpack("<II", self.read(8))
        if kind >> 16:  # compact form: up to four bytes in the tag
            return kind & 0xFFFF, kind >> 16, struct.pack("<I", size)[: kind >> 16]
        return kind, size, b""

    def read_small(self) -> bytes:
        """Return the bytes of a short element."""
        _, size, content = self.read_tag()
        if content:
            return content
        if size > _MAX_SMALL:
            raise _damaged(self._name, f"a header of {size} bytes")
        return self.read(size + -size % 8)[:size]

    def _next(self, size: int) -> bytes:
        if self._decompressor is None:
            chunk = self._stream.read(min(size, self._remaining))
            self._remaining -= len(chunk)
            return chunk
        while not self._decompressor.eof:
            if not self._pending:
                self._pending = self._stream.read(min(_CHUNK, self._remaining))
                self._remaining -= len(self._pending)
                if not self._pending:
                    return b""
            try:
                chunk = self._decompressor.decompress(self._pending, size)
            except zlib.error as error:
                raise _damaged(self._name, str(error)) from error
            self._pending = self._decompressor.unconsumed_tail
            if chunk:
                return chunk
        return b""


def _damaged(name: str, reason: str) -> DataError:
    return DataError(f"{name} is damaged: {reason}; download it again")


def count_digits(path: Path) -> int:
    """Return the number of images in a file's header.

    Raises:
        DataError: The file is not a file of SVHN's cropped digits.
    """
    with open_regular(path) as stream:
        variables = [variable for variable in _variables(stream, str(path)) if variable.name in ("X", "y")]
    by_name = {variable.name: variable for variable in variables}
    if len(by_name) != 2 or len(variables) != 2:
        raise DataError(f"{path} does not contain the variables X and y once each")
    images, labels = by_name["X"], by_name["y"]
    if images.dtype != "uint8" or len(images.shape) != 4 or images.shape[:3] != IMAGE_SHAPE or images.shape[3] < 1:
        raise DataError(f"{path}: X is {images}, expected 32 x 32 x 3 x N of uint8")
    if labels.shape != (images.shape[3], 1) or labels.dtype == _OTHER:
        raise DataError(f"{path}: y is {labels}, expected {images.shape[3]} x 1 numbers")
    return images.shape[3]


def read_digits(path: Path, images: Pixels) -> Ints:
    """Read a file's images into an array, and return its labels (N); 10 in the file is the digit 0.

    Args:
        path: A file that `count_digits` accepts.
        images: Output, N 32 32 3 with N of `count_digits`.

    Raises:
        DataError: The file is damaged, or its labels are invalid.
    """
    labels = np.zeros(0)
    with open_regular(path) as stream:
        for variable in _variables(stream, str(path)):
            if variable.name == "X":
                _values_dtype(variable, _UINT8, images.size, str(path))
                for start in range(0, len(images), _IMAGES_PER_READ):
                    target = images[start : start + _IMAGES_PER_READ]
                    content = np.frombuffer(variable.content.read(target.size), dtype=np.uint8)
                    # MATLAB stores arrays in column-major order
                    target[...] = content.reshape(-1, *IMAGE_SHAPE[::-1]).transpose(0, 3, 2, 1)
                variable.content.finish()
            elif variable.name == "y":
                dtype = _values_dtype(variable, None, len(images), str(path))
                labels = np.frombuffer(variable.content.read(len(images) * dtype.itemsize), dtype=dtype)
                variable.content.finish()
    if len(labels) != len(images) or not np.isin(labels, np.arange(1, _DIGITS + 1)).all():
        raise DataError(f"{path} contains labels other than 1 to {_DIGITS}; download it again")
    return labels.astype(np.int64) % _DIGITS


def _values_dtype(variable: _Variable, expected: int | None, count: int, name: str) -> np.dtype[np.generic]:
    """Read the tag of a variable's values, and return their dtype; MATLAB stores integers in the smallest type."""
    kind, size, content = variable.content.read_tag()
    if kind not in _TYPES or (expected is not None and kind != expected):
        raise _damaged(name, f"{variable.name} has the data type {kind}")
    dtype = np.dtype(_TYPES[kind])
    if size != count * dtype.itemsize:
        raise _damaged(name, f"{variable.name} has {size} bytes, expected {count} values")
    if content:
        variable.content.push_back(content)
    return dtype


def _variables(stream: BinaryIO, name: str) -> Iterator[_Variable]:
    """Yield the variables of a file; the values of one must be read before the next is requested."""
    head = stream.read(_HEADER)
    if len(head) < _HEADER or head[-4:] != _VERSION:
        raise DataError(f"{name} is not a MATLAB 5.0 file: expected an official file of SVHN's cropped digits")
    while tag := stream.read(8):
        if len(tag) < 8:
            raise _damaged(name, "it ends within a tag")
        kind, size = struct.unpack("<II", tag)
        end = stream.tell() + size
        content = _VariableReader(stream, size, compressed=kind == _COMPRESSED, name=name)
        if kind == _COMPRESSED:
            kind, _, _ = content.read_tag()
        if kind != _MATRIX:
            raise _damaged(name, f"a variable has the type {kind}")
        yield _read_header(content, name)
        stream.seek(end)


def _read_header(content: _VariableReader, name: str) -> _Variable:
    """Read a variable's flags, dimensions and name."""
    flags, dimensions, label = content.read_small(), content.read_small(), content.read_small()
    if len(flags) != 8 or len(dimensions) % 4 or not 8 <= len(dimensions) <= 32:
        raise _damaged(name, "a variable has no class or no dimensions")
    shape = tuple(int(size) for size in np.frombuffer(dimensions, dtype="<i4"))
    if min(shape) < 0 or math.prod(shape) > 1 << 40:
        raise _damaged(name, f"a variable has the dimensions {shape}")
    is_complex = flags[1] & 0x08
    dtype = _OTHER if is_complex else _CLASSES.get(flags[0], _OTHER)
    return _Variable(label.decode("latin-1"), dtype, shape, content)


_EXTRA = "extra"
_SPLITS = {"train": "train", _EXTRA: "train", "test": "test"}


def _read(info: DatasetInfo, config: DataConfig) -> SampleTable:
    """Read train, extra (only for the variant `extra`) and test."""
    files = {file.name.split("_")[0]: file for file in (*info.files, *info.more_files)}
    part_names = [part for part in _SPLITS if part != _EXTRA or info.variant == _EXTRA]
    paths = find_files(info, config, [files[part] for part in part_names])
    counts = [count_digits(path) for path in paths]
    for part, path, count in zip(part_names, paths, counts, strict=True):
        if count != dict(info.counts)[part]:
            raise DataError(
                f"{path} contains {count:,} images, expected {dict(info.counts)[part]:,}: download it again"
            )
    images = np.empty((sum(counts), 32, 32, 3), dtype=np.uint8)  # allocated once: extra alone takes 1.6 GB
    parts: list[ArrayPart] = []
    start = 0
    for part, path, count in zip(part_names, paths, counts, strict=True):
        parts.append((part, _SPLITS[part], read_digits(path, images[start : start + count])))
        start += count
    return table_of_parts(images, parts, name=info.name, classes=info.classes)


SVHN = DatasetInfo(
    name="svhn",
    title="Street View House Numbers, cropped digits, 32 x 32 colour",
    page="http://ufldl.stanford.edu/housenumbers/",
    licence="for non-commercial use only",
    classes=tuple(str(digit) for digit in range(10)),
    counts=(("train", 73_257), (_EXTRA, 531_131), ("test", 26_032)),
    image_shape=(32, 32, 3),
    read=_read,
    files=(
        RemoteFile(
            "train_32x32.mat",
            182_040_794,
            "e26dedcc434d2e4c54c9b2d4a06d8373",
            "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        ),
        RemoteFile(
            "test_32x32.mat",
            64_275_384,
            "eb5a983be6a315427106f1b164d9cef3",
            "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        ),
    ),
    more_files=(
        RemoteFile(
            "extra_32x32.mat",
            1_329_278_602,
            "a93ce644f1a588dc4d68dda5feec44a7",
            "a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3",
            "svhn:extra",
        ),
    ),
    mirrors=("https://ufldl.stanford.edu/housenumbers",),
    layouts=("train_32x32.mat and test_32x32.mat, and for svhn:extra also extra_32x32.mat",),
    remarks=(
        "label 10 in the files is the digit 0, class '0' here",
        "the E2E-3M paper trains on train and extra together (604,388 images, svhn:extra) and validates on the test "
        "images, so its 0.9900 is optimistic; here validation images are held out of train and extra",
        "the paper starts at a learning rate of 1e-3 'instead of 1e4', a misprint of 1e-4; it does not use flips",
    ),
    variants={_EXTRA: "adds the 531,131 easier images of the extra part to the training split"},
)
