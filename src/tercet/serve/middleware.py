"""ASGI middleware: allowed hosts, security headers, counting of requests."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from tercet.serve.access_log import AccessLog
from tercet.serve.errors import Overloaded, error_response, json_response
from tercet.serve.metrics import Metrics

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]+))(?::[0-9]{1,5})?")


class AllowedHosts:
    """The hosts that a server answers to.

    Args:
        bound: The address that it listens on.
        allowed: Other names, such as the public one behind a proxy.
    """

    def __init__(self, bound: str, allowed: Sequence[str] = ()) -> None:
        self._open = not is_loopback(bound)
        own = (socket.gethostname(),) if self._open else ()
        self._names = {_plain(name) for name in (*_LOOPBACK, bound, *own, *allowed)}

    def accepts(self, header: str) -> bool:
        """Tell whether to answer a request with this header.

        Where the server is open to a network, every numeric address is accepted: rebinding needs a name.
        """
        match = _HOST.fullmatch(header)
        if match is None:
            return False
        name = _plain(match["six"] or match["name"])
        return name in self._names or (self._open and _numeric(name))


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    return _plain(host) == "localhost" or (_numeric(host) and ipaddress.ip_address(host).is_loopback)


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _numeric(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""What the page may load and do: only what comes from this server, and pictures that the user chose."""
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
"""Of every answer."""
REJECTED = "tercet.turned_away"
"""Where the scope of a request tells that its connection was answered in place of the application: status, message."""


class GuardMiddleware:
    """An application with its hosts checked, its answers given the headers, and its requests counted and written down.

    Args:
        application: What answers.
        hosts: Which hosts it answers to.
        paths: The paths that it has; all others are counted as one.
        metrics: Counts.
        journal: Writes.
    """

    def __init__(
        self,
        application: Application,
        *,
        hosts: AllowedHosts,
        paths: frozenset[str],
        metrics: Metrics,
        journal: AccessLog,
    ) -> None:
        self._application, self._hosts, self._paths = application, hosts, paths
        self._metrics, self._journal = metrics, journal
        self.open = 0
        """Requests under way."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        start, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        notes: dict[str, Any] = {}
        scope["tercet.notes"] = notes
        self.open += 1
        try:
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            if len(hosts) == 1 and self._hosts.accepts(hosts[0].decode("latin-1")):
                # An answer to HEAD is that to GET; the body stays here, below the application.
                asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
                await self._application(asked, receive, sending)
            else:
                message = "this server does not answer to that host: see tercet serve --allow-host"
                await json_response(421, {"error": message}, close=True)(scope, receive, sending)
        except asyncio.CancelledError:  # the server ends, and the grace is over
            notes["cut off"] = True
            if not status:
                with suppress(Exception):
                    await error_response(Overloaded("the server is stopping", reason="stopping", close=True))(
                        scope, receive, sending
                    )
        finally:
            self.open -= 1
            if REJECTED in scope:
                status, notes = scope[REJECTED][0], {"reason": scope[REJECTED][1]}
            self._tell(scope, status, time.perf_counter() - start, notes)

    def turned_away(self, status: int, message: str) -> None:
        """Count and write down what was no request, or did not become one."""
        self._metrics.request("none", status, 0.0)
        self._journal.tell("turned away", status=status, reason=message)

    def _tell(self, scope: Scope, status: int, seconds: float, notes: dict[str, Any]) -> None:
        path = scope["path"] if scope["path"] in self._paths else "other"
        self._metrics.request(path, status, seconds)
        self._journal.tell(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            milliseconds=round(1000 * seconds, 2),
            client=(scope.get("client") or ("",))[0],
            **notes,
        )
