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
_HEADER = 128  # bytes: a text, a version, and a mark of the byte order
_VERSION = b"\x00\x01IM"  # 5.0, little-endian
_MATRIX, _DEFLATED = 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_BYTES = 2  # the type of unsigned bytes
_CLASSES = {6: "double", 7: "single", 8: "int8", 9: "uint8", 10: "int16", 11: "uint16", 12: "int32", 13: "uint32"}
_OTHER = "no numbers"
_LARGEST_PART = 1024  # bytes of flags, dimensions or a name
_AT_ONCE = 4096  # images
_PART = 1 << 16  # stored bytes read at a time


@dataclass(frozen=True)
class _Variable:
    """What a variable says of itself, and where its values can be read."""

    name: str
    kind: str
    """Class of its values, such as uint8; `no numbers` for cells, texts and the like."""
    shape: tuple[int, ...]
    content: _Content

    @property
    def told(self) -> str:
        """Shape and kind in words."""
        return f"{' x '.join(map(str, self.shape))} of {self.kind}"


class _Content:
    """The bytes of one variable, inflated as they are asked for."""

    def __init__(self, stream: BinaryIO, size: int, *, deflated: bool, name: str) -> None:
        self._stream, self._left, self._name = stream, size, name
        self._inflate = zlib.decompressobj() if deflated else None
        self._pending = b""
        self._front = b""

    def unread(self, content: bytes) -> None:
        """Put bytes before those that come next."""
        self._front = content

    def read(self, size: int) -> bytes:
        """Return exactly so many bytes."""
        found = bytearray(self._front[:size])
        self._front = b""
        while len(found) < size:
            part = self._next(size - len(found))
            if not part:
                raise DataError(f"{self._name} is damaged: it ends within a variable; get it again")
            found += part
        return bytes(found)

    def finish(self) -> None:
        """Refuse bytes after the values, and deflated values whose checksum is wrong."""
        while part := self._next(_PART):
            if any(part):
                raise DataError(f"{self._name} is damaged: a variable holds more than it states; get it again")
        if self._inflate is not None and not self._inflate.eof:
            raise DataError(f"{self._name} is damaged: it ends within a variable; get it again")

    def element(self) -> tuple[int, int, bytes]:
        """Return an element's type and length, and its bytes where they are within the tag."""
        kind, size = struct.unpack("<II", self.read(8))
        if kind >> 16:  # up to four bytes stand in the tag
            return kind & 0xFFFF, kind >> 16, struct.pack("<I", size)[: kind >> 16]
        return kind, size, b""

    def small(self) -> bytes:
        """Return the bytes of a short element."""
        _, size, content = self.element()
        if content:
            return content
        if size > _LARGEST_PART:
            raise DataError(f"{self._name} is damaged: {size} bytes of description; get it again")
        return self.read(size + -size % 8)[:size]

    def _next(self, size: int) -> bytes:
        if self._inflate is None:
            part = self._stream.read(min(size, self._left))
            self._left -= len(part)
            return part
        while not self._inflate.eof:
            if not self._pending:
                self._pending = self._stream.read(min(_PART, self._left))
                self._left -= len(self._pending)
                if not self._pending:
                    return b""
            try:
                part = self._inflate.decompress(self._pending, size)
            except zlib.error as error:
                raise DataError(f"{self._name} is damaged: {error}; get it again") from error
            self._pending = self._inflate.unconsumed_tail
            if part:
                return part
        return b""


def count_digits(path: Path) -> int:
    """Return how many images a file states.

    Raises:
        DataError: It is no such file.
    """
    with open_regular(path) as stream:
        found = [variable for variable in _variables(stream, str(path)) if variable.name in ("X", "y")]
    named = {variable.name: variable for variable in found}
    if len(named) != 2 or len(found) != 2:
        raise DataError(f"{path} does not hold the variables X and y once each")
    images, labels = named["X"], named["y"]
    if images.kind != "uint8" or len(images.shape) != 4 or images.shape[:3] != IMAGE_SHAPE or images.shape[3] < 1:
        raise DataError(f"{path}: X is {images.told}, expected 32 x 32 x 3 x N of uint8")
    if labels.shape != (images.shape[3], 1) or labels.kind == _OTHER:
        raise DataError(f"{path}: y is {labels.told}, expected {images.shape[3]} x 1 numbers")
    return images.shape[3]


