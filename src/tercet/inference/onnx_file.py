"""ONNX files with metadata and checksums; untrusted files are validated before onnxruntime loads them.

An ONNX file is one protobuf message. Its fields are visited without building objects and without the `onnx` package.
Exported files have a JSON document in the metadata entry `KEY`, appended as the last field. It contains the SHA-256 of
the model (the bytes before it) and its own.
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
"""Allowed operator domains: the standard, and the fused and quantized operators of onnxruntime."""
MAX_BYTES = 2**31 - 1
"""Size limit of protobuf messages, and therefore of files without external data."""
_MAX_FIELDS = 20_000_000  # bounds the time of validation
_METADATA = 14

Field = tuple[int, int, int, int]
"""Field number, and offsets of the field, of its content, and of the next field."""


_PARTS = {
    ("model", 7): "graph",
    ("model", 8): "opset import",
    ("opset import", 1): "domain",
    ("graph", 1): "node",
    ("graph", 5): "tensor",
    ("node", 5): "attribute",
    ("node", 7): "domain",
    ("attribute", 5): "tensor",
    ("attribute", 10): "tensor",
    ("tensor", 14): "data location",
}
"""Kinds of the fields that are visited, by kind of message and field number."""
_BRANCHES = "it contains branches or loops (If, Loop, Scan), which exported models do not"
_FUNCTIONS = "it contains functions or training steps, which exported models do not"
_SPARSE = "it contains sparse tensors, which exported models do not"
_EXTERNAL = "its weights are in other files (external data), which exported models do not have"
_REFUSED = {
    **{("model", number): _FUNCTIONS for number in (20, 25)},
    **{("attribute", number): _BRANCHES for number in (6, 11)},
    **{("attribute", number): _SPARSE for number in (22, 23)},
    ("graph", 15): _SPARSE,
    ("tensor", 13): _EXTERNAL,
}
"""Why fields are refused."""


def read_content(path: str | Path) -> bytes:
    """Return a file's bytes.

    Raises:
        ModelError: The file is missing, not a regular file, empty, or too large.
    """
    try:
        with open_regular(Path(path)) as stream:
            size = os.fstat(stream.fileno()).st_size  # a buffer of MAX_BYTES might exceed the memory limit
            content = stream.read(min(size, MAX_BYTES) + 1)
    except DataError as error:
        raise ModelError(str(error)) from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    if not content or len(content) > MAX_BYTES:
        raise ModelError(f"{path} is {'empty' if not content else 'larger than 2 GB'}: it is not an exported model")
    return content


def write_checked(model: bytes, document: dict[str, Any]) -> bytes:
    """Return the model's bytes with `document` appended, and the SHA-256 of both."""
    content = {"format": FORMAT, **document, "model_sha256": hashlib.sha256(model).hexdigest()}
    text = json.dumps({**content, "sha256": _digest(content)}, ensure_ascii=True).encode()
    entry = _field(1, KEY.encode()) + _field(2, text)
    return model + _field(_METADATA, entry)


def read_checked(content: bytes, name: str | Path) -> dict[str, Any]:
    """Return the metadata of an exported file after validating its structure and checksums.

    Args:
        content: The file's bytes.
        name: Name of the file in messages.

    Raises:
        ModelError: The file is not from `tercet export`, is truncated or changed, has external data, or contains
            operators that exported models do not have.
    """
    reader = _Reader(content)
    try:
        entry = reader.check()
    except _UnsafeModel as error:
        raise ModelError(f"{name} is refused: {error}") from error
    except (IndexError, UnicodeDecodeError) as error:
        raise ModelError(f"{name} is not an ONNX file, or is truncated: export the bundle again") from error
    if entry is None:
        raise ModelError(f"{name} is an ONNX file, but was not written by tercet export: it has no class names")
    document, first, end = entry
    try:
        metadata = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{name} has damaged metadata: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ModelError(f"{name} is not of format {FORMAT}: export the bundle again with this version")
    if metadata.pop("sha256", None) != _digest(metadata):
        raise ModelError(f"{name} was changed: its metadata do not match their SHA-256")
    digest = hashlib.sha256(memoryview(content)[:first])
    digest.update(memoryview(content)[end:])
    if metadata.get("model_sha256") != digest.hexdigest():
        raise ModelError(f"{name} was changed: its model does not match its SHA-256")
    return metadata


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


class _UnsafeModel(Exception):
    """The file contains something that exported models do not have."""


class _Reader:
    """Visits the fields of a protobuf message."""

    def __init__(self, content: bytes) -> None:
        self.content, self.remaining_fields = content, _MAX_FIELDS

    def check(self) -> tuple[bytes, int, int] | None:
        """Return the document and the offsets of its entry; None if there is no document."""
        self._visit("model", 0, len(self.content))
        entry, graphs = None, 0
        for number, start, first, end in self.fields(0, len(self.content)):
            graphs += number == 7
            if number == _METADATA:
                pair = {inner: self.content[begin:stop] for inner, _, begin, stop in self.fields(first, end)}
                if pair.get(1) == KEY.encode():
                    if entry is not None:
                        raise _UnsafeModel("it has two metadata documents")
                    entry = (pair.get(2, b""), start, end)
        if graphs != 1:
            raise IndexError("no graph")
        return entry

    def _visit(self, kind: str, start: int, end: int) -> None:
        """Raise if the message between two offsets, or one in it, has something that exported models do not have."""
        if kind == "domain":
            name = self.content[start:end].decode("utf-8")
            if name not in DOMAINS:
                raise _UnsafeModel(f"it uses operators of the unknown domain '{name[:80]}'")
        elif kind == "data location":
            if self._number(start)[0] != 0:
                raise _UnsafeModel(_EXTERNAL)
        else:
            for number, _, first, last in self.fields(start, end):
                if (kind, number) in _REFUSED:
                    raise _UnsafeModel(_REFUSED[kind, number])
                if (kind, number) in _PARTS:
                    self._visit(_PARTS[kind, number], first, last)

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """Yield the fields between two offsets; raises IndexError if the last field does not end at `end`."""
        while start < end:
            self.remaining_fields -= 1
            if self.remaining_fields < 0:
                raise _UnsafeModel("it has too many fields")
            key, first = self._number(start)
            kind = key & 7
            if kind == 2:
                length, first = self._number(first)
            elif kind in (0, 1, 5):
                length = self._number(first)[1] - first if kind == 0 else 8 if kind == 1 else 4
            else:
                raise IndexError("unknown wire type")
            if first + length > end or key < 8:
                raise IndexError("a field exceeds its message")
            yield key >> 3, start, first, first + length
            start = first + length

    def _number(self, offset: int) -> tuple[int, int]:
        value = shift = 0
        while shift < 70:
            byte = self.content[offset]
            value |= (byte & 127) << shift
            offset, shift = offset + 1, shift + 7
            if byte < 128:
                return value, offset
        raise IndexError("a varint has more than ten bytes")
