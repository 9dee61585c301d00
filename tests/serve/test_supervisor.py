"""The supervisor: restarts after crashes, signals, exit codes; with real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from tercet.core.errors import Crashed, Interrupted
from tercet.serve.listener import bind
from tercet.serve.supervisor import supervise
from tests.serve.crowd import wire
from tests.serve.models import GREEN, write_coloured
from tests.serve.server import PATIENCE, Server, form, has_ended, receive, request

pytestmark = pytest.mark.slow
TAKE_LINK = (
    "import os, signal, sys, time; from tercet.core.process import ParentLink; link = ParentLink.from_environment()\n"
)


@contextmanager
def supervised_server(folder: Path, *options: str, work: int = 0) -> Iterator[Server]:
    model = write_coloured(folder / f"supervised{work}.onnx", work=work)
    with Server(model, *options) as running:
        assert running.pid != running.process.pid
        yield running


def kill(running: Server, kind: signal.Signals) -> None:
    """Kill the server process and wait until the next one listens."""
    before = len(running.events("listening"))
    os.kill(running.pid, kind)
    running.wait_for(lambda: len(running.events("listening")) > before)


def test_crashed_server_is_restarted_without_refused_connections(folder: Path) -> None:
    with supervised_server(folder, "--limits.keep-alive", "1", work=150) as running:
        url = running.url
        with running.connect() as pending, running.client() as client:
            pending.sendall(wire(GREEN))
            running.wait_for(lambda: "tercet_queue_images 1.0" in client.get("/metrics").text)
            dead = running.pid
            os.kill(dead, signal.SIGABRT)
            running.wait_for(lambda: has_ended(dead))
            with running.connect() as waiting:  # no server is running, but the connection is not refused
                waiting.sendall(wire(GREEN))
                with suppress(ConnectionResetError):
                    assert pending.recv(100) == b""
                assert receive(waiting)[0] == 200
        assert running.pid != dead and running.url == url
        kill(running, signal.SIGSEGV)
        with running.client() as client:
            assert "tercet_restarts_total 2.0" in client.get("/metrics").text
    assert [event["signal"] for event in running.events("died")] == ["SIGABRT", "SIGSEGV"]
    assert (running.events("died")[0]["pid"], running.events("died")[0]["pause"]) == (dead, 0.1)
    assert len(running.events("stopped")) == 1 and running.output.count(" served in ") == 1
    assert running.output.startswith(f"open {url} in a browser") and running.output.count("in a browser") == 1


def test_supervisor_process_is_small(server: Server) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert not any(name in maps for name in ("onnxruntime", "pydantic_core", "httptools", "numpy", "PIL"))
    (resident,) = [
        line for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines() if "VmRSS" in line
    ]
    assert int(resident.split()[1]) < 50_000  # kB


def test_server_exits_when_the_supervisor_is_killed(folder: Path) -> None:
    running = Server(write_coloured(folder / "orphan.onnx"))
    running.__enter__()
    running.process.kill()
    assert running.process.wait(PATIENCE) == -signal.SIGKILL
    running.wait_for(lambda: has_ended(running.pid))
    running._reader.join(PATIENCE)
    assert running.events("orphaned")
    with pytest.raises(ConnectionRefusedError):
        running.connect()
    for stream in (running.process.stdout, running.process.stderr):
        assert stream is not None
        stream.close()


def test_signal_to_both_processes_counts_once(folder: Path) -> None:
    """A process manager signals all processes of a service; requests in progress are completed."""
    limits = ("--limits.max-batch", "1", "--limits.deadline", "60", "--limits.grace", "60")
    header, body = form([(f"{index}.png", GREEN) for index in range(12)])
    with supervised_server(folder, *limits, work=150) as running, running.connect() as pending:
        pending.sendall(request(headers=[header, f"Content-Length: {len(body)}", "Connection: close"], body=body))
        with running.client() as client:
            running.wait_for(lambda: "tercet_queue_images 12.0" in client.get("/metrics").text)
        os.kill(running.pid, signal.SIGTERM)
        running.wait_for(lambda: running.events("stopping"))
        for pid in (running.process.pid, running.pid):
            os.kill(pid, signal.SIGTERM)
        status, received = receive(pending)
        assert status == 200 and received.count(b'"label":"green"') >= 12
    assert len(running.events("stopping")) == 1


def test_ctrl_c_in_a_terminal_stops_once(folder: Path) -> None:
    """A terminal signals its foreground group; the server reacts to the signal of its supervisor only."""
    model = write_coloured(folder / "terminal.onnx")
    command = [sys.executable, "-m", "tercet", "serve", str(model), "--port", "0"]
    leader, follower = os.openpty()
    script = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    script += "os.execvp(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command], stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    output = b""
    with suppress(OSError):  # the terminal closes with the last process that uses it
        while piece := os.read(leader, 4096):
            output += piece
            if b'"listening"' in output and output.endswith(b"\n") and b"^C" not in output:
                os.write(leader, b"\x03")
    os.close(leader)
    assert process.wait(PATIENCE) == 0, output
    assert output.count(b'"stopping"') == output.count(b'"stopped"') == 1 and b"0 requests served" in output
    assert b"Traceback" not in output


# ------------------------------------------------------------------------------ small processes instead of a server


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with bind("127.0.0.1", 0) as bound:
        yield bound


def python(code: str) -> list[str]:
    return [sys.executable, "-c", TAKE_LINK + code]


@pytest.mark.parametrize("code", [0, 4, 7, 143])
def test_exit_code_is_returned(listener: socket.socket, code: int) -> None:
    assert supervise(python(f"sys.exit({code})"), listener) == code


def test_repeated_crashes_end_the_supervisor(
    listener: socket.socket, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    note = "open(sys.argv[1], 'a').write(str(link.settings['restarts'])); os.abort()"
    with pytest.raises(Crashed, match=r"crashed 3 times in a row .*by SIGABRT") as caught:
        supervise([*python(note), str(tmp_path / "starts")], listener, delays=(0.01, 0.02))
    assert caught.value.exit_code == 128 + signal.SIGABRT
    assert (tmp_path / "starts").read_text() == "012"
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(event["event"], event["signal"], event["pause"]) for event in events] == [
        ("died", "SIGABRT", 0.01),
        ("died", "SIGABRT", 0.02),
        ("died", "SIGABRT", None),
    ]


def test_stable_service_resets_the_crash_count(listener: socket.socket) -> None:
    """Only time after `ready` counts as service, not loading."""
    script = "link.settings['restarts'] == 5 and sys.exit(9); {}; time.sleep(0.3); os.kill(os.getpid(), signal.SIGKILL)"
    ready = script.format("link.ready(print)")
    assert supervise(python(ready), listener, delays=(0.01,), stable=0.2) == 9
    with pytest.raises(Crashed, match=r"crashed 2 times .* SIGKILL, often out of memory"):
        supervise(python(script.format("None")), listener, delays=(0.01,), stable=0.2)


def test_load_timeout_is_not_retried(listener: socket.socket) -> None:
    with pytest.raises(Crashed, match="not loaded in time: see --load-timeout"):
        supervise(python("os.kill(os.getpid(), signal.SIGALRM)"), listener, delays=(60,))


SUPERVISE = """
import signal, sys
from tercet.serve.listener import bind
from tercet.serve.supervisor import supervise
from tercet.core.errors import TercetError
print("up", flush=True)
try:
    sys.exit(supervise([sys.executable, "-c", sys.argv[1]], bind("127.0.0.1", 0), delays=(600,)))
