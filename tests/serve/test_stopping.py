"""Start-up errors and signals."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tercet.core.errors import ConfigError, ModelError
from tercet.ensemble.manifest import write_manifest
from tercet.serve.listener import bind, listen
from tercet.serve.server import serve_model
from tests.serve.crowd import Outcome, crowd, wire
from tests.serve.models import GREEN, RED, write_coloured
from tests.serve.server import PATIENCE, Server, receive, request


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tercet", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "changed", "not a bundle", "calibration"])
def test_damaged_models_fail_before_the_server_listens(tmp_path: Path, damage: str) -> None:
    content = write_coloured(tmp_path / "intact.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    changed = {"empty": b"", "truncated": content[:-100], "changed": content.replace(b"warm", b"worm")}
    if damage == "calibration":
        write_coloured(path, calibration={"temperature": "hot"})
    elif damage == "not a bundle":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(changed[damage])
    with pytest.raises(ModelError):
        serve_model(path, port=0)


def test_ports_in_use_and_invalid_addresses() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is in use: choose another --port"):
            bind("127.0.0.1", port)
    with bind("127.0.0.1", 0) as first, bind("127.0.0.1", first.getsockname()[1]) as second:
        listen(first, 1)
        with pytest.raises(ConfigError, match="is in use"):
            listen(second, 1)
    with pytest.raises(ConfigError, match=r"no\.such\.host\.invalid"):
        bind("no.such.host.invalid", 0)


@pytest.mark.slow
def test_start_up_errors_of_the_command(tmp_path: Path) -> None:
    model = write_coloured(tmp_path / "port.onnx")
    done = run(str(tmp_path / "missing.onnx"), "--port", "0")
    assert done.returncode == 4 and "listening" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("tercet: error: ")
    with bind("127.0.0.1", 0) as other:  # another server that is still loading, and listens first
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "tercet", "serve", str(model), "--port", port]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            while not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text():
                time.sleep(0.01)
            other.listen()
            errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 2 and f"port {port} of 127.0.0.1 is in use" in errors.splitlines()[-1]
    done = run(str(model), "--port", "70000", "--limits.queue", "3", "--limits.memory", "5")
    assert done.returncode == 2 and all(text in done.stderr for text in ("port 70000", "queue 3", "memory 5"))


def test_server_process_loads_no_training_libraries(server: Server) -> None:
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert not any(name in maps for name in ("libtorch", "torchvision", "sklearn", "matplotlib"))


@pytest.mark.slow
def test_failed_export_is_reported(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    write_manifest(tmp_path / "bundle", {"classes": ["a", "b"], "members": [], "files": {}})
    done = run(str(tmp_path), "--port", "0")
    assert done.returncode == 4 and "the export failed" in done.stderr.splitlines()[-1]
    assert len(done.stderr.splitlines()) == 2 and "listening" not in done.stderr  # the export has printed the reason


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_graceful_shutdown_under_load(folder: Path, kind: signal.Signals) -> None:
    """Requests in progress are completed, later ones get 503, and the exit code is 0."""
    model = write_coloured(folder / "stopping.onnx", work=40)
    limits = ("--limits.max-batch", "1", "--limits.deadline", "60", "--limits.grace", "60")
    with Server(model, *limits) as running, running.client() as client:

        async def stop() -> tuple[Outcome, int]:
            load = asyncio.create_task(crowd(running.address, wire(GREEN), clients=12))
            while client.get("/metrics").text.find("tercet_queue_images 12.0") < 0:
                await asyncio.sleep(0.01)
            running.process.send_signal(kind)
            while (ready := client.get("/health/ready").status_code) == 200:
                pass
            assert client.post("/v1/predict", content=RED).status_code == 503
            return await load, ready

        outcome, ready = asyncio.run(stop())
        assert outcome.statuses == {200: 12} and ready == 503
        assert running.process.wait(PATIENCE) == 0
    assert running.events("stopping") and running.events("stopped")[0]["requests"] >= 14
    assert " served in " in running.output


@pytest.mark.slow
def test_grace_period_ends_the_shutdown(folder: Path) -> None:
    model = write_coloured(folder / "endless.onnx", work=3)
    with Server(model, "--limits.grace", "1", faults=True) as running, running.connect() as connection:
        connection.sendall(request(headers=["Content-Length: 100"], body=b"x"))
        time.sleep(0.3)
        running.process.terminate()
        assert receive(connection)[0] == 503
        assert running.process.wait(PATIENCE) == 0
    assert any(event.get("cancelled") for event in running.events("request"))


@pytest.mark.slow
def test_second_signal_exits_at_once(folder: Path) -> None:
    model = write_coloured(folder / "twice.onnx")
    with Server(model, "--limits.grace", "5000") as running, running.connect() as connection:
        connection.sendall(request(headers=["Content-Length: 100"], body=b"x"))
        time.sleep(0.3)
        running.process.terminate()
        running.wait_for(lambda: running.events("stopping"))
        running.process.terminate()
        assert running.process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_crash_without_supervisor_frees_the_port(folder: Path) -> None:
    """Open connections break, and a process manager can start a new server on the port at once."""
    model = write_coloured(folder / "dying.onnx", work=300)
    running = Server(model, "--supervise", "false")
    running.__enter__()
    assert running.pid == running.process.pid
    with running.connect() as connection:
        connection.sendall(wire(GREEN))
        os.kill(running.pid, signal.SIGABRT)
        with suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    assert running.process.wait(PATIENCE) == -signal.SIGABRT
    for stream in (running.process.stdout, running.process.stderr):
        assert stream is not None
        stream.close()
    again = Server(model, "--supervise", "false")
    again.command[again.command.index("0")] = str(running.address[1])
    with again, again.client() as client:
        assert again.address == running.address
        assert client.post("/v1/predict", content=GREEN).status_code == 200
