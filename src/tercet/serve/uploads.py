"""Read and decode uploaded images within limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from tercet.config.deployment import DECODED_BYTES, DECODING_BYTES, ServerLimits
from tercet.core.errors import DataError
from tercet.data.decode import FORMATS, UnknownRange, decode, to_pixels
from tercet.serve.batching import MemoryLease
from tercet.serve.errors import ClientDisconnected, Overloaded, RequestError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_MULTIPART = "multipart/form-data"
_PART_HEADERS = 8
_PART_HEADER_BYTES = 4096
_LONGEST_NAME = 255


@dataclass
class Upload:
    """One file of a request."""

    name: str | None
    """What the client calls it."""
    content: bytearray = field(default_factory=bytearray)
    """Its bytes."""


async def read_uploads(
    receive: Receive, headers: Mapping[str, str], limits: ServerLimits, lease: MemoryLease
) -> list[Upload]:
    """Return the images of a request.

    Args:
        receive: Gives the body in pieces.
        headers: By lower-case name.
        limits: What is too much.
        lease: Grows with what has been received.

    Raises:
        Refusal: The body is too large, of another kind, or broken.
        Gone: The client left before the end.
    """
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RequestError(415, "compressed bodies are not taken: send the image file as it is", close=True)
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.upload_bytes:
        raise _too_large(limits)
    sink = _sink(headers.get("content-type", ""), limits)
    received = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnected("the client closed the connection")
        chunk = message.get("body", b"")
        received += len(chunk)
        if received > limits.upload_bytes:
            raise _too_large(limits)
        if chunk:
            lease.resize(received)
            sink.take(chunk)
        if not message.get("more_body", False):
            return sink.finish()


def _too_large(limits: ServerLimits) -> RequestError:
    return RequestError(413, f"the request is larger than {limits.max_upload} MiB", reason="body size", close=True)


def _sink(content_type: str, limits: ServerLimits) -> _Raw | _Multipart:
    kind, options = parse_options_header(content_type)
    name = kind.decode("latin-1")
    if name == _MULTIPART:
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise RequestError(400, "the multipart body has no boundary", close=True)
        return _Multipart(boundary, limits)
    if name in ("", "application/octet-stream") or name.startswith("image/"):
        return _Raw()
    raise RequestError(
        415, "send an image as it is (Content-Type: image/...), or files as multipart/form-data", close=True
    )


class _Raw:
    """A body that is one image."""

    def __init__(self) -> None:
        self._upload = Upload(None)

    def take(self, chunk: bytes) -> None:
        self._upload.content += chunk

    def finish(self) -> list[Upload]:
        if not self._upload.content:
            raise RequestError(400, "the body is empty: send one image")
        return [self._upload]


class _Multipart:
    """A body of several files."""

    def __init__(self, boundary: bytes, limits: ServerLimits) -> None:
        self._limits = limits
        self._uploads: list[Upload] = []
        self._complete = False
        self._name, self._value, self._disposition = b"", b"", b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._opened,
                    "on_part_data": self._data,
                    "on_end": self._end,
                },
                max_header_count=_PART_HEADERS,
                max_header_size=_PART_HEADER_BYTES,
            )
        except FormParserError as error:
            raise RequestError(400, "the multipart boundary is too long", close=True) from error

    def take(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise RequestError(400, "the multipart body is broken", reason=str(error), close=True) from error

    def finish(self) -> list[Upload]:
        if not self._complete:
            raise RequestError(400, "the multipart body ends before its last boundary")
        if not self._uploads:
            raise RequestError(400, "the multipart body holds no file")
        return self._uploads

    def _begin(self) -> None:
        self._name, self._value, self._disposition = b"", b"", b""
        if len(self._uploads) == self._limits.max_images:
            raise RequestError(413, f"more than {self._limits.max_images} images in one request", close=True)

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name, self._value = b"", b""

    def _opened(self) -> None:
        kind, options = parse_options_header(self._disposition.decode("latin-1"))
        if kind != b"form-data" or b"filename" not in options:
            raise RequestError(400, "every part of the multipart body must be a file", close=True)
        self._uploads.append(Upload(options[b"filename"].decode("utf-8", "replace")[:_LONGEST_NAME]))

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._uploads[-1].content += memoryview(data)[start:end]

    def _end(self) -> None:
        self._complete = True


_BOMBS = (Image.DecompressionBombWarning, Image.DecompressionBombError)
ACCEPTED_TYPES = ", ".join(FORMATS)
"""The formats that are decoded, for people."""


class _TooManyPixels(DataError):
    pass


class _NoMemory(DataError):
    pass


def decode_upload(upload: Upload, limits: ServerLimits, lease: MemoryLease) -> NDArray[np.uint8]:
    """Return an upload's picture as H W 3, upright; `lease` holds what it takes.

    Raises:
        Refusal: It is no image (415), or one that is damaged or too large (422).
        Busy: There is no memory for it at the moment.
    """

    def measured(image: Image.Image) -> NDArray[np.uint8]:
        count = image.width * image.height
        if count > limits.max_pixels:
            raise _TooManyPixels(f"{image.width} x {image.height} pixels")
        try:
            lease.resize(count * DECODING_BYTES)
        except Overloaded as error:
            raise _NoMemory("no memory at the moment") from error
        return to_pixels(image)

    try:
        pixels = decode(bytes(upload.content), max_pixels=limits.max_pixels, convert=measured)
    except _NoMemory as error:
        raise Overloaded("the server is busy: try again", reason="memory") from error
    except DataError as error:
        raise _refusal(error, limits) from error
    coloured = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    lease.resize(coloured.shape[0] * coloured.shape[1] * DECODED_BYTES)
    return coloured


def _refusal(error: DataError, limits: ServerLimits) -> RequestError:
    if isinstance(error, _TooManyPixels) or isinstance(error.__cause__, _BOMBS):
        return RequestError(422, f"the image has more than {limits.max_pixels} pixels", reason=str(error))
    if isinstance(error.__cause__, UnidentifiedImageError):
        return RequestError(415, f"not an image in an accepted format ({ACCEPTED_TYPES})", reason=str(error))
    if isinstance(error, UnknownRange):
        return RequestError(
            422, f"the image cannot be read: {error} (accepted formats: {ACCEPTED_TYPES})", reason=str(error)
        )
    message = (
        f"the image is truncated or damaged, or packed in a way that is not read (accepted formats: {ACCEPTED_TYPES})"
    )
    return RequestError(422, message, reason=str(error))
