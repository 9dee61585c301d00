"""How requests and connections end: one answer and one line of the journal each, and never a reset connection."""

import asyncio
import json
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.serve.crowd import read_response, wire
from tests.serve.models import GREEN, RED, write_coloured
from tests.serve.server import PATIENCE, Server, receive, request

LIVE = request("GET", "/health/live")
CLOSE = "Connection: close"
BAD_CHUNK = request(headers=["Transfer-Encoding: chunked"], body=b"zz\r\nno chunk\r\n")


def statuses(received: bytes) -> list[int]:
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


def counts(server: Server) -> Counter[str]:
    """Return how many requests were counted, by path and status, without those for the numbers themselves."""
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("tercet_requests_total{"))
    return Counter({name[22:-1]: int(float(number)) for name, number in pairs if '"/metrics"' not in name})


def settled(server: Server) -> int:
    """Wait until the journal has told of all that was asked before, and return the number of its lines."""
    place = f"/settled-{time.monotonic_ns()}"
    with server.client() as client:
        client.get(place)
    server.wait_for(lambda: any(one.get("path") == place for one in server.log))
    return next(index for index, one in enumerate(server.log) if one.get("path") == place) + 1


@pytest.mark.parametrize(
    ("sent", "answered", "told"),
    [
        (request(headers=["Content-Length: 1000"], body=b"x"), [408], [("request", 408)]),
        (BAD_CHUNK, [400], [("request", 400)]),
        (
            request("GET", "/nowhere", headers=["Content-Length: 9"]),
            [404],
            [("request", 404)],
        ),  # and its body never comes
        (b"no request\r\n\r\n", [400], [("rejected", 400)]),
        (LIVE + b"no request\r\n\r\n", [200, 400], [("request", 200), ("rejected", 400)]),
        (wire(RED) + BAD_CHUNK, [200, 400], [("request", 200), ("rejected", 400)]),
        (wire(RED) + BAD_CHUNK[:-14], [200, 408], [("request", 200), ("request", 408)]),
        (LIVE * 20, [200] * 9 + [400], [("request", 200)] * 9 + [("rejected", 400)]),
    ],
    ids=[
        "no body",
        "bad chunk",
        "answered early",
        "nonsense",
        "then nonsense",
        "then bad chunk",
        "then no body",
        "many",
    ],
)
def test_each_request_has_one_response_and_one_log_line(
    server: Server, sent: bytes, answered: list[int], told: list[tuple[str, int]]
) -> None:
    first = settled(server)
    before = counts(server)
    assert statuses(server.exchange(sent)[1]) == answered
    found: list[tuple[str, int]] = []

    def lines() -> bool:
        found[:] = [(one["event"], one["status"]) for one in server.log[first:] if one.get("path") != "/metrics"]
        return len(found) >= len(told)

    server.wait_for(lines)
    more = counts(server) - before
    assert lines() and sorted(found) == sorted(told)
    assert sum(more.values()) == len(told)
    for status in set(answered):
        assert sum(count for name, count in more.items() if f'status="{status}"' in name) == answered.count(status)


def test_receive_timeout_is_logged_with_the_path(server: Server) -> None:
    first = settled(server)
    status, received = server.exchange(request(headers=["Content-Length: 1000"], body=b"x"))
    assert status == 408 and json.loads(received.partition(b"\r\n\r\n")[2])["error"]
    server.wait_for(lambda: len(server.log) > first)
    line = server.log[first]
    assert (line["method"], line["path"], line["reason"]) == (
        "POST",
        "/v1/predict",
        "the request did not arrive in time",
    )
    assert line["milliseconds"] > 0 and "disconnected" not in line


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/docs", "/openapi.json", "/health/live", "/health/ready", "/v1/model"]
)
def test_head_equals_get_without_body(server: Server, path: str) -> None:
    with server.client() as client:
        got, headed = client.get(path), client.head(path)
        assert headed.status_code == 200 and headed.content == b""
        headers = [{name: value for name, value in one.headers.items() if name != "date"} for one in (got, headed)]
        assert headers[0] == headers[1] and int(headers[1]["content-length"]) == len(got.content) > 0
    status, received = server.exchange(request("HEAD", path) + request("GET", "/health/live", [CLOSE]))
    assert status == 200 and statuses(received) == [200, 200]  # nothing lies between the two
    assert received.count(b"\r\n\r\n") == 2 and received.partition(b"\r\n\r\n")[2].startswith(b"HTTP/1.1 200")


