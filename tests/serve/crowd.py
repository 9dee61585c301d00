"""Many concurrent clients, on plain sockets in one event loop."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from tests.serve.server import PATIENCE, request

SOAK = float(os.environ.get("TERCET_SOAK", "0"))
"""Duration of the soak test in seconds; without it the longest tests are skipped."""
LONG = (pytest.mark.slow, pytest.mark.skipif(not SOAK, reason="set TERCET_SOAK to seconds, such as 300"))
"""Marks of the longest tests."""


@dataclass
class Outcome:
    """Status counts (0: broken connection) and seconds from request to response."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    retry_after: int = 0
    """Responses with Retry-After."""

    def quantile(self, share: float) -> float:
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


async def read_response(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Return status, head and body of one response."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return int(head.split(b" ", 2)[1]), head, await reader.readexactly(length)


async def _client(address: tuple[str, int], wire: bytes, times: int, outcome: Outcome, gate: asyncio.Event) -> None:
    try:
        reader, writer = await asyncio.open_connection(*address)
    except OSError:
        outcome.statuses[0] += times
        return
    await gate.wait()
    try:
        for _ in range(times):
            start = time.perf_counter()
            writer.write(wire)
            status, head, _ = await read_response(reader)
            outcome.seconds.append(time.perf_counter() - start)
            outcome.statuses[status] += 1
            outcome.retry_after += b"retry-after" in head
    except (OSError, EOFError):
        outcome.statuses[0] += 1
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def crowd(
    address: tuple[str, int], wire: bytes, *, clients: int, times: int = 1, together: bool = True
) -> Outcome:
    """Send the same request from many clients, each on its own connection.

    Args:
        address: Address of the server.
        wire: Raw bytes of the request.
        clients: Number of clients.
        times: Requests per client, one after the other.
        together: Connect all clients before the first request.
    """
    outcome, gate = Outcome(), asyncio.Event()
    if not together:
        gate.set()
    tasks = [asyncio.create_task(_client(address, wire, times, outcome, gate)) for _ in range(clients)]
    if together:
        await asyncio.sleep(0.2 + clients / 4000)
        gate.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 2 * PATIENCE)
    return outcome


def wire(content: bytes, headers: Sequence[str] = ()) -> bytes:
    """Return a prediction request for one image."""
    return request(headers=["Content-Type: image/png", f"Content-Length: {len(content)}", *headers], body=content)
