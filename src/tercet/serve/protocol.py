"""HTTP/1.1 protocol with timeouts and size limits; uvicorn alone waits forever for a silent client.

In addition to uvicorn's protocol, a connection is closed if a request does not arrive completely in time, if its head
is too long, if the client does not read the response, or if there are too many connections. Data that arrive during
the close are read and discarded for a moment (lingering close): otherwise the kernel would reset the connection, and
the client might lose the response.
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

_MAX_HEAD_BYTES = 32 * 1024
_MAX_HEADERS = 100
_MAX_PIPELINED = 8
_LINGER_SECONDS = 2.0
_STOPPING_IDLE_SECONDS = 0.5  # during shutdown: for a request in transit
_STOPPING_LINGER_SECONDS = 1.0
_LONG_HEAD = "the request head is too long"


class ServerConfig(Config):
    """uvicorn's configuration plus the values that every connection needs."""

    limits: ServerLimits
    on_rejected: Callable[[int, str], None]
    """Called for requests that get an error response here and never reach the application."""
    stopping: Callable[[], bool]
    """Whether connections close after the next response."""


class _LingeringTransport:
    """Transport whose `close` lingers (see `BoundedProtocol.linger`); sends head and body in one write."""

    def __init__(self, transport: asyncio.Transport, protocol: BoundedProtocol) -> None:
        self.real, self._protocol, self._closing = transport, protocol, False
        self._buffer: list[bytes] = []

    def close(self) -> None:
        if not self._closing:
            self._flush()
            self._closing = True
            self._protocol.linger(self.real)

    def is_closing(self) -> bool:
        return self._closing or self.real.is_closing()

    def write(self, content: bytes) -> None:
        if self._closing:
            return
        if not self._buffer:
            self._protocol.loop.call_soon(self._flush)
        self._buffer.append(content)

    def _flush(self) -> None:
        if self._buffer:
            content, self._buffer = b"".join(self._buffer), []
            self.real.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on bytes and time."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        bounded = cast("ServerConfig", config)
        self._limits, self._on_rejected, self._stopping = bounded.limits, bounded.on_rejected, bounded.stopping
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_head, self._complete, self._lingering = False, True, False
        self._head_bytes = self._header_count = self._unparsed = 0
        self._parse_status = 400
        self._pending_error: tuple[int, str] | None = None  # sent after the responses to earlier requests

    # ------------------------------------------------------------------------------------------ the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the read timer; respond 503 if there are too many connections."""
        super().connection_made(cast("asyncio.Transport", _LingeringTransport(transport, self)))
        self._start_read_timer()
        if len(self.connections) > self._limits.connections:
            self._reject(503, "too many connections: try again")
        elif self._stopping():
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        super().connection_lost(exc)
        self._stop_read_timer()
        self._unset_keepalive_if_required()
        if self._write_timer is not None:
            self._write_timer.cancel()
        self.pipeline.clear()

    def data_received(self, data: bytes) -> None:
        """Parse received data within the limits."""
        if self._lingering or self._pending_error is not None:  # discard
            return
        if self._read_timer is None:
            self._start_read_timer()
        in_head = self._in_head
        super().data_received(data)
        if in_head and self._in_head:  # the parser buffers an incomplete header without a callback
            self._unparsed += len(data)
            if self._unparsed > _MAX_HEAD_BYTES:
                self._reject(431, _LONG_HEAD)
        if len(self.pipeline) > _MAX_PIPELINED:
            while len(self.pipeline) > _MAX_PIPELINED:
                self.pipeline.popleft()
            self._reject(400, "too many pipelined requests")

    def pause_writing(self) -> None:
        """Start the write timer: the client does not read the response."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._limits.receive_timeout, self._abort)

    def resume_writing(self) -> None:
        """Stop the write timer."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    # ------------------------------------------------------------------------------------------ the parser

    def on_message_begin(self) -> None:
        """Reset the counters for a new request."""
        self._in_head, self._complete = True, False
        self._head_bytes = self._header_count = self._unparsed = 0
        if self._read_timer is None:  # the request arrived together with the end of the previous one
            self._start_read_timer()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count the bytes of the URL."""
        self._count(len(url), 0)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the headers and their bytes."""
        self._count(len(name) + len(value), 1)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End of the head."""
        self._in_head = False
        super().on_headers_complete()
        if self._stopping():
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The request is complete: stop the read timer."""
        self._complete = True
        self._stop_read_timer()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Respond to a parse error: invalid HTTP, or a head that is too long."""
        self._reject(self._parse_status, _LONG_HEAD if self._parse_status == 431 else "invalid HTTP request")

    def _count(self, size: int, headers: int) -> None:
        self._head_bytes += size
        self._header_count += headers
        if self._head_bytes > _MAX_HEAD_BYTES or self._header_count > _MAX_HEADERS:
            self._parse_status = 431
            raise ValueError(_LONG_HEAD)  # stops the parser, which calls `send_400_response`

    # ------------------------------------------------------------------------------------------ closing

    def shutdown(self) -> None:
        """Server shutdown: close after the current response; an idle connection gets a moment for a last request."""
        if self._idle():
            self.loop.call_later(_STOPPING_IDLE_SECONDS, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        if self._idle():
            self.transport.close()

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def linger(self, transport: asyncio.Transport) -> None:
        """Close a connection: flush, send EOF, then read and discard until the client closes or a timeout."""
        self._lingering = True
        self._stop_read_timer()
        if transport.is_closing():
            return
        timeout = _STOPPING_LINGER_SECONDS if self._stopping() else _LINGER_SECONDS
        if len(self.connections) > self._limits.connections:  # the file descriptor is needed
            transport.close()
        else:
            transport.resume_reading()
            with suppress(OSError):  # the client may have disconnected
                transport.write_eof()
        if transport.get_write_buffer_size():
            timeout = self._limits.receive_timeout
        self._read_timer = self.loop.call_later(timeout, transport.abort)

    def _start_read_timer(self) -> None:
        self._read_timer = self.loop.call_later(self._limits.receive_timeout, self._on_read_timeout)

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _on_read_timeout(self) -> None:
        self._read_timer = None
        if not self._complete:
            self._reject(408, "the request did not arrive in time")
        elif self._idle():
            self.transport.close()  # no request was started

    def _abort(self) -> None:
        cast("_LingeringTransport", self.transport).real.abort()

    def on_response_complete(self) -> None:
        """Continue with the next request, or send a pending error and close."""
        last = not self.pipeline
        super().on_response_complete()
        if last and self._pending_error is not None and not self.transport.is_closing():
            self._send_error(*self._pending_error, None)

    def _reject(self, status: int, message: str) -> None:
        """Respond with an error in place of the application and close, after the responses to earlier requests."""
        if self.transport.is_closing():
            return
        current = None if self._in_head or self._complete else self.cycle
        if self.pipeline and self.pipeline[0][0] is current:
            self.pipeline.popleft()
            self._pending_error = status, message
        elif self.pipeline or (current is None and not self._idle()):
            self._pending_error = status, message
        else:
            self._send_error(status, message, current)

    def _send_error(self, status: int, message: str, current: RequestResponseCycle | None) -> None:
        """Send the error and close; `current` is the faulty request if the application has it and will count it."""
        if current is None:
            self._on_rejected(status, message)
        if current is None or not current.response_started:
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
        if current is not None and not current.response_complete:
            if not current.response_started:
                cast("dict[str, Any]", current.scope)[REJECTED] = status, message
            current.disconnected = True  # the application receives `http.disconnect`
            current.message_event.set()
        self.transport.close()
