"""The end of a server: clients that have connected are answered or see an orderly end, and no reset connection."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from uvicorn import Server

_LAST_SECONDS = 1.0
_ATTACH_FILTER = 26  # of Linux; Python has no name for it
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # a packet filter of one instruction: keep no byte


class GracefulServer(Server):
    """uvicorn's server, which also takes connections that still wait, and leaves when its last answers have gone."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listening sockets, then the connections."""
        loop = asyncio.get_running_loop()
        # The system resets connections that wait when their socket closes: therefore they are all taken first.
        late = [loop.create_task(self._meet(one)) for one in _waiting(sockets or ())]
        await super().shutdown(sockets)
        await asyncio.gather(*late, return_exceptions=True)  # who has gone meanwhile holds up nobody
        end = time.monotonic() + _LAST_SECONDS
        while self.server_state.connections and not self.force_exit and time.monotonic() < end:
            await asyncio.sleep(0.02)

    async def _meet(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            kind = cast("Any", self.config.http_protocol_class)
            made = kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop)
            return cast("asyncio.Protocol", made)

        await loop.connect_accepted_socket(protocol, connection)


def _waiting(listeners: Sequence[socket.socket]) -> list[socket.socket]:
    """Take the connections that the system holds ready, after which no more become ready."""
    found = []
    for listener in listeners:
        _deafen(listener)
        try:
            while True:
                found.append(listener.accept()[0])
        except OSError:  # there is none any more, or no room for it
            continue
    for connection in found:
        connection.setblocking(False)
    return found


def _deafen(listener: socket.socket) -> None:
    """Let the system overlook who wants to connect; it asks again a second later, and is refused then.

    Elsewhere than on Linux who connects in the instant before the socket closes may still see a reset.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(_DROP_ALL)
        with suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))
