"""Beginnings and ends: models that are none, ports that are taken, signals under load."""

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

from tercet.ensemble.manifest import write_manifest
from tercet.serve.listener import bind
from tests.serve.crowd import Outcome, crowd, wire
from tests.serve.models import GREEN, RED, write_coloured
from tests.serve.server import PATIENCE, Server, receive, request


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tercet", "serve", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize("what", ["absent", "empty", "cut short", "changed", "no bundle", "calibration"])
def test_damaged_models_fail_before_the_server_listens(folder: Path, tmp_path: Path, what: str) -> None:
    content = write_coloured(tmp_path / "whole.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    changed = {"empty": b"", "cut short": content[:-100], "changed": content.replace(b"warm", b"worm")}
    if what == "calibration":
        write_coloured(path, calibration={"temperature": "hot"})
    elif what == "no bundle":
        path.mkdir()
    elif what != "absent":
        path.write_bytes(changed[what])
    done = run(str(path), "--port", "0")
    assert done.returncode == 4 and "listening" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("tercet: error: ")


def test_ports_in_use_and_invalid_addresses(folder: Path) -> None:
    model = write_coloured(folder / "port.onnx")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        done = run(str(model), "--port", port)
    assert done.returncode == 2 and f"port {port} of 127.0.0.1 is in use: choose another --port" in done.stderr
    with bind("127.0.0.1", 0) as other:  # as a server that loads its model too, and is ready first
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "tercet", "serve", str(model), "--port", port]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            while not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text():
                time.sleep(0.01)
            other.listen()
            complaints = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 2 and f"port {port} of 127.0.0.1 is in use" in complaints.splitlines()[-1]
    done = run(str(model), "--port", "0", "--host", "no.such.host.invalid")
    assert done.returncode == 2 and "no.such.host.invalid" in done.stderr
    done = run(str(model), "--port", "70000", "--limits.queue", "3", "--limits.memory", "5")
    assert done.returncode == 2 and all(word in done.stderr for word in ("port 70000", "queue 3", "memory 5"))


def test_server_process_loads_no_training_libraries(server: Server) -> None:
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert not any(name in maps for name in ("libtorch", "torchvision", "sklearn", "matplotlib"))


def test_failed_export_is_reported(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    write_manifest(tmp_path / "bundle", {"classes": ["a", "b"], "members": [], "files": {}})
    done = run(str(tmp_path), "--port", "0")
    assert done.returncode == 4 and "the export failed" in done.stderr.splitlines()[-1]
    assert len(done.stderr.splitlines()) == 2 and "listening" not in done.stderr  # the other process has said why


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_graceful_shutdown_under_load(folder: Path, kind: signal.Signals) -> None:
    """What is under way is answered, what comes later is told to go elsewhere, and the process ends with 0."""
    model = write_coloured(folder / "stopping.onnx", work=40)
    patient = ("--limits.max-batch", "1", "--limits.deadline", "60", "--limits.grace", "60")
    with Server(model, *patient) as running, running.client() as client:

        async def stopped() -> tuple[Outcome, int]:
            load = asyncio.create_task(crowd(running.address, wire(GREEN), clients=12))
            while client.get("/metrics").text.find("tercet_queue_images 12.0") < 0:
                await asyncio.sleep(0.01)
            running.process.send_signal(kind)
            while (ready := client.get("/health/ready").status_code) == 200:
                pass
            assert client.post("/v1/predict", content=RED).status_code == 503
            return await load, ready

        outcome, ready = asyncio.run(stopped())
        assert outcome.statuses == {200: 12} and ready == 503
        assert running.process.wait(PATIENCE) == 0
    assert running.events("stopping") and running.events("stopped")[0]["requests"] >= 14
    assert running.output.startswith("answered ")


def test_grace_period_ends_the_shutdown(folder: Path) -> None:
    model = write_coloured(folder / "endless.onnx", work=3)
    with Server(model, "--limits.grace", "1", faults=True) as running, running.connect() as connection:
        connection.sendall(request(headers=["Content-Length: 100"], body=b"x"))
        time.sleep(0.3)
        running.process.terminate()
        assert receive(connection)[0] == 503
        assert running.process.wait(PATIENCE) == 0
    assert any(told.get("cancelled") for told in running.events("request"))


def test_second_signal_exits_at_once(folder: Path) -> None:
    model = write_coloured(folder / "twice.onnx")
    with Server(model, "--limits.grace", "5000") as running, running.connect() as connection:
        connection.sendall(request(headers=["Content-Length: 100"], body=b"x"))
        time.sleep(0.3)
        running.process.terminate()
        running.wait_for(lambda: running.events("stopping"))
        running.process.terminate()
        assert running.process.wait(PATIENCE) == 0


def test_crash_without_supervisor_frees_the_port(folder: Path) -> None:
    """What a process manager does then: the old connections break, and another process takes the port at once."""
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
