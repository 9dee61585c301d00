"""ASGI middleware: allowed hosts, security headers, request metrics and log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from tercet.serve.errors import Overloaded, error_response, json_response
from tercet.serve.listener import AllowedHosts
from tercet.serve.monitoring import AccessLog, Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Content security policy: the page loads only files of this server and images that the user selected."""
HEADERS = tuple(
    (name.encode(), value.encode())
    for name, value in (
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("permissions-policy", "camera=(self), microphone=(), geolocation=()"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    )
)
"""Headers of every response."""
REJECTED = "tercet.rejected"
"""Scope key: status and message if the protocol has responded in place of the application."""
LOG_FIELDS = "tercet.log_fields"
"""Scope key: fields that the application adds to the request's log line."""


class GuardMiddleware:
    """Checks the Host header, adds the security headers, counts and logs requests.

    Args:
        application: The wrapped ASGI application.
        hosts: Accepted hosts.
        paths: Paths of the application; all others are counted as `other`.
        metrics: Counts the requests.
        log: Receives one event per request.
    """

    def __init__(
        self,
        application: Application,
        *,
        hosts: AllowedHosts,
        paths: frozenset[str],
        metrics: Metrics,
        log: AccessLog,
    ) -> None:
        self._application, self._hosts, self._paths = application, hosts, paths
        self._metrics, self._log = metrics, log
        self.active = 0
        """Requests in progress."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        start, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        fields: dict[str, Any] = {}
        scope[LOG_FIELDS] = fields
        self.active += 1
        try:
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            if len(hosts) == 1 and self._hosts.accepts(hosts[0].decode("latin-1")):
                # HEAD is served as GET; uvicorn omits the body.
                inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
                await self._application(inner, receive, send_with_headers)
            else:
                message = "host not allowed: start tercet serve with --allow-host to accept another host name"
                await json_response(421, {"error": message}, close=True)(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # the grace period of the shutdown is over
            fields["cancelled"] = True
            if not status:
                with suppress(Exception):
                    await error_response(Overloaded("the server is stopping", reason="stopping", close=True))(
                        scope, receive, send_with_headers
                    )
        finally:
            self.active -= 1
            if REJECTED in scope:
                status, fields = scope[REJECTED][0], {"reason": scope[REJECTED][1]}
            self._record(scope, status, time.perf_counter() - start, fields)

    def record_rejected(self, status: int, message: str) -> None:
        """Count and log malformed or aborted requests that did not reach the application."""
        self._metrics.request("none", status, 0.0)
        self._log.write("rejected", status=status, reason=message)

    def _record(self, scope: Scope, status: int, seconds: float, fields: dict[str, Any]) -> None:
        path = scope["path"] if scope["path"] in self._paths else "other"
        self._metrics.request(path, status, seconds)
        self._log.write(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            milliseconds=round(1000 * seconds, 2),
            client=(scope.get("client") or ("",))[0],
            **fields,
        )
