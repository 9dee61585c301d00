"""Reading a request's images from the network: nothing is kept beyond the limits, and nothing is written to disk.

Two forms are taken: a raw body, which is one image, and `multipart/form-data`, of which every part is a file. The name
of a file is shown in the answer, and is used for nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from tercet.deploy.serving.memory import Lease
from tercet.deploy.serving.refusals import Gone, Refusal
from tercet.deploy.serving.settings import Limits

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


async def read_uploads(receive: Receive, headers: Mapping[str, str], limits: Limits, lease: Lease) -> list[Upload]:
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
        raise Refusal(415, "compressed bodies are not taken: send the image file as it is", close=True)
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.upload_bytes:
        raise _too_large(limits)
    sink = _sink(headers.get("content-type", ""), limits)
    received = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Gone("the client closed the connection")
        chunk = message.get("body", b"")
        received += len(chunk)
        if received > limits.upload_bytes:
            raise _too_large(limits)
        if chunk:
            lease.resize(received)
            sink.take(chunk)
        if not message.get("more_body", False):
            return sink.finish()


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"the request is larger than {limits.max_upload} MiB", reason="body size", close=True)


def _sink(content_type: str, limits: Limits) -> _Raw | _Multipart:
    kind, options = parse_options_header(content_type)
    name = kind.decode("latin-1")
    if name == _MULTIPART:
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise Refusal(400, "the multipart body has no boundary", close=True)
        return _Multipart(boundary, limits)
    if name in ("", "application/octet-stream") or name.startswith("image/"):
        return _Raw()
    raise Refusal(415, "send an image as it is (Content-Type: image/...), or files as multipart/form-data", close=True)


class _Raw:
    """A body that is one image."""

    def __init__(self) -> None:
        self._upload = Upload(None)

    def take(self, chunk: bytes) -> None:
        self._upload.content += chunk

    def finish(self) -> list[Upload]:
        if not self._upload.content:
            raise Refusal(400, "the body is empty: send one image")
        return [self._upload]


class _Multipart:
    """A body of several files."""

    def __init__(self, boundary: bytes, limits: Limits) -> None:
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
            raise Refusal(400, "the multipart boundary is too long", close=True) from error

    def take(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise Refusal(400, "the multipart body is broken", reason=str(error), close=True) from error

    def finish(self) -> list[Upload]:
        if not self._complete:
            raise Refusal(400, "the multipart body ends before its last boundary")
        if not self._uploads:
            raise Refusal(400, "the multipart body holds no file")
        return self._uploads

    def _begin(self) -> None:
        self._name, self._value, self._disposition = b"", b"", b""
        if len(self._uploads) == self._limits.max_images:
            raise Refusal(413, f"more than {self._limits.max_images} images in one request", close=True)

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
            raise Refusal(400, "every part of the multipart body must be a file", close=True)
        self._uploads.append(Upload(options[b"filename"].decode("utf-8", "replace")[:_LONGEST_NAME]))

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._uploads[-1].content += memoryview(data)[start:end]

    def _end(self) -> None:
        self._complete = True
