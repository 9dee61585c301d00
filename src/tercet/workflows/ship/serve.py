"""Serving a model over HTTP: load or export it, listen, answer until a signal."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tercet.deploy.exported import ExportedModel
from tercet.deploy.manifest import is_bundle, read_manifest
from tercet.deploy.serving.hosts import loopback
from tercet.deploy.serving.run import Served, serve
from tercet.deploy.serving.settings import Limits
from tercet.ground.errors import ModelError


def serve_model(
    path: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_host: Sequence[str] = (),
    threads: int | None = None,
    name: str | None = None,
    limits: Limits | None = None,
) -> Served:
    """Answer requests with a model until SIGTERM or Ctrl-C.

    Args:
        path: A file of `tercet export`, a bundle's folder, or a run's.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        allow_host: Other names by which clients call the server.
        threads: Threads of the model (default: one a core).
        name: What the model is called (default: as its file or folder).
        limits: What is too much.

    Raises:
        ModelError: It is no model, or it is damaged; nothing listens then.
        ConfigError: The address cannot be listened on.
    """
    given = Path(path)
    with _exported(given) as file:
        model = ExportedModel.load(file, threads=threads)
        if not loopback(host):
            warnings.warn(
                f"everyone who can reach {host} may use this server: put a proxy with TLS and access control before it",
                stacklevel=2,
            )
        return serve(model, name or _called(given), host=host, port=port, allow_host=allow_host, limits=limits)


def _called(path: Path) -> str:
    resolved = path.resolve()
    inner = resolved.name == "bundle" and resolved.is_dir()
    return resolved.parent.name if inner else resolved.stem if resolved.is_file() else resolved.name


@contextmanager
def _exported(path: Path) -> Iterator[Path]:
    """Yield the file of a model; that of a bundle is written by another process, so that this one stays small.

    Raises:
        ModelError: The bundle cannot be exported; the other process has said why.
    """
    if not path.is_dir():
        yield path
        return
    inner = path / "bundle"
    read_manifest(inner if is_bundle(inner) else path)  # what is no bundle is told at once
    with tempfile.TemporaryDirectory(prefix="tercet-serve-") as folder:
        file = Path(folder) / "model.onnx"
        command = [sys.executable, "-m", "tercet", "export", str(path), str(file), "--maps"]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode or not file.is_file():
            raise ModelError(f"{path} cannot be served: it could not be exported, see above")
        yield file
