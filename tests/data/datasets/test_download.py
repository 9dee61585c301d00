import contextlib
import hashlib
import http.server
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tercet.core.errors import DataError, StorageError
from tercet.data.datasets.download import RemoteFile, fetch

BODY = b"official bytes" * 1000
OLDER = b"an older file!" * 1000
FILE = RemoteFile("file.gz", len(BODY), hashlib.sha256(BODY).hexdigest())
UNCHECKED = RemoteFile("file.gz")
HTTP = ("http", "https")
BODIES = {"wrong": BODY[::-1], "short": BODY[:-5], "long": BODY + b"x" * 10**7, "missing": b""}


class Server(http.server.ThreadingHTTPServer):
    """Records requests."""

    requested: list[tuple[str, str]]
    """Path and range of every request."""
    gate: threading.Event
    """Responses under /gate wait for this event."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the official file under /good and /ranges; other folders simulate faults."""

    server: Server

    def do_GET(self) -> None:
        kind, requested = self.path.split("/")[1], self.headers.get("Range", "")
        self.server.requested.append((kind, requested))
        targets = {"elsewhere": "/good/file.gz", "ftp": "ftp://localhost/file.gz", "loop": "/loop/file.gz"}
        if kind in targets:
            self.reply(302, b"", Location=targets[kind])
        elif kind == "breaks":  # sends at most a fifth of the file per request
            self.ranged(requested, stop=len(BODY) // 5, tag='"one"')
        elif kind == "stalls":  # after a fifth, except for range requests
            self.ranged(requested, stop=None if requested else len(BODY) // 5, tag='"one"')
            if not requested:
                self.server.gate.wait(100)
        elif kind == "ranges":
            self.ranged(requested, tag='"one"')
        elif kind == "changed":  # another version than the partial file
            self.ranged(requested if self.headers.get("If-Range") == '"two"' else "", tag='"two"')
        elif kind == "careless":  # resumes another version without checking it
            self.ranged(requested)
        elif kind == "refuses" and requested:
            self.reply(416, b"")
        elif kind == "misplaces" and requested:
            self.reply(206, BODY[7:], **{"Content-Range": f"bytes 7-{len(BODY) - 1}/{len(BODY)}"})
        elif kind == "gate":
            self.server.gate.wait(100)
            self.reply(200, BODY)
        elif kind == "cut":
            self.reply(200, BODY[:50], length=len(BODY))
        else:
            body = BODIES.get(kind, BODY)
            self.reply(200 if body else 404, body)

    def ranged(self, requested: str, *, stop: int | None = None, tag: str = "") -> None:
        match = re.fullmatch(r"bytes=(\d+)-", requested)
        start = int(match[1]) if match else 0
        headers = {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"} if match else {}
        body = BODY[start:]
        self.reply(206 if match else 200, body[:stop], length=len(body), **headers, **({"ETag": tag} if tag else {}))

    def reply(self, status: int, body: bytes, *, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # the client may have closed the connection
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.requested, running.gate = [], threading.Event()
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def server(running: Server) -> str:
    running.requested.clear()
    return running.address


def leave_part(folder: Path, url: str, content: bytes, tag: str = '"one"') -> None:
    """Write a partial file and its validator."""
    (folder / ".file.gz.part").write_bytes(content)
    (folder / ".file.gz.mark").write_text(f"{url}/file.gz\n{tag}")


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.mark.parametrize("kind", ["good", "elsewhere", "ranges"])
@pytest.mark.parametrize("file", [FILE, UNCHECKED], ids=["checked", "unchecked"])
def test_file_is_downloaded_completely(server: str, tmp_path: Path, kind: str, file: RemoteFile) -> None:
    path = fetch(file, tmp_path / "new", mirrors=[f"{server}/{kind}/"], schemes=HTTP)
    assert path.read_bytes() == BODY and names(path.parent) == {"file.gz"}


@pytest.mark.parametrize(
    ("kind", "message", "remaining"),
    [
        ("missing", "HTTP 404", set()),
        ("wrong", "SHA-256", set()),
        ("short", "bytes received", set()),
        ("long", "bytes received", set()),
        ("cut", "connection lost at 50 bytes", {".file.gz.part", ".file.gz.mark"}),
        ("ftp", "refused a redirect", set()),
        ("loop", "HTTP 302", set()),
    ],
)
def test_failed_download_leaves_no_file(
    server: str, tmp_path: Path, kind: str, message: str, remaining: set[str]
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        fetch(FILE, tmp_path, mirrors=[f"{server}/{kind}"], schemes=HTTP)
    assert f"place the file manually as {tmp_path / 'file.gz'}" in str(caught.value)
    assert names(tmp_path) == remaining


def test_interrupted_download_is_resumed(running: Server, server: str, tmp_path: Path) -> None:
    leave_part(tmp_path, f"{server}/ranges", BODY[:4000])
    assert fetch(FILE, tmp_path, mirrors=[f"{server}/ranges"], schemes=HTTP).read_bytes() == BODY
    assert running.requested == [("ranges", "bytes=4000-")] and names(tmp_path) == {"file.gz"}


@pytest.mark.parametrize("file", [FILE, UNCHECKED], ids=["checked", "unchecked"])
def test_repeatedly_lost_connection_is_resumed(running: Server, server: str, tmp_path: Path, file: RemoteFile) -> None:
    assert fetch(file, tmp_path, mirrors=[f"{server}/breaks"], schemes=HTTP).read_bytes() == BODY
    assert [requested for _, requested in running.requested] == [
        "",
        *(f"bytes={2800 * number}-" for number in range(1, 5)),
    ]


@pytest.mark.parametrize("kind", ["changed", "careless", "refuses", "good"])
def test_outdated_partial_file_is_downloaded_again(server: str, tmp_path: Path, kind: str) -> None:
    leave_part(tmp_path, f"{server}/{kind}", OLDER[:4000])
    assert fetch(FILE, tmp_path, mirrors=[f"{server}/{kind}"], schemes=HTTP).read_bytes() == BODY


@pytest.mark.parametrize("tag", ["", "bad\x01header", '"one"\nX: y'])
def test_partial_file_without_validator_is_ignored(running: Server, server: str, tmp_path: Path, tag: str) -> None:
    leave_part(tmp_path, f"{server}/ranges", OLDER[:4000], tag)
    assert fetch(UNCHECKED, tmp_path, mirrors=[f"{server}/ranges"], schemes=HTTP).read_bytes() == BODY
    assert running.requested == [("ranges", "")]


def test_response_with_another_range_is_an_error(server: str, tmp_path: Path) -> None:
    leave_part(tmp_path, f"{server}/misplaces", BODY[:4000])
    with pytest.raises(DataError, match="another range"):
        fetch(FILE, tmp_path, mirrors=[f"{server}/misplaces"], schemes=HTTP)
    assert names(tmp_path) == set()


def test_complete_partial_file_needs_no_connection(tmp_path: Path) -> None:
    (tmp_path / ".file.gz.part").write_bytes(BODY)
    assert fetch(FILE, tmp_path, mirrors=["https://127.0.0.1:1/x"]).read_bytes() == BODY


def test_next_mirror_is_used_after_a_failure(server: str, tmp_path: Path) -> None:
    mirrors = [f"{server}/missing", f"{server}/wrong", f"{server}/good"]
    assert fetch(FILE, tmp_path, mirrors=mirrors, schemes=HTTP).read_bytes() == BODY


def test_only_https_is_used_by_default(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not https"):
        fetch(FILE, tmp_path, mirrors=[f"{server}/good"])


def test_failed_download_keeps_the_existing_file(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.gz").write_bytes(b"old")
    with pytest.raises(DataError):
        fetch(FILE, tmp_path, mirrors=[f"{server}/wrong"], schemes=HTTP)
    assert (tmp_path / "file.gz").read_bytes() == b"old"


def test_missing_connection_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no connection") as caught:
        fetch(FILE, tmp_path, mirrors=["https://127.0.0.1:1/x"])
    assert "\n" not in str(caught.value)


def test_unwritable_folder_raises_storage_error(server: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="cannot write"):
        fetch(FILE, tmp_path / "taken", mirrors=[f"{server}/good"], schemes=HTTP)


def test_download_larger_than_the_disk_is_not_started(server: str, tmp_path: Path) -> None:
    huge = RemoteFile("file.gz", 1 << 60)
    with pytest.raises(StorageError, match="bytes free"):
        fetch(huge, tmp_path, mirrors=[f"{server}/good"], schemes=HTTP)


FETCH = """
import sys
from pathlib import Path
from tercet.data.datasets.download import RemoteFile, fetch

file = RemoteFile("file.gz", int(sys.argv[3]), sys.argv[4])
print(fetch(file, Path(sys.argv[1]), mirrors=[sys.argv[2]], schemes=["http"]).read_bytes() == b"official bytes" * 1000)
"""


def command(folder: Path, url: str) -> list[str]:
    return [sys.executable, "-c", FETCH, str(folder), url, str(len(BODY)), FILE.checksum]


def test_download_of_a_killed_process_is_resumed(running: Server, server: str, tmp_path: Path) -> None:
    running.gate.clear()
    first = subprocess.Popen(command(tmp_path, f"{server}/stalls"), stderr=subprocess.DEVNULL)
    part = tmp_path / ".file.gz.part"
    while not part.exists() or part.stat().st_size < len(BODY) // 5:
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    running.gate.set()
    assert fetch(FILE, tmp_path, mirrors=[f"{server}/stalls"], schemes=HTTP).read_bytes() == BODY
    assert running.requested == [("stalls", ""), ("stalls", "bytes=2800-")] and names(tmp_path) == {"file.gz"}


def test_concurrent_downloads_of_a_file_wait_for_the_first(running: Server, server: str, tmp_path: Path) -> None:
    data, arguments = tmp_path / "data", command(tmp_path / "data", f"{server}/gate")
    running.gate.clear()
    logs = [tmp_path / "first.txt", tmp_path / "second.txt"]
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(open(log, "w")) for log in logs]
        processes = [subprocess.Popen(arguments, stdout=stream, stderr=stream) for stream in streams]
        while not any("waiting for it" in log.read_text() for log in logs):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.05)
        running.gate.set()
        assert [process.wait(timeout=100) for process in processes] == [0, 0]
    assert all(log.read_text().endswith("True\n") for log in logs)
    assert running.requested == [("gate", "")] and names(data) == {"file.gz"}
