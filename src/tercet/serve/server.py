"""Run the server process and shut it down gracefully."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
from uvicorn import Server

from tercet.config.deployment import ServerLimits
from tercet.core.process import ParentLink
from tercet.core.resource_limits import available_cores, limit_memory, limit_time, raise_descriptor_limit
from tercet.inference.exported_model import ExportedModel
from tercet.inference.onnx_model import OnnxModel
from tercet.serve.app import make_app, route_paths
from tercet.serve.listener import AllowedHosts, accept_waiting, bind, listen, url_of
from tercet.serve.middleware import GuardMiddleware
from tercet.serve.monitoring import LIBRARY_LEVELS, AccessLog, Metrics, redirect_logs
from tercet.serve.protocol import BoundedProtocol, ServerConfig
from tercet.serve.service import Service
from tercet.serve.supervisor import default_model_name, export_for_serving, warn_if_public

_SERVER_THREADS = 4  # log, link to the supervisor, model, event loop
_BACKLOG = 4096  # connections that wait in the kernel
_ACCEPTS_PER_TURN = 32  # asyncio accepts as many before it can close any of them
_SHUTDOWN_SECONDS = 2  # after the grace period, for responses in progress
_FLUSH_SECONDS = 1.0


@contextmanager
def freeze_start_up_objects() -> Iterator[None]:
    """Exclude all existing objects from garbage collection.

    Under load a full collection would traverse all libraries about once per second and block everything else for 60 ms.
    """
    gc.collect()
    already_frozen = gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if not already_frozen:
            gc.unfreeze()


@dataclass(frozen=True)
class ServeResult:
    """Totals of a finished server."""

    url: str
    requests: int
    seconds: float


def serve(
    model: ExportedModel,
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_host: Sequence[str] = (),
    limits: ServerLimits | None = None,
    parent: ParentLink | None = None,
    on_loaded: Callable[[], object] = lambda: None,
    on_listening: Callable[[str], object] = lambda url: None,
) -> ServeResult:
    """Serve a model until SIGTERM or SIGINT; requests in progress are completed.

    Args:
        model: The loaded model; it is run once before the server listens.
        name: Name of the model in responses.
        host: Address to listen on.
        port: Port; 0 selects a free port.
        allow_host: Other accepted Host headers.
        limits: Limits of the server.
        parent: Link to the supervisor, which holds the socket (`host` and `port` are unused then).
        on_loaded: Called after the first run of the model.
        on_listening: Called with the URL when the server listens.

    Raises:
        ConfigError: The address is invalid or in use.
        TercetError: The model does not run.
    """
    limits = limits or ServerLimits()
    limits = replace(limits, connections=min(limits.connections, raise_descriptor_limit()))
    metrics = Metrics(restarts=parent.settings["restarts"] if parent is not None else 0)
    service = Service(model, limits, metrics)
    app = make_app(model, name, service, limits, metrics)
    model.run(np.zeros((1, 32, 32, 3), np.uint8))  # a broken model fails before the server listens
    on_loaded()
    listener = bind(host, port) if parent is None else socket.socket(fileno=parent.settings["listener"])
    listen(listener, _BACKLOG)
    url = url_of(listener)
    log = AccessLog(sys.stderr)
    handler = redirect_logs(log)
    guard = GuardMiddleware(app, hosts=AllowedHosts(host, allow_host), paths=route_paths(app), metrics=metrics, log=log)
    config = _uvicorn_config(guard, limits)
    config.on_rejected, config.stopping = guard.record_rejected, lambda: service.stopping
    fields = {"url": url, "model": name, "classes": len(model.classes), "members": len(model.member_names)}
    server = _Server(config, service, guard, log, {**fields, "pid": os.getpid()}, parent, on_listening)
    start = time.monotonic()
    service.start()
    try:
        with freeze_start_up_objects():
            asyncio.run(server.serve(sockets=[listener]))
    finally:
        service.close()
        result = ServeResult(url, server.server_state.total_requests, time.monotonic() - start)
        log.write("stopped", requests=result.requests, seconds=round(result.seconds, 1))
        for library in LIBRARY_LEVELS:
            logging.getLogger(library).removeHandler(handler)
        log.close()
        listener.close()
    return result


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
    parent: ParentLink | None = None,
    on_listening: Callable[[str], object] = lambda url: None,
) -> ServeResult:
    """Serve a model in this process until SIGTERM or Ctrl-C.

    Args:
        path: Exported file, bundle or run folder.
        host: Address to listen on.
        port: Port; 0 selects a free port.
        allow_host: Other accepted Host headers.
        threads: Threads of the model (default: one per core).
        name: Model name (default: name of the file or run folder).
        limits: Limits of the server.
        max_memory: Permanent address-space limit of this process, in MiB.
        load_timeout: Seconds for loading the model; then SIGALRM ends this process.
        parent: Link to the supervisor.
        on_listening: Called with the URL when the server listens.

    Raises:
        ModelError: The file is missing, damaged or not a model.
        ConfigError: The address is invalid or in use, or `max_memory` is too small.
        MemoryExhausted: The model does not fit into memory.
    """
    model_path = Path(path)
    if parent is None:
        warn_if_public(host)
    with export_for_serving(model_path) as file:
        if max_memory is not None:
            computing = (threads or available_cores()) + (os.cpu_count() or 1)  # model and decoders
            limit_memory(max_memory, threads=computing + _SERVER_THREADS)
        limit_time(load_timeout)
        model = OnnxModel.load(file, threads=threads)
        return serve(
            model,
            name or default_model_name(model_path),
            host=host,
            port=port,
            allow_host=allow_host,
            limits=limits,
            parent=parent,
            on_loaded=lambda: limit_time(None),
            on_listening=on_listening,
        )


def _uvicorn_config(guard: GuardMiddleware, limits: ServerLimits) -> ServerConfig:
    config = ServerConfig(
        cast("Any", guard),
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a client could forge its address
        backlog=_ACCEPTS_PER_TURN,
        timeout_keep_alive=max(1, round(limits.keep_alive)),
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    config.limits = limits
    return config


class _Server(Server):
    """uvicorn's server with a graceful shutdown.

    On a signal it reports not ready and completes the requests in progress. Connections that wait in the kernel are
    accepted and get a response, so that no client sees a connection reset.
    """

    def __init__(
        self,
        config: ServerConfig,
        service: Service,
        guard: GuardMiddleware,
        log: AccessLog,
        start_fields: dict[str, Any],
        parent: ParentLink | None,
        on_listening: Callable[[str], object],
    ) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._service, self._guard, self._log, self._start_fields = service, guard, log, start_fields
        self._parent, self._forwarded_signals = parent, 0
        self._stop_time, self._stop_logged = float("inf"), False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, notify the supervisor, and log the address."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)  # uvicorn has set its own backlog
        if self._parent is not None:
            self._parent.ready(self._on_forwarded_signal, self._on_orphaned)
        self._log.write("listening", **self._start_fields)
        self._on_listening(self._start_fields["url"])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Reject new requests; a second signal exits at once. The exit code is 0 in both cases.

        A signal handler runs between any two instructions and therefore must not take a lock.
        """
        self._stop(again=self._parent is None)  # a process manager may signal supervisor and server: count it once

    def _on_forwarded_signal(self, number: int) -> None:
        self._forwarded_signals += 1
        self._stop(again=self._forwarded_signals > 1)

    def _stop(self, *, again: bool) -> None:
        if self._service.stopping and again:
            self.should_exit = self.force_exit = True
        self._service.stopping = True
        self._stop_time = min(self._stop_time, time.monotonic() + cast("ServerConfig", self.config).limits.grace)

    def _on_orphaned(self) -> None:
        """Log that the supervisor has died; this process then exits, to free the port."""
        self._log.write("orphaned", open=self._guard.active)
        self._log.close()

    async def on_tick(self, counter: int) -> bool:
        """Whether to exit."""
        if self._service.stopping:
            if not self._stop_logged:
                self._stop_logged = True
                self._log.write("stopping", open=self._guard.active)
            if not self._guard.active or time.monotonic() > self._stop_time:
                self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listening sockets, then the connections."""
        loop = asyncio.get_running_loop()
        # Closing a listening socket resets the connections that wait in its queue: accept them all first.
        late = [loop.create_task(self._serve_connection(connection)) for connection in accept_waiting(sockets or ())]
        await super().shutdown(sockets)
        await asyncio.gather(*late, return_exceptions=True)  # clients may have disconnected
        end = time.monotonic() + _FLUSH_SECONDS
        while self.server_state.connections and not self.force_exit and time.monotonic() < end:
            await asyncio.sleep(0.02)

    async def _serve_connection(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            config, state = self.config, self.server_state
            made = BoundedProtocol(config=config, server_state=state, app_state=self.lifespan.state, _loop=loop)
            return cast("asyncio.Protocol", made)

        await loop.connect_accepted_socket(protocol, connection)
