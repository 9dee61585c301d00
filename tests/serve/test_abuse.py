"""Hostile clients: wrong sizes, decompression bombs, hostile names, path traversal, foreign hosts."""

import json
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tercet.serve.supervisor import warn_if_public
from tests.serve.models import GREEN, RED, write_coloured
from tests.serve.server import Server, form, local_client, receive, request

MEBIBYTE = 2**20
CLOSE = "Connection: close"


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def error_of(received: bytes) -> str:
    return str(json.loads(received.partition(b"\r\n\r\n")[2])["error"])


# ---------------------------------------------------------------------------------------------- bodies


def test_too_large_content_length_is_rejected_before_reading(server: Server) -> None:
    status, received = server.exchange(request(headers=[f"Content-Length: {10 * 2**30}"], body=b"x" * 1000))
    assert (status, error_of(received)) == (413, "the request is larger than 1 MiB")


def test_client_receives_the_response_while_sending_a_too_large_body(server: Server) -> None:
    """The connection must not be reset before the client has read the response."""
    pieces = [request(headers=["Transfer-Encoding: chunked"])] + [b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 64
    status, received = server.exchange(*pieces)
    assert (status, error_of(received)) == (413, "the request is larger than 1 MiB")
    status, _ = server.exchange(request(headers=[f"Content-Length: {3 * MEBIBYTE}"], body=b"x" * 3 * MEBIBYTE))
    assert status == 413


def test_chunked_body_is_accepted(server: Server) -> None:
    halves = RED[:20], RED[20:]
    status, received = server.exchange(request(headers=["Transfer-Encoding: chunked", CLOSE], body=chunked(*halves)))
    assert status == 200 and b'"label":"red"' in received


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (["Content-Length: 5", "Transfer-Encoding: chunked"], chunked(b"x"), 400),
        (["Content-Length: 5", "Content-Length: 6"], b"xxxxxx", 400),
        (["Content-Length: -1"], b"", 400),
        (["Content-Length: 99999999999999999999999"], b"", 400),
        (["Transfer-Encoding: chunked"], b"zz\r\nno chunk\r\n", 400),
        (["Transfer-Encoding: chunked"], b"FFFFFFFFFFFFFFFFF\r\nx", 400),
        (["Transfer-Encoding: gzip"], b"x", 400),
        (["Content-Encoding: gzip", "Content-Length: 1"], b"x", 415),
        (["Content-Type: multipart/form-data", "Content-Length: 1"], b"x", 400),
        (["Content-Type: multipart/form-data; boundary=" + "b" * 300, "Content-Length: 1"], b"x", 400),
        (["Content-Type: multipart/form-data; boundary=b", "Content-Length: 12"], b"not a form!!", 400),
        (["Content-Type: multipart/form-data; boundary=b", "Content-Length: 7"], b"--b--\r\n", 400),
        (["X: " + "y" * 40_000], b"", 431),
        ([f"X{number}: y" for number in range(200)], b"", 431),
    ],
)
def test_malformed_requests_are_rejected(server: Server, headers: list[str], body: bytes, status: int) -> None:
    received_status, received = server.exchange(request(headers=[*headers, CLOSE], body=body))
    assert received_status == status and error_of(received)
    assert b"nosniff" in received


def test_endless_header_is_rejected(server: Server) -> None:
    pieces = [request(headers=["X: "])[:-4], *[b"y" * 65536] * 16]
    status, received = server.exchange(*pieces)
    assert (status, error_of(received)) == (431, "the request head is too long")


def test_form_limits(server: Server) -> None:
    def send(files: list[tuple[str, bytes]], cut: int = 0) -> tuple[int, bytes]:
        kind, body = form(files)
        body = body[: len(body) - cut]
        return server.exchange(request(headers=[kind, f"Content-Length: {len(body)}", CLOSE], body=body))

    assert send([("a.png", RED)] * 8)[0] == 200
    assert send([("a.png", RED)] * 9)[0] == 413
    assert send([("a.png", b"")] * 5000)[0] == 413
    assert send([("n" * 10_000, RED)])[0] == 400
    assert send([("a.png", RED)], cut=6)[0] == 400
    kind, body = form([("a.png", RED)])
    for other in (body.replace(b'; filename="a.png"', b""), body.replace(b"form-data", b"attachment")):
        status, received = server.exchange(request(headers=[kind, f"Content-Length: {len(other)}"], body=other))
        assert (status, error_of(received)) == (400, "every part of the multipart body must be a file")
    many = body.replace(b"\r\n\r\n", b"\r\n" + b"X: y\r\n" * 50 + b"\r\n", 1)
    assert server.exchange(request(headers=[kind, f"Content-Length: {len(many)}"], body=many))[0] == 400


NAMES = ("../../etc/passwd", "a\x00b.png", "\u202egnp.exe", "<img src=x onerror=alert(1)>", "C:\\x\\y.png", "ü.png", "")


