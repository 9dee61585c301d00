"""HTTP over one connection, with an end to everything: uvicorn alone waits for ever for a client that says nothing.

Beside what uvicorn's protocol does, here a connection is closed when a request does not arrive whole in time, when its
head is too long, when the client does not take its answer, and when there are too many connections. What a client sends
while its connection is closed is read and thrown away for a moment: otherwise the system would reset it, and the client
might never see the answer that it was sent before.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tercet.config.deployment import ServerLimits
from tercet.serve.middleware import HEADERS, REJECTED

_HEAD_BYTES = 32 * 1024
_HEADERS = 100
_PIPELINED = 8
_LINGER_SECONDS = 2.0
_LAST_CALL_SECONDS = 0.5  # while the server stops: for a request that is on its way
_LAST_LINGER_SECONDS = 1.0
_LONG_HEAD = "the head of the request is too long"


class ServerConfig(Config):
    """uvicorn's configuration with our limits, which every connection reads."""

    limits: ServerLimits
    turned_away: Callable[[int, str], None]
    """Is told of clients that are answered here and never reached the application."""
    stopping: Callable[[], bool]
    """Whether connections are to end with the next answer."""


class _LingeringTransport:
    """A connection's transport whose `close` is the protocol's to decide, and which sends head and body as one."""

    def __init__(self, transport: asyncio.Transport, protocol: BoundedProtocol) -> None:
        self.real, self._protocol, self._closing = transport, protocol, False
        self._waiting: list[bytes] = []

    def close(self) -> None:
        if not self._closing:
            self._flush()
            self._closing = True
            self._protocol.part(self.real)

    def is_closing(self) -> bool:
        return self._closing or self.real.is_closing()

    def write(self, content: bytes) -> None:
        if self._closing:
            return
        if not self._waiting:
            self._protocol.loop.call_soon(self._flush)
        self._waiting.append(content)

    def _flush(self) -> None:
        if self._waiting:
            content, self._waiting = b"".join(self._waiting), []
            self.real.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, bounded in bytes and time."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        patient = cast("ServerConfig", config)
        self._limits, self._turned_away, self._stopping = patient.limits, patient.turned_away, patient.stopping
        self._due: asyncio.TimerHandle | None = None  # until when the client must have sent, or taken, something
        self._stalled: asyncio.TimerHandle | None = None
        self._in_head, self._whole, self._parted = False, True, False
        self._head_bytes = self._header_count = self._unparsed = 0
        self._bad = 400
        self._last_words: tuple[int, str] | None = None  # said when the requests before have been answered

    # ------------------------------------------------------------------------------------------ the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock, or send the client away."""
        super().connection_made(cast("asyncio.Transport", _LingeringTransport(transport, self)))
        self._start_clock()
        if len(self.connections) > self._limits.connections:
            self._say(503, "too many connections: try again")
        elif self._stopping():
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        super().connection_lost(exc)
        self._stop_clock()
        self._unset_keepalive_if_required()
        if self._stalled is not None:
            self._stalled.cancel()
        self.pipeline.clear()

    def data_received(self, data: bytes) -> None:
        """Parse what came, within the limits."""
        if self._parted or self._last_words is not None:  # what comes after the end is thrown away
            return
        if self._due is None:
            self._start_clock()
        in_head = self._in_head
        super().data_received(data)
        if in_head and self._in_head:  # the parser keeps an unfinished header to itself
            self._unparsed += len(data)
            if self._unparsed > _HEAD_BYTES:
                self._say(431, _LONG_HEAD)
        if len(self.pipeline) > _PIPELINED:
            while len(self.pipeline) > _PIPELINED:
                self.pipeline.popleft()
            self._say(400, "too many requests at once on one connection")

    def pause_writing(self) -> None:
        """Give the client time to take its answer, but not for ever."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self._limits.receive_timeout, self._abort)

    def resume_writing(self) -> None:
        """The client took it."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    # ------------------------------------------------------------------------------------------ the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head, self._whole = True, False
        self._head_bytes = self._header_count = self._unparsed = 0
        if self._due is None:  # it came together with the end of the one before
            self._start_clock()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count the bytes of the address."""
        self._count(len(url), 0)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the headers and their bytes."""
        self._count(len(name) + len(value), 1)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body follows."""
        self._in_head = False
        super().on_headers_complete()
        if self._stopping():
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The request is here: nothing is due from the client."""
        self._whole = True
        self._stop_clock()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or too much of it."""
        self._say(self._bad, _LONG_HEAD if self._bad == 431 else "this is not a valid HTTP request")

    def _count(self, size: int, headers: int) -> None:
        self._head_bytes += size
        self._header_count += headers
        if self._head_bytes > _HEAD_BYTES or self._header_count > _HEADERS:
            self._bad = 431
            raise ValueError(_LONG_HEAD)  # the parser stops, and `send_400_response` is called

    # ------------------------------------------------------------------------------------------ ends

    def shutdown(self) -> None:
        """The server stops: end with the answer that is being made, or when there was time for a last request."""
        if self._idle():
            self.loop.call_later(_LAST_CALL_SECONDS, self._retire)
        else:
            self.cycle.keep_alive = False

    def _retire(self) -> None:
        if self._idle():
            self.transport.close()

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def part(self, transport: asyncio.Transport) -> None:
        """Close a connection: send what is to be sent, then an end, and read for nothing until the client ends too."""
        self._parted = True
        self._stop_clock()
        if transport.is_closing():
            return
        patience = _LAST_LINGER_SECONDS if self._stopping() else _LINGER_SECONDS
        if len(self.connections) > self._limits.connections:  # its descriptor is needed
            transport.close()
        else:
            transport.resume_reading()
            with suppress(OSError):  # the client may have gone meanwhile
                transport.write_eof()
        if transport.get_write_buffer_size():
            patience = self._limits.receive_timeout
        self._due = self.loop.call_later(patience, transport.abort)

    def _start_clock(self) -> None:
        self._due = self.loop.call_later(self._limits.receive_timeout, self._expired)

    def _stop_clock(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _expired(self) -> None:
        self._due = None
        if not self._whole:
            self._say(408, "the request did not arrive in time")
        elif self._idle():
            self.transport.close()  # nothing was begun

    def _abort(self) -> None:
        cast("_LingeringTransport", self.transport).real.abort()

    def on_response_complete(self) -> None:
        """Turn to the next request, or say what is still to be said."""
        answered = not self.pipeline
        super().on_response_complete()
        if answered and self._last_words is not None and not self.transport.is_closing():
            self._end(*self._last_words, None)

    def _say(self, status: int, message: str) -> None:
        """Answer in place of the application, and close; requests that came whole before are answered first."""
        if self.transport.is_closing():
            return
        faulty = None if self._in_head or self._whole else self.cycle
        if self.pipeline and self.pipeline[0][0] is faulty:
            self.pipeline.popleft()
            self._last_words = status, message
        elif self.pipeline or (faulty is None and not self._idle()):
            self._last_words = status, message
        else:
            self._end(status, message, faulty)

    def _end(self, status: int, message: str, faulty: RequestResponseCycle | None) -> None:
        """Answer and close; where the application has a faulty request, it is not counted a second time."""
        if faulty is None:
            self._turned_away(status, message)
        if faulty is None or not faulty.response_started:
            body = json.dumps({"error": message}).encode()
            lines = [STATUS_LINE[status]]
            for name, value in (
                *self.server_state.default_headers,
                *HEADERS,
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ):
                lines += [name, b": ", value, b"\r\n"]
            self.transport.write(b"".join([*lines, b"\r\n", body]))
        if faulty is not None and not faulty.response_complete:
            if not faulty.response_started:
                cast("dict[str, Any]", faulty.scope)[REJECTED] = status, message
            faulty.disconnected = True  # the application is told that nobody listens
            faulty.message_event.set()
        self.transport.close()
