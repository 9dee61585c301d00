"""Clients that send nothing, send slowly, or do not read: they are disconnected, and others are served."""

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from tests.serve.crowd import LONG
from tests.serve.models import RED
from tests.serve.server import Server, receive, request

DEADLINE = 2.0  # receive timeout of the shared server
SLACK = 6.0  # for the lingering close and a busy machine
pytestmark = pytest.mark.slow

SILENT = b""
HALF_HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nX-"
HALF_BODY = request(headers=["Content-Length: 1000"], body=b"x" * 10)
HALF_CHUNK = request(headers=["Transfer-Encoding: chunked"], body=b"ff\r\nxx")
EMPTY_LINES = b"\r\n\r\n"


async def stuck(address: tuple[str, int], opening: bytes, drip: bytes) -> tuple[float, bytes]:
    """Open a connection, send a few bytes at intervals; return seconds until the close and the received bytes."""
    reader, writer = await asyncio.open_connection(*address)
    start = time.monotonic()
    writer.write(opening)

    async def send_slowly() -> None:
        while drip:
            await asyncio.sleep(0.25)
            writer.write(drip)

    task = asyncio.create_task(send_slowly())
    received = b""
    try:
        while piece := await asyncio.wait_for(reader.read(4096), DEADLINE + 5 * SLACK):
            received += piece
    except ConnectionResetError:
        pass
    task.cancel()
    writer.close()
    return time.monotonic() - start, received


def test_incomplete_requests_time_out(server: Server) -> None:
    kinds = [(SILENT, b"", b""), (HALF_HEAD, b"x", b"408"), (HALF_BODY, b"x", b"408"), (HALF_CHUNK, b"", b"408")]
    kinds += [(EMPTY_LINES, b"\r\n", b"")]

    async def all_kinds() -> list[tuple[float, bytes]]:
        return await asyncio.gather(*(stuck(server.address, opening, drip) for opening, drip, _ in kinds))

    for (seconds, received), (opening, _, status) in zip(asyncio.run(all_kinds()), kinds, strict=True):
        assert DEADLINE * 0.9 < seconds < DEADLINE + SLACK, opening
        assert received[9:12] == status, opening


def test_keep_alive_timeout(server: Server) -> None:
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(request("GET", "/health/live"))
            received = b""
            while not received.endswith(b"}"):
                received += connection.recv(65536)
            assert b"200 OK" in received
            time.sleep(0.5)
        assert connection.recv(1) == b""


@pytest.mark.parametrize("clients", [300, pytest.param(2000, marks=LONG)])
def test_stuck_clients_do_not_block_others(server: Server, clients: int) -> None:
    before, descriptors = server.memory(), server.descriptors()

    async def attack() -> tuple[list[float], list[float]]:
        openings = (HALF_HEAD, HALF_BODY, SILENT)
        tasks = [asyncio.create_task(stuck(server.address, openings[index % 3], b"")) for index in range(clients)]
        await asyncio.sleep(0.5)
        waits = []
        for _ in range(5):
            start = time.monotonic()
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(request("GET", "/health/live"))
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            waits.append(time.monotonic() - start)
            writer.close()
        return waits, [seconds for seconds, _ in await asyncio.gather(*tasks)]

    waits, seconds = asyncio.run(attack())
    assert sorted(waits)[2] < 0.5
    assert max(seconds) < DEADLINE + SLACK + clients / 500
    assert server.memory() - before < 20_000_000 + 30_000 * clients
    server.wait_for(lambda: server.descriptors() <= descriptors + 3)


@pytest.fixture
def unread(server: Server) -> Iterator[socket.socket]:
    """Return a connection with a small receive buffer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(server.address)
    yield connection
    connection.close()


def test_client_that_does_not_read_is_disconnected(server: Server, unread: socket.socket) -> None:
    unread.settimeout(0.2)
    end = time.monotonic() + DEADLINE + 4 * SLACK
    message = request("GET", "/openapi.json")
    with pytest.raises(OSError, match=r"reset|pipe"):
        while time.monotonic() < end:
            try:
                unread.sendall(message)
            except TimeoutError:
                continue
            time.sleep(0.005)


def test_lingering_close_ends(server: Server) -> None:
    """The rejected body is endless: the client gets the response and is then disconnected."""
    with server.connect() as connection:
        connection.sendall(request(headers=[f"Content-Length: {2**40}"], body=RED))
        connection.settimeout(0.5)
        end = time.monotonic() + 4 * SLACK
        with pytest.raises(OSError, match=r"reset|pipe"):
            while time.monotonic() < end:
                connection.sendall(b"x" * 1024)
                time.sleep(0.01)
    with server.connect() as connection:
        connection.sendall(request(headers=[f"Content-Length: {2**40}"], body=RED))
        assert receive(connection)[0] == 413