def test_file_names_are_text_only(server: Server, tmp_path: Path) -> None:
    before = set(os.listdir("/tmp"))
    kind, body = form([(name, GREEN) for name in NAMES])
    status, received = server.exchange(request(headers=[kind, f"Content-Length: {len(body)}", CLOSE], body=body))
    document = received.partition(b"\r\n\r\n")[2]
    assert status == 200 and b"<" not in document and document.isascii()
    names = [entry["file"] for entry in json.loads(document)["predictions"]]
    assert names[:4] == list(NAMES[:4]) and names[5:] == ["ü.png", ""]
    assert not any("passwd" in line or "onerror" in line for line in server.lines)  # file names are not logged
    assert {name for name in set(os.listdir("/tmp")) - before if "passwd" in name or name.startswith("upload")} == set()


# ---------------------------------------------------------------------------------------------- bombs


def png(width: int, height: int, *, chunks: bytes = b"") -> bytes:
    """Return a PNG of zeros with maximum compression."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes((width // 8 + 1) * min(height, 20_000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunks + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def webp(width: int, height: int) -> bytes:
    """Return a small WebP file whose header declares a large size."""
    payload = b"\x00" * 4 + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", len(payload)) + payload
    packed = (1 << 24 | 0x2F).to_bytes(4, "little")[:1] or b""
    bits = (width - 1) | (height - 1) << 14
    lossless = b"\x2f" + bits.to_bytes(4, "little") + b"\x88\x88\x08" + packed + b"\x00" * 30
    image = b"VP8L" + struct.pack("<I", len(lossless)) + lossless + (b"\x00" if len(lossless) % 2 else b"")
    content = b"WEBP" + extended + image
    return b"RIFF" + struct.pack("<I", len(content)) + content


def gif(width: int, height: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return head + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00\x3b"


def tiff(width: int, height: int) -> bytes:
    """Return a TIFF whose directory refers to itself."""
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (278, 4, 1, height), (279, 4, 1, width * height & 0xFFFFFFFF)]
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + table + struct.pack("<I", 8)


BOMBS = {
    "png": png(30_000, 30_000),
    "png-strip": png(60_000, 20_000),
    "png-text": png(8, 8, chunks=struct.pack(">I", 2**31 - 1) + b"tEXt" + b"x" * 100),
    "webp": webp(16_383, 16_383),
    "gif": gif(65_535, 65_535),
    "tiff": tiff(60_000, 60_000),
    "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "polyglot": RED[:40] + b"PK\x03\x04<script>alert(1)</script>",
}


@pytest.mark.parametrize("name", BOMBS)
def test_decompression_bombs_are_rejected_before_decoding(server: Server, name: str) -> None:
    server.reset_peak_memory()
    before = server.memory()
    with server.client() as client:
        response = client.post("/v1/predict", content=BOMBS[name])
    assert response.status_code in (415, 422), response.text
    assert server.peak_memory() - before < 60 * MEBIBYTE


# ---------------------------------------------------------------------------------------------- URLs

PATHS = (
    "/../../../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/..%2f..%2fetc%2fpasswd",
    "/%252e%252e%252fetc/passwd",
    "/..%5c..%5cwindows",
    "/..\\..\\etc",
    "/page.css/../../../etc/passwd",
    "/page.css%00.js",
    "/page.css/",
    "//etc/passwd",
    "/./page.css",
    "/%2e/page.css",
    "/index.html",
    "/page/",
    "/static/..%c0%af..%c0%afetc/passwd",
    "/file:///etc/passwd",
    "/.git/config",
    "/admin",
    "/v1/models/load",
    "/v1/predict/../../etc/passwd",
    "http://169.254.169.254/latest/meta-data",
)


@pytest.mark.parametrize("path", PATHS)
def test_no_url_leads_to_a_file(server: Server, path: str) -> None:
    status, received = server.exchange(request("GET", path, [CLOSE, "Range: bytes=0-"]))
    assert status in (400, 404) and b"root:" not in received


def test_no_url_or_path_is_accepted_from_a_client(server: Server) -> None:
    with server.client() as client:
        described = client.get("/openapi.json").json()
        for path, methods in described["paths"].items():
            assert set(methods) == ({"post"} if path == "/v1/predict" else {"get"})
            assert all("parameters" not in operation for operation in methods.values())
        response = client.post("/v1/predict?url=http://127.0.0.1:9/x", json={"url": "file:///etc/passwd"})
        assert response.status_code == 415
        for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"):
            assert client.request(method, "/v1/model").status_code == 405


HOSTS = {
    "127.0.0.1": 200,
    "127.0.0.1:8000": 200,
    "localhost:1": 200,
    "[::1]:80": 200,
    "LOCALHOST.": 200,
    "evil.example": 421,
    "127.0.0.1.evil.example": 421,
    "192.168.0.1": 421,
    "localhost@evil.example": 421,
    "": 421,
    "localhost, evil.example": 421,
}


@pytest.mark.parametrize(("host", "status"), HOSTS.items())
def test_unknown_hosts_are_rejected(server: Server, host: str, status: int) -> None:
    assert server.exchange(request("GET", "/health/live", [CLOSE], host=host))[0] == status


def test_missing_and_repeated_host_header(server: Server) -> None:
    assert server.exchange(b"GET /health/live HTTP/1.0\r\n\r\n")[0] == 421
    assert server.exchange(request("GET", "/health/live", ["Host: evil.example"]))[0] == 421


@pytest.mark.slow  # a server of its own
def test_public_address_with_allowed_host(folder: Path) -> None:
    model = write_coloured(folder / "open.onnx")
    with Server(model, "--host", "0.0.0.0", "--allow-host", "classify.example.org", faults=True) as running:
        running.address = ("127.0.0.1", running.address[1])
        for host, status in (("classify.example.org", 200), ("10.1.2.3:80", 200), ("evil.example", 421)):
            assert running.exchange(request("GET", "/health/live", [CLOSE], host=host))[0] == status
    assert len(running.plain) == 1 and "listening on 0.0.0.0 without authentication" in running.plain[0]


def test_public_address_warns() -> None:
    with pytest.warns(UserWarning, match=r"listening on 0\.0\.0\.0 without authentication"):
        warn_if_public("0.0.0.0")
    warn_if_public("127.0.0.1")


# ---------------------------------------------------------------------------------------------- browsers


def test_every_response_has_security_headers(server: Server) -> None:
    with server.client() as client:
        for path in ("/", "/page.js", "/v1/model", "/nowhere", "/metrics", "/docs"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'self'" in policy and "unsafe" not in policy and "*" not in policy
            assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
            assert "server" not in headers and "access-control-allow-origin" not in headers
        assert client.get("/v1/model").headers["content-type"] == "application/json"


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name == "style" or name.startswith("on") for name, _ in attrs)


def test_class_names_are_never_markup(folder: Path) -> None:
    hostile = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</title>"]
    model = write_coloured(folder / "hostile.onnx", classes=hostile)
    with local_client(model, name=hostile[1]) as client:
        response = client.post("/v1/predict", content=RED)
        assert response.json()["predictions"][0]["label"] == hostile[0] and "<" not in response.text
        for path, elements in (("/", {"img"}), ("/docs", {"img", "script"})):
            parser = _Elements()
            parser.feed(client.get(path).text)
            assert not elements & set(parser.tags) and "link" in parser.tags


def test_pipelining_is_limited(server: Server) -> None:
    few = request("GET", "/health/live") * 3 + request("GET", "/v1/model", [CLOSE])
    status, received = server.exchange(few)
    assert status == 200 and received.count(b"HTTP/1.1 200") == 4
    with server.connect() as connection:
        connection.sendall(request("GET", "/health/live") * 2000)
        _, received = receive(connection)
    assert received.count(b"HTTP/1.1") < 2000
    with server.client() as client:
        assert client.get("/health/live").status_code == 200


def mutate(generator: np.random.Generator, wire: bytes) -> bytes:
    """Return a request with bytes changed, removed, or repeated."""
    changed = bytearray(wire)
    for _ in range(int(generator.integers(1, 5))):
        first = int(generator.integers(0, len(changed)))
        last = min(len(changed), first + int(generator.integers(1, 30)))
        match int(generator.integers(0, 4)):
            case 0:
                changed[first] = int(generator.integers(0, 256))
            case 1:
                del changed[first:last]
            case 2:
                changed[first:first] = changed[first:last]
            case _:
                changed[first:last] = generator.bytes(last - first)
        if not changed:
            changed += b"\r\n"
    return bytes(changed)


def test_mutated_requests_cause_no_server_error(server: Server) -> None:
    """No response is a 500, and the log has no library error (checked at the end of the fixture)."""
    kind, body = form([("a.png", RED), ("b.png", GREEN)])
    multipart = request(headers=[kind, f"Content-Length: {len(body)}", CLOSE], body=body)
    raw = request(headers=["Transfer-Encoding: chunked", "Expect: 100-continue", CLOSE], body=chunked(RED))
    generator = np.random.default_rng(4)
    wires = [mutate(generator, (multipart, raw)[index % 2]) for index in range(400)]

    def send(wire: bytes) -> int:
        with server.connect() as connection:
            connection.sendall(wire)
            connection.settimeout(0.5)
            with suppress(TimeoutError, ConnectionResetError):
                return int((connection.recv(100).split(b" ", 2) + [b"0"] * 2)[1])
        return 0

    with ThreadPoolExecutor(16) as pool:
        statuses = set(pool.map(send, wires))
    assert statuses <= {0, 100, 200, 400, 404, 405, 408, 413, 415, 421, 422, 431, 505}
    assert {200, 400} <= statuses
    with server.client() as client:
        assert client.post("/v1/predict", content=RED).json()["predictions"][0]["label"] == "red"
