"""Around the application: the host check, headers that browsers obey, and one line in the journal a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from tercet.deploy.serving.hosts import Hosts
from tercet.deploy.serving.journal import Journal
from tercet.deploy.serving.metrics import Metrics
from tercet.deploy.serving.refusals import Busy
from tercet.deploy.serving.replies import refuse, reply

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
TURNED_AWAY = "tercet.turned_away"
"""Where the scope of a request tells that its connection was answered in place of the application: status, message."""


class Guard:
    """An application with its hosts checked, its answers given the headers, and its requests counted and written down.

    Args:
        application: What answers.
        hosts: Which hosts it answers to.
        paths: The paths that it has; all others are counted as one.
        metrics: Counts.
        journal: Writes.
    """

    def __init__(
        self, application: Application, *, hosts: Hosts, paths: frozenset[str], metrics: Metrics, journal: Journal
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
                await reply(421, {"error": message}, close=True)(scope, receive, sending)
        except asyncio.CancelledError:  # the server ends, and the grace is over
            notes["cut off"] = True
            if not status:
                with suppress(Exception):
                    await refuse(Busy("the server is stopping", reason="stopping", close=True))(scope, receive, sending)
        finally:
            self.open -= 1
            if TURNED_AWAY in scope:
                status, notes = scope[TURNED_AWAY][0], {"reason": scope[TURNED_AWAY][1]}
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
