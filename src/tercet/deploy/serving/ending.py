"""The end of a server: clients that have connected are answered or see an orderly end, and no reset connection."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import Any, cast

from uvicorn import Server

_LAST_SECONDS = 1.0


class OrderlyServer(Server):
    """uvicorn's server, which also takes connections that still wait, and leaves when its last answers have gone."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listening sockets, then the connections."""
        loop = asyncio.get_running_loop()
        # The system resets connections that wait when their socket closes; that they are taken below, and it closes
        # before anything else is done, leaves them next to no time for that.
        late = [loop.create_task(self._meet(one)) for one in _waiting(sockets or ())]
        await super().shutdown(sockets)
        await asyncio.gather(*late)
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
    """Take the connections that the system holds ready."""
    found = []
    for listener in listeners:
        try:
            while True:
                found.append(listener.accept()[0])
        except OSError:  # there is none any more, or no room for it
            continue
    for connection in found:
        connection.setblocking(False)
    return found
