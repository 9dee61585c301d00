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
from tercet.data.decode import WEB_FORMATS, decode
from tercet.data.decoding import Decoding
from tercet.data.pixel_values import UnknownRange, to_pixels
from tercet.serve.batching import MemoryLease
from tercet.serve.errors import ClientDisconnected, Overloaded, RequestError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_MULTIPART = "multipart/form-data"
_MAX_PART_HEADERS = 8
_MAX_PART_HEADER_BYTES = 4096
_MAX_NAME = 255


@dataclass
class Upload:
    """One file of a request."""

    name: str | None
    """File name from the client; None if the body is one image."""
    content: bytearray = field(default_factory=bytearray)


async def read_uploads(
    receive: Receive, headers: Mapping[str, str], limits: ServerLimits, lease: MemoryLease
) -> list[Upload]:
    """Return the files of a request.

    Args:
        receive: ASGI receive function.
        headers: By lower-case name.
        limits: Limits on bytes and number of images.
        lease: Resized to the bytes received so far.

    Raises:
        RequestError: The body is too large, malformed, or of an unsupported type.
        ClientDisconnected: The client closed the connection before the end of the body.
    """
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RequestError(415, "Content-Encoding is not supported: send the image file uncompressed", close=True)
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.upload_bytes:
        raise _too_large(limits)
    parser = _body_parser(headers.get("content-type", ""), limits)
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
            parser.write(chunk)
        if not message.get("more_body", False):
            return parser.finish()


def _too_large(limits: ServerLimits) -> RequestError:
    return RequestError(413, f"the request is larger than {limits.max_upload} MiB", reason="body size", close=True)


def _body_parser(content_type: str, limits: ServerLimits) -> _SingleImage | _Multipart:
    kind, options = parse_options_header(content_type)
    name = kind.decode("latin-1")
    if name == _MULTIPART:
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise RequestError(400, "the multipart body has no boundary", close=True)
        return _Multipart(boundary, limits)
    if name in ("", "application/octet-stream") or name.startswith("image/"):
        return _SingleImage()
    raise RequestError(
        415, "unsupported Content-Type: send one image as image/*, or files as multipart/form-data", close=True
    )


class _SingleImage:
    """The body is one image."""

    def __init__(self) -> None:
        self._upload = Upload(None)

    def write(self, chunk: bytes) -> None:
        self._upload.content += chunk

    def finish(self) -> list[Upload]:
        if not self._upload.content:
            raise RequestError(400, "the body is empty: send one image")
        return [self._upload]


class _Multipart:
    """The body is multipart/form-data."""

    def __init__(self, boundary: bytes, limits: ServerLimits) -> None:
        self._limits = limits
        self._uploads: list[Upload] = []
        self._complete = False
        self._name, self._value, self._disposition = b"", b"", b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
                max_header_count=_MAX_PART_HEADERS,
                max_header_size=_MAX_PART_HEADER_BYTES,
            )
        except FormParserError as error:
            raise RequestError(400, "the multipart boundary is too long", close=True) from error

    def write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise RequestError(400, "the multipart body is malformed", reason=str(error), close=True) from error

    def finish(self) -> list[Upload]:
        if not self._complete:
            raise RequestError(400, "the multipart body ends before its last boundary")
        if not self._uploads:
            raise RequestError(400, "the multipart body contains no file")
        return self._uploads

    def _on_part_begin(self) -> None:
        self._name, self._value, self._disposition = b"", b"", b""
        if len(self._uploads) == self._limits.max_images:
            raise RequestError(413, f"more than {self._limits.max_images} images in one request", close=True)

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition.decode("latin-1"))
        if kind != b"form-data" or b"filename" not in options:
            raise RequestError(400, "every part of the multipart body must be a file", close=True)
        self._uploads.append(Upload(options[b"filename"].decode("utf-8", "replace")[:_MAX_NAME]))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._uploads[-1].content += memoryview(data)[start:end]

    def _on_end(self) -> None:
        self._complete = True


_BOMBS = (Image.DecompressionBombWarning, Image.DecompressionBombError)
ACCEPTED_TYPES = ", ".join(WEB_FORMATS)
"""Accepted image formats, for error messages."""


class _TooManyPixels(DataError):
    pass


class _OutOfMemory(DataError):
    pass


def decode_upload(upload: Upload, limits: ServerLimits, lease: MemoryLease, decoding: Decoding) -> NDArray[np.uint8]:
    """Decode an upload to H W 3, upright; `lease` is resized to the memory it needs.

    Truncated files are errors, also if the model was trained with some: the client can upload the file again.

    Raises:
        RequestError: The file is not an image (415), or is damaged or too large (422).
        Overloaded: The memory budget is exhausted.
    """

    def convert(image: Image.Image) -> NDArray[np.uint8]:
        count = image.width * image.height
        if count > limits.max_pixels:
            raise _TooManyPixels(f"{image.width} x {image.height} pixels")
        try:
            lease.resize(count * DECODING_BYTES)
        except Overloaded as error:
            raise _OutOfMemory("memory budget") from error
        return to_pixels(image, decoding)

    try:
        pixels = decode(bytes(upload.content), max_pixels=limits.max_pixels, formats=WEB_FORMATS, convert=convert)
    except _OutOfMemory as error:
        raise Overloaded("the server is out of memory for images: try again", reason="memory") from error
    except DataError as error:
        raise _request_error(error, limits) from error
    rgb = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    lease.resize(rgb.shape[0] * rgb.shape[1] * DECODED_BYTES)
    return rgb


def _request_error(error: DataError, limits: ServerLimits) -> RequestError:
    if isinstance(error, _TooManyPixels) or isinstance(error.__cause__, _BOMBS):
        return RequestError(422, f"the image has more than {limits.max_pixels} pixels", reason=str(error))
    if isinstance(error.__cause__, UnidentifiedImageError):
        return RequestError(415, f"not an image in an accepted format ({ACCEPTED_TYPES})", reason=str(error))
    if isinstance(error, UnknownRange):
        return RequestError(
            422, f"the image cannot be read: {error} (accepted formats: {ACCEPTED_TYPES})", reason=str(error)
        )
    message = f"the image is truncated, damaged, or uses an unsupported encoding (accepted formats: {ACCEPTED_TYPES})"
    return RequestError(422, message, reason=str(error))
