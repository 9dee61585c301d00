"""The exported file on disk: what it says about itself, and what is refused before any runtime sees a byte of it.

An ONNX file is one protobuf message. Its fields are walked here without building objects, so that a foreign file can be
judged without trust in it and without the `onnx` package:

    Model: 7 graph, 8 opset import, 14 metadata, 20 training, 25 functions
    Graph: 1 node, 5 initializer, 15 sparse initializer
    Node: 4 operator, 5 attribute, 7 domain
    Attribute: 5 tensor, 6 graph, 10 tensors, 11 graphs, 22 and 23 sparse tensors
    Tensor: 13 external data, 14 data location

A file of ours carries one JSON document under `KEY`, appended as the last field: the bytes before it are the model,
whose SHA-256 the document gives; the document gives its own too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tercet.core.errors import DataError, ModelError
from tercet.data.decode import open_regular

KEY = "tercet"
"""Name of the metadata entry."""
FORMAT = "tercet-onnx-1"
DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
"""Domains of operators that a file may use: the standard's, and what onnxruntime fuses and quantises to."""
MAX_BYTES = 2**31 - 1
"""Bytes of the largest protobuf message, and so of the largest file without others beside it."""
_MOST_FIELDS = 20_000_000  # more would only keep a reader busy
_METADATA = 14

Field = tuple[int, int, int, int]
"""Number, and where the field, its content, and the next field begin."""


def read_content(path: str | Path) -> bytes:
    """Return a file's bytes.

    Raises:
        ModelError: It is absent, no regular file, empty, or larger than such a file can be.
    """
    try:
        with open_regular(Path(path)) as stream:
            size = os.fstat(stream.fileno()).st_size  # a buffer for the largest file would not fit every limit
            content = stream.read(min(size, MAX_BYTES) + 1)
    except DataError as error:
        raise ModelError(str(error)) from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    if not content or len(content) > MAX_BYTES:
        raise ModelError(f"{path} is {'empty' if not content else 'larger than 2 GB'}: it is no exported model")
    return content


def write_checked(model: bytes, document: dict[str, Any]) -> bytes:
    """Return a model's bytes with a document about it, both under their SHA-256."""
    told = {"format": FORMAT, **document, "model_sha256": hashlib.sha256(model).hexdigest()}
    text = json.dumps({**told, "sha256": _digest(told)}, ensure_ascii=True).encode()
    entry = _field(1, KEY.encode()) + _field(2, text)
    return model + _field(_METADATA, entry)


def read_checked(content: bytes, name: str | Path) -> dict[str, Any]:
    """Return what a file says of itself, after checking that it is ours, whole, unchanged, and stands alone.

    Args:
        content: The file's bytes.
        name: What it is called in messages.

    Raises:
        ModelError: One of these is not so.
    """
    reader = _Reader(content)
    try:
        entry = reader.check()
    except _Refused as error:
        raise ModelError(f"{name} is refused: {error}") from error
    except (IndexError, UnicodeDecodeError) as error:
        raise ModelError(f"{name} is no ONNX file, or is cut short: export the bundle again") from error
    if entry is None:
        raise ModelError(f"{name} is an ONNX file, but was not written by tercet export: it does not tell its classes")
    document, first, end = entry
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{name}: what it says of itself is damaged: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ModelError(f"{name} is not of format {FORMAT}: export the bundle again with this version")
    if found.pop("sha256", None) != _digest(found):
        raise ModelError(f"{name} was changed: its classes and inputs do not match their SHA-256")
    digest = hashlib.sha256(memoryview(content)[:first])
    digest.update(memoryview(content)[end:])
    if found.get("model_sha256") != digest.hexdigest():
        raise ModelError(f"{name} was changed: its model does not match its SHA-256")
    return found


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


class _Refused(Exception):
    """What a file holds that no file of ours does."""


class _Reader:
    """Walks over the fields of one message."""

    def __init__(self, content: bytes) -> None:
        self.content, self.left = content, _MOST_FIELDS

    def check(self) -> tuple[bytes, int, int] | None:
        """Return the document and where its entry begins and ends; None where there is none."""
        entry, graphs = None, 0
        for number, start, first, end in self.fields(0, len(self.content)):
            if number == 7:
                graphs += 1
                self._graph(first, end)
            elif number == 8:
                self._domains(first, end, domain=1)
            elif number in (20, 25):
                raise _Refused("it holds functions or training steps of its own, which exported models do not")
            elif number == _METADATA:
                pair = {inner: self.content[begin:stop] for inner, _, begin, stop in self.fields(first, end)}
                if pair.get(1) == KEY.encode():
                    if entry is not None:
                        raise _Refused("it describes itself twice")
                    entry = (pair.get(2, b""), start, end)
        if graphs != 1:
            raise IndexError("no graph")
        return entry

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """Yield the fields between two places; IndexError where they do not end there."""
        while start < end:
            self.left -= 1
            if self.left < 0:
                raise _Refused("it has more fields than any model")
            key, first = self._number(start)
            kind = key & 7
            if kind == 2:
                length, first = self._number(first)
            elif kind in (0, 1, 5):
                length = self._number(first)[1] - first if kind == 0 else 8 if kind == 1 else 4
            else:
                raise IndexError("no such kind of field")
            if first + length > end or key < 8:
                raise IndexError("a field does not end where its message does")
            yield key >> 3, start, first, first + length
            start = first + length

    def _number(self, place: int) -> tuple[int, int]:
        value = shift = 0
        while shift < 70:
            byte = self.content[place]
            value |= (byte & 127) << shift
            place, shift = place + 1, shift + 7
            if byte < 128:
                return value, place
        raise IndexError("a number of more than ten bytes")

    def _graph(self, start: int, end: int) -> None:
        for number, _, first, last in self.fields(start, end):
            if number == 1:
                self._node(first, last)
            elif number == 5:
                self._tensor(first, last)
            elif number == 15:
                raise _Refused("it holds sparse tensors, which exported models do not")

    def _node(self, start: int, end: int) -> None:
        self._domains(start, end, domain=7)
        for number, _, first, last in self.fields(start, end):
            if number != 5:
                continue
            for inner, _, begin, stop in self.fields(first, last):
                if inner in (6, 11):
                    raise _Refused("it holds branches or loops (If, Loop, Scan), which exported models do not")
                if inner in (22, 23):
                    raise _Refused("it holds sparse tensors, which exported models do not")
                if inner in (5, 10):
                    self._tensor(begin, stop)

    def _tensor(self, start: int, end: int) -> None:
        for number, _, first, _ in self.fields(start, end):
            if number == 13 or (number == 14 and self._number(first)[0] != 0):
                raise _Refused("its weights lie in other files: exported models hold all of theirs")

    def _domains(self, start: int, end: int, *, domain: int) -> None:
        for number, _, first, last in self.fields(start, end):
            if number == domain:
                name = self.content[first:last].decode("utf-8")
                if name not in DOMAINS:
                    raise _Refused(f"it uses operators of the domain '{name[:80]}', which are not onnxruntime's own")
