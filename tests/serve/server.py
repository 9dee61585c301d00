"""A real server in its own process, and clients on raw sockets."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import httpx
from starlette.testclient import TestClient

from tercet.config.deployment import ServerLimits
from tercet.inference.exported_model import ExportedModel
from tercet.inference.onnx_model import OnnxModel
from tercet.serve.app import make_app, route_paths
from tercet.serve.listener import AllowedHosts
from tercet.serve.middleware import GuardMiddleware
from tercet.serve.monitoring import AccessLog, Metrics
from tercet.serve.service import Service

PATIENCE = 60.0  # seconds; generous for a busy machine


class Server:
    """`tercet serve` on a free local port; leaving the block stops it and checks exit code and log.

    Args:
        model: The file to serve.
        options: Command-line options.
        faults: Whether the log may contain library errors.
    """

    def __init__(self, model: Path, *options: str, faults: bool = False) -> None:
        self.command = [sys.executable, "-m", "tercet", "serve", str(model), "--port", "0", "--threads", "1", *options]
        self.faults = faults
        self.log: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.plain: list[str] = []
        self.address: tuple[str, int] = ("", 0)
        self.pid = 0  # of the server process; `process` is its supervisor

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._listening = threading.Event()
        self._reader.start()
        assert self._listening.wait(PATIENCE), self.plain
        assert self.address[1], self.plain
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None and self.process.stderr is not None
        self.output = self.process.stdout.read()
        self.process.stdout.close()
        self.process.stderr.close()
        if kind is None:
            assert code == 0, self.plain
            assert self.faults or (not self.events("library") and not self.plain), (
                self.plain,
                self.events("library")[:5],
            )

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            try:
                entry = json.loads(line)
            except ValueError:
                self.plain.append(line)
                continue
            self.log.append(entry)
            if entry["event"] == "listening":
                host, _, port = entry["url"].removeprefix("http://").rpartition(":")
                self.address = (host.strip("[]"), int(port))
                self.pid = entry["pid"]
                self._listening.set()
        self._listening.set()

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the log events of one kind."""
        return [entry for entry in self.log if entry["event"] == kind]

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, **options)

    def connect(self) -> socket.socket:
        connection = socket.create_connection(self.address, PATIENCE)
        connection.settimeout(PATIENCE)
        return connection

    def exchange(self, *pieces: bytes) -> tuple[int, bytes]:
        """Send raw bytes; return status (0: none) and all bytes received until the server closed the connection."""
        with self.connect() as connection:
            try:
                for piece in pieces:
                    connection.sendall(piece)
            except OSError:
                pass  # the server has closed the connection
            return receive(connection)

    def memory(self) -> int:
        """Return the resident bytes of the server."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def reset_peak_memory(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_memory(self) -> int:
        """Return the largest number of resident bytes since the reset."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def wait_for(self, condition: Any, seconds: float = PATIENCE) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "timeout"
            time.sleep(0.02)


@contextmanager
def local_client(
    model: Path | ExportedModel, *, name: str = "model", stream: TextIO | None = None
) -> Iterator[TestClient]:
    """Yield a client of the application in this process, without sockets; the log goes to `stream`."""
    loaded = OnnxModel.load(model, threads=1) if isinstance(model, Path) else model
    limits, metrics, log = ServerLimits(), Metrics(), AccessLog(stream or io.StringIO())
    service = Service(loaded, limits, metrics)
    app = make_app(loaded, name, service, limits, metrics)
    guard = GuardMiddleware(app, hosts=AllowedHosts("127.0.0.1"), paths=route_paths(app), metrics=metrics, log=log)
    service.start()
    try:
        client = TestClient(guard, base_url="http://localhost", raise_server_exceptions=False)  # type: ignore[arg-type]
        yield client
        client.close()
    finally:
        service.close()
        log.close()


def receive(connection: socket.socket) -> tuple[int, bytes]:
    """Return status (0: none) and all bytes received until the server closed the connection."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    parts = received.split(b" ", 2)
    return (int(parts[1]) if len(parts) > 2 else 0), received


def request(
    method: str = "POST",
    path: str = "/v1/predict",
    headers: Sequence[str] = (),
    body: bytes = b"",
    host: str = "127.0.0.1",
) -> bytes:
    """Return the raw bytes of a request; only `Host` is added."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def form(files: Sequence[tuple[str, bytes]], boundary: str = "xxBOUNDARYxx") -> tuple[str, bytes]:
    """Return Content-Type header and body of a form; file names are not escaped."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return f"Content-Type: multipart/form-data; boundary={boundary}", b"".join([*parts, f"--{boundary}--\r\n".encode()])


def has_ended(pid: int) -> bool:
    """Whether a process has ended (or is a zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
