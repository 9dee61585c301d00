"""Serving under a supervisor: export, hold the port, and let another process load and answer. Light for that reason."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tercet.deploy.manifest import is_bundle, read_manifest
from tercet.deploy.serving.hosts import loopback
from tercet.deploy.serving.listener import bind
from tercet.deploy.serving.supervisor import supervise
from tercet.ground.children import Child, Relay, own_command
from tercet.ground.errors import ModelError


def supervise_serving(
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
    with bind(host, port) as listener, exported(given) as file:
        warn_if_open(host)
        return supervise(own_command(*words(file, name or called(given))), listener)


def warn_if_open(host: str) -> None:
    """Warn of an address that others can reach."""
    if not loopback(host):
        warnings.warn(
            f"everyone who can reach {host} may use this server: put a proxy with TLS and access control before it",
            stacklevel=2,
        )


def called(path: Path) -> str:
    """Return what a model is called: as its file, or as its run's folder."""
    resolved = path.resolve()
    inner = resolved.name == "bundle" and resolved.is_dir()
    return resolved.parent.name if inner else resolved.stem if resolved.is_file() else resolved.name


@contextmanager
def exported(path: Path) -> Iterator[Path]:
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
        command = own_command("export", "--class-activation-maps", "--", str(path), str(file))
        with Relay() as relay:
            failed = relay.wait(Child(command, silent=True))
        if failed or not file.is_file():
            raise ModelError(f"{path} cannot be served: it could not be exported, see above")
        yield file
