import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tercet.data.download import RemoteFile, fetch
from tercet.ground.errors import DataError, StorageError

BODY = b"official bytes" * 1000
FILE = RemoteFile("file.gz", len(BODY), hashlib.md5(BODY).hexdigest(), hashlib.sha256(BODY).hexdigest())
HTTP = ("http", "https")


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the right file under /good, and misbehaves elsewhere."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        body = {"good": BODY, "wrong": BODY[::-1], "short": BODY[:-5], "long": BODY + b"x" * 10**7}.get(kind, b"")
        if kind in ("elsewhere", "ftp", "loop"):
            targets = {"elsewhere": "/good/file.gz", "ftp": "ftp://localhost/file.gz", "loop": "/loop/file.gz"}
            self.send_response(302)
            self.send_header("Location", targets[kind])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200 if body or kind == "cut" else 404)
        self.send_header("Content-Length", str(len(BODY) if kind == "cut" else len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client may have seen enough
            self.wfile.write(BODY[:50] if kind == "cut" else body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["good", "elsewhere"])
def test_the_right_file_arrives_whole(server: str, tmp_path: Path, kind: str) -> None:
    path = fetch(FILE, tmp_path / "new", mirrors=[f"{server}/{kind}/"], schemes=HTTP)
    assert path.read_bytes() == BODY and [entry.name for entry in path.parent.iterdir()] == ["file.gz"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "HTTP 404"),
        ("wrong", "SHA-256"),
        ("short", "bytes received"),
        ("long", "bytes received"),
        ("cut", "bytes received|connection broke"),
        ("ftp", "refused a redirect"),
        ("loop", "HTTP 302"),
    ],
)
def test_what_misbehaves_leaves_nothing_and_says_what_to_do(
    server: str, tmp_path: Path, kind: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        fetch(FILE, tmp_path, mirrors=[f"{server}/{kind}"], schemes=HTTP)
    assert f"place the file by hand as {tmp_path / 'file.gz'}" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_mirror_gives_way_to_the_next(server: str, tmp_path: Path) -> None:
    mirrors = [f"{server}/missing", f"{server}/wrong", f"{server}/good"]
    assert fetch(FILE, tmp_path, mirrors=mirrors, schemes=HTTP).read_bytes() == BODY


def test_only_https_is_used_by_default(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not https"):
        fetch(FILE, tmp_path, mirrors=[f"{server}/good"])


def test_an_existing_file_survives_a_failed_download(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.gz").write_bytes(b"old")
    with pytest.raises(DataError):
        fetch(FILE, tmp_path, mirrors=[f"{server}/wrong"], schemes=HTTP)
    assert (tmp_path / "file.gz").read_bytes() == b"old"


def test_offline_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no connection"):
        fetch(FILE, tmp_path, mirrors=["https://127.0.0.1:1/x"])


def test_a_folder_that_cannot_be_written_is_a_storage_error(server: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="cannot write"):
        fetch(FILE, tmp_path / "taken", mirrors=[f"{server}/good"], schemes=HTTP)
