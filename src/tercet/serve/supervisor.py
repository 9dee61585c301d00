"""The serve command: export a bundle, start the server process and restart it after a crash."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tercet.config.deployment import ServerLimits
from tercet.core.errors import Crashed, ModelError
from tercet.core.process import ChildProcess, ParentLink, SignalForwarder, signal_name, tercet_command
from tercet.core.resource_limits import available_cores, limit_memory, limit_time
from tercet.ensemble.manifest import is_bundle, read_manifest
from tercet.inference.onnx_model import OnnxModel
from tercet.serve.access_log import AccessLog
from tercet.serve.middleware import is_loopback
from tercet.serve.server import ServeResult, bind, serve

RESTART_DELAYS = (0.1, 0.5, 2.0, 5.0)
"""Seconds before each new start in a row; a death more ends it all."""
STABLE_SECONDS = 15.0
"""Seconds of service after which a death is the first of a row."""


def supervise(
    command: Sequence[str],
    listener: socket.socket,
    *,
    pauses: Sequence[float] = RESTART_DELAYS,
    steady: float = STABLE_SECONDS,
) -> int:
    """Run a server until it ends of itself or is asked to by a signal, and return its exit code.

    Args:
        command: What serves; it takes a leash, and is told `restarts` and the descriptor `listener`.
        listener: A bound socket. Once a server has let it listen, connections wait there while none answers.
        pauses: Seconds before each new start in a row.
        steady: Seconds of service that end a row.

    Raises:
        Interrupted: A signal came while nothing was served.
        Crashed: The server died too often, while it stopped, or as it had not loaded its model in time.
    """
    journal = AccessLog(sys.stderr)
    row = restarts = 0
    try:
        with SignalForwarder(
            on_signal=listener.close
        ) as relay:  # who comes after the server has closed it is refused at once
            while True:
                child = ChildProcess(command, descriptors={"listener": listener.fileno()}, restarts=restarts)
                if (code := relay.wait(child)) >= 0:
                    return code
                number = -code
                row = 1 if child.served >= steady else row + 1
                last = bool(relay.signals) or number == signal.SIGALRM or row > len(pauses)
                pause = None if last else pauses[row - 1]
                told = {"signal": signal_name(number), "pid": child.process.pid, "served": round(child.served, 1)}
                journal.tell("died", **told, restarts=restarts, pause=pause)
                if pause is None:
                    raise _crashed(number, row, stopping=bool(relay.signals))
                relay.pause(pause)
                restarts += 1
    finally:
        journal.close()


def _crashed(number: int, row: int, *, stopping: bool) -> Crashed:
    if number == signal.SIGALRM:
        return Crashed("the model was not loaded in time: see --load-timeout", number)
    told = signal_name(number) + (", often for want of memory" if number == signal.SIGKILL else "")
    if stopping:
        return Crashed(f"the server died while it stopped ({told})", number)
    return Crashed(f"the server died {row} times in a row and is not started again (the last time by {told})", number)


def serve_supervised(
    path: str | Path,
    words: Callable[[Path, str], Sequence[str]],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
) -> int:
    """Serve a model by another process, which is started again where it dies, and return its exit code.

    Args:
        path: A file of `tercet export`, a bundle's folder, or a run's.
        words: From the file and the name of what is served to the command line that serves it.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        name: What the model is called (default: as its file or folder).

    Raises:
        ConfigError: The address cannot be listened on.
        ModelError: The bundle is none, or cannot be exported.
        Interrupted: A signal came while nothing was served.
        Crashed: The server died again and again.
    """
    given = Path(path)
    with bind(host, port) as listener, export_for_serving(given) as file:
        warn_if_open(host)
        return supervise(tercet_command(*words(file, name or default_model_name(given))), listener)


def warn_if_open(host: str) -> None:
    """Warn of an address that others can reach."""
    if not is_loopback(host):
        warnings.warn(
            f"everyone who can reach {host} may use this server: put a proxy with TLS and access control before it",
            stacklevel=2,
        )


def default_model_name(path: Path) -> str:
    """Return what a model is called: as its file, or as its run's folder."""
    resolved = path.resolve()
    inner = resolved.name == "bundle" and resolved.is_dir()
    return resolved.parent.name if inner else resolved.stem if resolved.is_file() else resolved.name


@contextmanager
def export_for_serving(path: Path) -> Iterator[Path]:
    """Yield the file of a model; that of a bundle is written by another process, so that this one stays small.

    Raises:
        ModelError: The bundle cannot be exported; the other process has said why.
        Interrupted: A signal came; that process has ended too.
    """
    if not path.is_dir():
        yield path
        return
    inner = path / "bundle"
    read_manifest(inner if is_bundle(inner) else path)  # what is no bundle is told at once
    with tempfile.TemporaryDirectory(prefix="tercet-serve-") as folder:
        file = Path(folder) / "model.onnx"
        command = tercet_command("export", "--class-activation-maps", "--", str(path), str(file))
        with SignalForwarder() as relay:
            failed = relay.wait(ChildProcess(command, silent=True))
        if failed or not file.is_file():
            raise ModelError(f"{path} cannot be served: it could not be exported, see above")
        yield file


_OWN_THREADS = 4  # journal, leash, model, and the one that runs the event loop


def serve_model(
    path: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_host: Sequence[str] = (),
    threads: int | None = None,
    name: str | None = None,
    limits: ServerLimits | None = None,
    max_memory: int | None = None,
    load_timeout: float | None = None,
    leash: ParentLink | None = None,
) -> ServeResult:
    """Answer requests with a model until SIGTERM or Ctrl-C.

    Args:
        path: A file of `tercet export`, a bundle's folder, or a run's.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        allow_host: Other names by which clients call the server.
        threads: Threads of the model (default: one a core).
        name: What the model is called (default: as its file or folder).
        limits: What is too much.
        max_memory: MiB of addresses that this process may have from now on, for good.
        load_timeout: Seconds in which the model must be loaded; then SIGALRM ends this process.
        leash: Of the process that supervises this one (see `tercet.serve.supervisor`).

    Raises:
        ModelError: It is no model, or it is damaged; nothing listens then.
        ConfigError: The address cannot be listened on, or so little memory is too little.
        MemoryExhausted: There is no memory for the model.
    """
    given = Path(path)
    if leash is None:
        warn_if_open(host)
    with export_for_serving(given) as file:
        if max_memory is not None:
            computing = (threads or available_cores()) + (os.cpu_count() or 1)  # the model's, and those that decode
            limit_memory(max_memory, threads=computing + _OWN_THREADS)
        limit_time(load_timeout)
        model = OnnxModel.load(file, threads=threads)
        return serve(
            model,
            name or default_model_name(given),
            host=host,
            port=port,
            allow_host=allow_host,
            limits=limits,
            leash=leash,
            loaded=lambda: limit_time(None),
        )
