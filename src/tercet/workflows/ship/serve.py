"""Serving a model over HTTP: load or export it, listen, answer until a signal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tercet.deploy.exported import ExportedModel
from tercet.deploy.serving.run import Served, serve
from tercet.deploy.serving.settings import Limits
from tercet.ground.children import Leash
from tercet.ground.cores import available_cores
from tercet.ground.limits import limit_memory, limit_time
from tercet.workflows.ship.supervised import called, exported, warn_if_open

_OWN_THREADS = 4  # journal, leash, model, and the one that runs the event loop


def serve_model(
    path: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_host: Sequence[str] = (),
    threads: int | None = None,
    name: str | None = None,
    limits: Limits | None = None,
    max_memory: int | None = None,
    load_timeout: float | None = None,
    leash: Leash | None = None,
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
        max_memory: MiB of addresses that this process may have from now on, for good.
        load_timeout: Seconds in which the model must be loaded; then SIGALRM ends this process.
        leash: Of the process that supervises this one (see `tercet.workflows.ship.supervised`).

    Raises:
        ModelError: It is no model, or it is damaged; nothing listens then.
        ConfigError: The address cannot be listened on, or so little memory is too little.
        MemoryExhausted: There is no memory for the model.
    """
    given = Path(path)
    if leash is None:
        warn_if_open(host)
    with exported(given) as file:
        if max_memory is not None:
            computing = (threads or available_cores()) + (os.cpu_count() or 1)  # the model's, and those that decode
            limit_memory(max_memory, threads=computing + _OWN_THREADS)
        limit_time(load_timeout)
        model = ExportedModel.load(file, threads=threads)
        return serve(
            model,
            name or called(given),
            host=host,
            port=port,
            allow_host=allow_host,
            limits=limits,
            leash=leash,
            loaded=lambda: limit_time(None),
        )
