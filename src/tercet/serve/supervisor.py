"""The supervisor: export a bundle, start the server process, restart it after a crash.

This module imports no large libraries, as its process lives as long as the server.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tercet.core.errors import Crashed, ModelError
from tercet.core.process import CAN_SUPERVISE, ChildProcess, SignalForwarder, signal_name, tercet_command
from tercet.ensemble.manifest import is_bundle, read_manifest
from tercet.serve.listener import bind, is_loopback
from tercet.serve.monitoring import AccessLog

_ALARM, _KILL = getattr(signal, "SIGALRM", None), getattr(signal, "SIGKILL", None)  # POSIX only
RESTART_DELAYS = (0.1, 0.5, 2.0, 5.0)
"""Seconds before each restart after consecutive crashes; one more crash ends the command."""
STABLE_SECONDS = 15.0
"""Seconds of service after which a crash counts as the first again."""


def supervise(
    command: Sequence[str],
    listener: socket.socket,
    *,
    delays: Sequence[float] = RESTART_DELAYS,
    stable: float = STABLE_SECONDS,
) -> int:
    """Run a server process until it exits normally or a signal stops it, and return its exit code.

    Args:
        command: Command line of the server; its `ParentLink` receives `restarts` and the descriptor `listener`.
        listener: A bound socket. Once a server has called `listen`, connections wait there during a restart.
        delays: Seconds before each restart after consecutive crashes.
        stable: Seconds of service that reset the count.

    Raises:
        Interrupted: A signal arrived while no server was running.
        Crashed: The server crashed too often or during the shutdown, or did not load the model in time.
    """
    log = AccessLog(sys.stderr)
    crashes = restarts = 0
    try:
        # Closed at the first signal, so that new connections are refused as soon as the server has closed its copy.
        with SignalForwarder(on_signal=listener.close) as signals:
            while True:
                child = ChildProcess(command, descriptors={"listener": listener.fileno()}, restarts=restarts)
                if (code := signals.wait(child)) >= 0:
                    return code
                number = -code
                crashes = 1 if child.served >= stable else crashes + 1
                final = bool(signals.signals) or number == _ALARM or crashes > len(delays)
                delay = None if final else delays[crashes - 1]
                process = {"signal": signal_name(number), "pid": child.process.pid, "served": round(child.served, 1)}
                log.write("died", **process, restarts=restarts, pause=delay)
                if delay is None:
                    raise _crashed(number, crashes, stopping=bool(signals.signals))
                signals.pause(delay)
                restarts += 1
    finally:
        log.close()


def _crashed(number: int, crashes: int, *, stopping: bool) -> Crashed:
    if number == _ALARM:
        return Crashed("the model was not loaded in time: see --load-timeout", number)
    name = signal_name(number) + (", often out of memory" if number == _KILL else "")
    if stopping:
        return Crashed(f"the server process crashed during shutdown ({name})", number)
    return Crashed(f"the server process crashed {crashes} times in a row (last by {name}); not restarted", number)


def serve_supervised(
    path: str | Path,
    make_arguments: Callable[[Path, str], Sequence[str]],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
) -> int:
    """Serve a model in a child process, restart it after crashes, and return its exit code.

    Args:
        path: Exported file, bundle or run folder.
        make_arguments: From the exported file and the model name to the arguments of `tercet` in the child process.
        host: Address to listen on.
        port: Port; 0 selects a free port.
        name: Model name (default: name of the file or run folder).

    Raises:
        ConfigError: The address is invalid or in use.
        ModelError: The path is not a bundle, or cannot be exported.
        Interrupted: A signal arrived while no server was running.
        Crashed: The server crashed repeatedly.
    """
    model = Path(path)
    with bind(host, port) as listener, export_for_serving(model) as file:
        warn_if_public(host)
        return supervise(tercet_command(*make_arguments(file, name or default_model_name(model))), listener)


def warn_if_public(host: str) -> None:
    """Warn if other machines can reach the address."""
    if not is_loopback(host):
        warnings.warn(
            f"listening on {host} without authentication and TLS: use a proxy with TLS and access control",
            stacklevel=2,
        )


def default_model_name(path: Path) -> str:
    """Return the name of the file without suffix, or of the run folder."""
    resolved = path.resolve()
    if resolved.is_file():
        return resolved.stem
    return resolved.parent.name if resolved.name == "bundle" and resolved.is_dir() else resolved.name


@contextmanager
def export_for_serving(path: Path) -> Iterator[Path]:
    """Yield the exported file; a bundle is exported to a temporary file by a child process, to keep this one small.

    Raises:
        ModelError: The bundle cannot be exported; the child process has printed the reason.
        Interrupted: A signal arrived; the child process has ended too.
    """
    if not path.is_dir():
        yield path
        return
    inner = path / "bundle"
    read_manifest(inner if is_bundle(inner) else path)  # fail early if the folder is not a bundle
    with tempfile.TemporaryDirectory(prefix="tercet-serve-") as folder:
        file = Path(folder) / "model.onnx"
        command = tercet_command("export", "--class-activation-maps", "--", str(path), str(file))
        if CAN_SUPERVISE:
            with SignalForwarder() as signals:
                failed = signals.wait(ChildProcess(command, silent=True))
        else:
            failed = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        if failed or not file.is_file():
            raise ModelError(f"cannot serve {path}: the export failed, see above")
        yield file
