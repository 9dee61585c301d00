"""The end of requests and connections: one response and one log line each, no connection reset."""

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
    """Return the request counts by path and status, without requests of /metrics."""
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("tercet_requests_total{"))
    return Counter({name[22:-1]: int(float(number)) for name, number in pairs if '"/metrics"' not in name})


def log_position(server: Server) -> int:
    """Wait until all earlier requests are logged, and return the number of log entries."""
    path = f"/settled-{time.monotonic_ns()}"
    with server.client() as client:
        client.get(path)
    server.wait_for(lambda: any(entry.get("path") == path for entry in server.log))
    return next(index for index, entry in enumerate(server.log) if entry.get("path") == path) + 1


@pytest.mark.parametrize(
    ("sent", "statuses_received", "events"),
    [
        pytest.param(
            request(headers=["Content-Length: 1000"], body=b"x"), [408], [("request", 408)], marks=pytest.mark.slow
        ),
        (BAD_CHUNK, [400], [("request", 400)]),
        (request("GET", "/nowhere", headers=["Content-Length: 9"]), [404], [("request", 404)]),
        (b"no request\r\n\r\n", [400], [("rejected", 400)]),
        (LIVE + b"no request\r\n\r\n", [200, 400], [("request", 200), ("rejected", 400)]),
        (wire(RED) + BAD_CHUNK, [200, 400], [("request", 200), ("rejected", 400)]),
        pytest.param(
            wire(RED) + BAD_CHUNK[:-14], [200, 408], [("request", 200), ("request", 408)], marks=pytest.mark.slow
        ),
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
    server: Server, sent: bytes, statuses_received: list[int], events: list[tuple[str, int]]
) -> None:
    first = log_position(server)
    before = counts(server)
    assert statuses(server.exchange(sent)[1]) == statuses_received
    logged: list[tuple[str, int]] = []

    def is_logged() -> bool:
        logged[:] = [
            (entry["event"], entry["status"]) for entry in server.log[first:] if entry.get("path") != "/metrics"
        ]
        return len(logged) >= len(events)

    server.wait_for(is_logged)
    more = counts(server) - before
    assert is_logged() and sorted(logged) == sorted(events)
    assert sum(more.values()) == len(events)
    for status in set(statuses_received):
        assert sum(count for name, count in more.items() if f'status="{status}"' in name) == statuses_received.count(
            status
        )


def test_receive_timeout_is_logged_with_the_path(server: Server) -> None:
    first = log_position(server)
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
        get, head = client.get(path), client.head(path)
        assert head.status_code == 200 and head.content == b""
        headers = [
            {name: value for name, value in response.headers.items() if name != "date"} for response in (get, head)
        ]
        assert headers[0] == headers[1] and int(headers[1]["content-length"]) == len(get.content) > 0
    status, received = server.exchange(request("HEAD", path) + request("GET", "/health/live", [CLOSE]))
    assert status == 200 and statuses(received) == [200, 200]  # no body between the two
    assert received.count(b"\r\n\r\n") == 2 and received.partition(b"\r\n\r\n")[2].startswith(b"HTTP/1.1 200")


def test_head_of_metrics_and_errors(server: Server) -> None:
    with server.client() as client:
        metrics = client.head("/metrics")
        assert metrics.status_code == 200 and int(metrics.headers["content-length"]) > 1000
        assert client.head("/nowhere").status_code == 404
        rejected = client.head("/v1/predict")
        assert rejected.status_code == 405 and rejected.headers["allow"] == "POST" and rejected.content == b""
        assert client.put("/v1/model").headers["allow"] == "GET, HEAD"
    assert any(event["method"] == "HEAD" and event["path"] == "/metrics" for event in server.events("request"))


@pytest.mark.slow  # depends on timing
def test_request_on_a_closing_idle_connection_sees_no_reset(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(LIVE)
        while not connection.recv(65536).endswith(b"}"):
            pass
        assert connection.recv(1) == b""  # keep-alive timeout
        for _ in range(3):
            connection.sendall(LIVE)
            time.sleep(0.05)
        assert connection.recv(1) == b""


@pytest.mark.slow  # depends on timing
def test_client_that_keeps_sending_can_read_the_last_response(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(request("GET", "/docs", [CLOSE]) + LIVE * 3)
        for _ in range(3):
            time.sleep(0.05)
            connection.sendall(LIVE)
        assert statuses(receive(connection)[1]) == [200]
        connection.settimeout(0.5)
        assert connection.recv(1) == b""


@pytest.mark.slow
def test_shutdown_responds_on_open_connections_and_closes_idle_ones(folder: Path) -> None:
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
            connection.sendall(LIVE)  # during the lingering close
            time.sleep(0.05)
            assert connection.recv(1) == b""
        for connection in (idle, fresh, asking):
            connection.close()
        assert running.process.wait(PATIENCE) == 0


async def _request_repeatedly(address: tuple[str, int], outcomes: Counter[str]) -> None:
    """Send requests, reconnecting when the connection closes, until connections are refused."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(*address)
        except ConnectionRefusedError:
            outcomes["refused"] += 1
            return
        except OSError as error:
            outcomes[f"{type(error).__name__} at the beginning"] += 1
            return
        try:
            last = False
            while not last:
                writer.write(wire(GREEN))
                status, head, _ = await read_response(reader)
                outcomes[str(status)] += 1
                last = b"connection: close" in head
                assert (status == 200) or (last and b"retry-after" in head)
        except asyncio.IncompleteReadError as error:
            outcomes["part of a response" if error.partial else "end"] += 1
        except OSError as error:
            outcomes[type(error).__name__] += 1
        writer.close()
        try:
            await writer.wait_closed()
        except OSError as error:
            outcomes[f"{type(error).__name__} at the end"] += 1


@pytest.mark.slow
@pytest.mark.parametrize("responses", [1, 100, 200])
def test_shutdown_resets_no_connection(folder: Path, responses: int) -> None:
    model = write_coloured(folder / "looped.onnx")
    outcomes: Counter[str] = Counter()
    with Server(model) as running:

        async def loops() -> None:
            clients = [asyncio.create_task(_request_repeatedly(running.address, outcomes)) for _ in range(32)]
            while outcomes["200"] < responses:
                await asyncio.sleep(0.001)
            running.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(asyncio.gather(*clients), PATIENCE)

        asyncio.run(loops())
        assert running.process.wait(PATIENCE) == 0
    assert set(outcomes) <= {"200", "503", "end", "refused"}, outcomes
    assert outcomes["refused"] == 32 and outcomes["200"] > 0