except TercetError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


def run_supervisor(code: str, when: str, *kinds: signal.Signals) -> tuple[int, str]:
    """Signal a supervisor after it or its child has written `when`; return exit code and output."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, TAKE_LINK + code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output: list[str] = []
    with process.stdout as lines:
        for line in lines:
            output.append(line)
            if when in line:
                for kind in kinds:
                    process.send_signal(kind)
                    time.sleep(0.1)
        exit_code = process.wait(PATIENCE)
    return exit_code, "".join(output)


@pytest.mark.parametrize(("kind", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")], ids=str)
@pytest.mark.parametrize(
    ("code", "when"),
    [("os.abort()", '"died"'), ("print('loading', flush=True); time.sleep(600)", "loading")],
    ids=["during a restart delay", "while loading"],
)
def test_signal_before_the_server_is_ready_exits_at_once(kind: signal.Signals, name: str, code: str, when: str) -> None:
    status, output = run_supervisor(code, when, kind)
    assert status == 128 + kind and output.endswith(f"stopped by {name}\n") and output.count('"died"') <= 1


@pytest.mark.parametrize("when", ["serving", "pausing"])
def test_signal_delivered_to_another_thread_is_handled(listener: socket.socket, tmp_path: Path, when: str) -> None:
    """The kernel may deliver a signal to any thread, but Python handles it in the main thread, which is waiting."""
    started = tmp_path / "started"
    script = {"serving": "link.ready(lambda number: os._exit(0)); {}; time.sleep(600)", "pausing": "{}; os.abort()"}[
        when
    ]

    def send() -> None:
        while not started.exists():
            time.sleep(0.01)
        time.sleep(1)
        signal.raise_signal(signal.SIGTERM)  # to this thread

    sender = threading.Thread(target=send)
    sender.start()
    with nullcontext() if when == "serving" else pytest.raises(Interrupted, match="stopped by SIGTERM"):
        command = [*python(script.format("open(sys.argv[1], 'w').close()")), str(started)]
        assert supervise(command, listener, delays=(600,)) == 0
    sender.join()


def test_third_signal_kills_an_unresponsive_server() -> None:
    script = "link.ready(lambda number: print('heard', flush=True)); print('unresponsive', flush=True); time.sleep(600)"
    status, output = run_supervisor(script, "unresponsive", signal.SIGTERM, signal.SIGTERM, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM and output.count("heard\n") == 2


def test_crash_during_shutdown_is_reported() -> None:
    script = "link.ready(lambda number: os.abort()); print('served', flush=True); time.sleep(60)"
    status, output = run_supervisor(script, "served", signal.SIGTERM)
    assert status == 128 + signal.SIGABRT and "the server process crashed during shutdown (SIGABRT)" in output