def test_head_of_metrics_and_errors(server: Server) -> None:
    with server.client() as client:
        numbers = client.head("/metrics")
        assert numbers.status_code == 200 and int(numbers.headers["content-length"]) > 1000
        assert client.head("/nowhere").status_code == 404
        refused = client.head("/v1/predict")
        assert refused.status_code == 405 and refused.headers["allow"] == "POST" and refused.content == b""
        assert client.put("/v1/model").headers["allow"] == "GET, HEAD"
    assert any(one["method"] == "HEAD" and one["path"] == "/metrics" for one in server.events("request"))


@pytest.mark.slow  # the test must be as fast as the server is patient
def test_request_on_a_closing_idle_connection_sees_no_reset(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(LIVE)
        while not connection.recv(65536).endswith(b"}"):
            pass
        assert connection.recv(1) == b""  # it was idle for too long
        for _ in range(3):
            connection.sendall(LIVE)
            time.sleep(0.05)
        assert connection.recv(1) == b""


@pytest.mark.slow  # likewise
def test_client_that_keeps_sending_can_read_the_last_response(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(request("GET", "/docs", [CLOSE]) + LIVE * 3)
        for _ in range(3):
            time.sleep(0.05)
            connection.sendall(LIVE)
        assert statuses(receive(connection)[1]) == [200]
        connection.settimeout(0.5)
        assert connection.recv(1) == b""


@pytest.mark.parametrize("late", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "late requests"])
def test_shutdown_responds_on_open_connections_and_closes_idle_ones(folder: Path, late: bool) -> None:
    with Server(write_coloured(folder / "parting.onnx")) as running:
        idle, fresh, asking = running.connect(), running.connect(), running.connect()
        idle.sendall(LIVE)
        while not idle.recv(65536).endswith(b"}"):
            pass
        running.process.terminate()
        asking.sendall(wire(GREEN))
        status, received = receive(asking)
        assert status == 503 and b"\r\nconnection: close\r\n" in received and b"\r\nretry-after: 1\r\n" in received
        for connection in (idle, fresh):
            assert connection.recv(1) == b""
            if late:  # for a moment without a reset
                connection.sendall(LIVE)
                time.sleep(0.05)
                assert connection.recv(1) == b""
        for connection in (idle, fresh, asking):
            connection.close()
        assert running.process.wait(PATIENCE) == 0


async def _asking(address: tuple[str, int], seen: Counter[str]) -> None:
    """Ask again and again, on a connection for as long as it lasts, until connections are refused."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(*address)
        except ConnectionRefusedError:
            seen["refused"] += 1
            return
        except OSError as error:
            seen[f"{type(error).__name__} at the beginning"] += 1
            return
        try:
            last = False
            while not last:
                writer.write(wire(GREEN))
                status, head, _ = await read_response(reader)
                seen[str(status)] += 1
                last = b"connection: close" in head
                assert (status == 200) or (last and b"retry-after" in head)
        except asyncio.IncompleteReadError as error:
            seen["part of an answer" if error.partial else "end"] += 1
        except OSError as error:
            seen[type(error).__name__] += 1
        writer.close()
        try:
            await writer.wait_closed()
        except OSError as error:
            seen[f"{type(error).__name__} at the end"] += 1


@pytest.mark.parametrize("answers", [1, 50, 100, 150, 200])
def test_shutdown_resets_no_connection(folder: Path, answers: int) -> None:
    model = write_coloured(folder / "looped.onnx")
    seen: Counter[str] = Counter()
    with Server(model) as running:

        async def loops() -> None:
            clients = [asyncio.create_task(_asking(running.address, seen)) for _ in range(32)]
            while seen["200"] < answers:
                await asyncio.sleep(0.001)
            running.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(asyncio.gather(*clients), PATIENCE)

        asyncio.run(loops())
        assert running.process.wait(PATIENCE) == 0
    assert set(seen) <= {"200", "503", "end", "refused"}, seen
    assert seen["refused"] == 32 and seen["200"] > 0