def read_digits(path: Path, images: Pixels) -> Ints:
    """Read a file's images into an array (N 32 32 3), and return its labels (N): 10 in the file is the digit 0.

    Args:
        path: A file that `count_digits` accepts.
        images: Filled; as long as `count_digits` says.

    Raises:
        DataError: It is damaged, or not what it says it is.
    """
    labels = np.zeros(0)
    with open_regular(path) as stream:
        for variable in _variables(stream, str(path)):
            if variable.name == "X":
                _values(variable, _BYTES, images.size, str(path))
                for start in range(0, len(images), _AT_ONCE):
                    target = images[start : start + _AT_ONCE]
                    content = np.frombuffer(variable.content.read(target.size), dtype=np.uint8)
                    target[...] = content.reshape(-1, *IMAGE_SHAPE[::-1]).transpose(
                        0, 3, 2, 1
                    )  # by columns, as in MATLAB
                variable.content.finish()
            elif variable.name == "y":
                kind = _values(variable, None, len(images), str(path))
                labels = np.frombuffer(variable.content.read(len(images) * kind.itemsize), dtype=kind)
                variable.content.finish()
    if len(labels) != len(images) or not np.isin(labels, np.arange(1, _DIGITS + 1)).all():
        raise DataError(f"{path} holds labels other than 1 to {_DIGITS}; get it again")
    return labels.astype(np.int64) % _DIGITS


def _values(variable: _Variable, expected: int | None, count: int, name: str) -> np.dtype[np.generic]:
    """Read the tag before a variable's values, and return their type: whole numbers take the smallest that fits."""
    kind, size, within = variable.content.element()
    if kind not in _TYPES or (expected is not None and kind != expected):
        raise DataError(f"{name} is damaged: {variable.name} is stored as type {kind}; get it again")
    dtype = np.dtype(_TYPES[kind])
    if size != count * dtype.itemsize:
        raise DataError(f"{name} is damaged: {variable.name} has {size} bytes, expected {count} values; get it again")
    if within:
        variable.content.unread(within)
    return dtype


def _variables(stream: BinaryIO, name: str) -> Iterator[_Variable]:
    """Yield the variables one after the other; each one's values are to be read before the next."""
    head = stream.read(_HEADER)
    if len(head) < _HEADER or head[-4:] != _VERSION:
        raise DataError(f"{name} is not a MATLAB 5.0 file: expected the official one of SVHN's cropped digits")
    while tag := stream.read(8):
        if len(tag) < 8:
            raise DataError(f"{name} is damaged: it ends within a tag; get it again")
        kind, size = struct.unpack("<II", tag)
        end = stream.tell() + size
        content = _Content(stream, size, deflated=kind == _DEFLATED, name=name)
        if kind == _DEFLATED:
            kind, _, _ = content.element()
        if kind != _MATRIX:
            raise DataError(f"{name} is damaged: a variable has the type {kind}; get it again")
        yield _describe(content, name)
        stream.seek(end)


def _describe(content: _Content, name: str) -> _Variable:
    """Read a variable's flags, dimensions and name."""
    flags, dimensions, label = content.small(), content.small(), content.small()
    if len(flags) != 8 or len(dimensions) % 4 or not 8 <= len(dimensions) <= 32:
        raise DataError(f"{name} is damaged: a variable has no class or no dimensions; get it again")
    shape = tuple(int(size) for size in np.frombuffer(dimensions, dtype="<i4"))
    if min(shape) < 0 or math.prod(shape) > 1 << 40:
        raise DataError(f"{name} is damaged: a variable has the dimensions {shape}; get it again")
    plain = not flags[1] & 0x08  # complex numbers have a second part
    kind = _CLASSES.get(flags[0], _OTHER) if plain else _OTHER
    return _Variable(label.decode("latin-1"), kind, shape, content)


_EXTRA = "extra"
_SPLITS = {"train": "train", _EXTRA: "train", "test": "test"}


def _read(card: DatasetInfo, config: DataConfig) -> SampleTable:
    """Read train and test, and between them the additional images for the variant `extra`."""
    named = {file.name.split("_")[0]: file for file in (*card.files, *card.more_files)}
    wanted = [part for part in _SPLITS if part != _EXTRA or card.variant == _EXTRA]
    paths = find_files(card, config, [named[part] for part in wanted])
    counts = [count_digits(path) for path in paths]
    for part, path, count in zip(wanted, paths, counts, strict=True):
        if count != dict(card.counts)[part]:
            raise DataError(f"{path} holds {count:,} images, expected {dict(card.counts)[part]:,}: get it again")
    images = np.empty((sum(counts), 32, 32, 3), dtype=np.uint8)  # filled file by file: extra alone takes 1.6 GB
    parts: list[ArrayPart] = []
    start = 0
    for part, path, count in zip(wanted, paths, counts, strict=True):
        parts.append((part, _SPLITS[part], read_digits(path, images[start : start + count])))
        start += count
    return table_of_parts(images, parts, name=card.name, classes=card.classes)


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
    layouts=("train_32x32.mat and test_32x32.mat, for svhn:extra also extra_32x32.mat",),
    remarks=(
        "the label 10 of the files is the digit 0, class '0' here",
        "the E2E-3M paper trains on train and extra together (604,388 images): svhn:extra; it validates on the "
        "test images, so its 0.9900 is optimistic: here validation is held out of train and extra",
        "the paper starts here at a learning rate of 1e-3 'instead of 1e4', a slip for 1e-4; flips are left out",
    ),
    variants={_EXTRA: "adds the 531,131 easier images of the extra part to the training split"},
)
