"""Run the server process."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, cast

import numpy as np

from tercet.config.deployment import ServerLimits
from tercet.core.errors import ConfigError
from tercet.core.process import ParentLink
from tercet.serve.access_log import AccessLog, AccessLogHandler
from tercet.serve.app import make_app, route_paths
from tercet.serve.metrics import Metrics
from tercet.serve.middleware import AllowedHosts, GuardMiddleware
from tercet.serve.model import ServedModel
from tercet.serve.protocol import BoundedProtocol, ServerConfig
from tercet.serve.service import Service
from tercet.serve.shutdown import GracefulServer


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound; who answers lets it listen.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise ConfigError(f"cannot listen on host {host!r}, port {port}: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise _in_use(host, port) from error
        raise ConfigError(f"cannot listen on host {host!r}, port {port}: {error.strerror or error}") from error
    return listener


def listen(listener: socket.socket, backlog: int) -> None:
    """Let connections come to a bound socket, and wait.

    Raises:
        ConfigError: Another process was bound to the port too, and listened first.
    """
    try:
        listener.listen(backlog)
    except OSError as error:
        raise _in_use(*listener.getsockname()[:2]) from error


def _in_use(host: str, port: int) -> ConfigError:
    return ConfigError(f"port {port} of {host} is in use: choose another --port, or 0 for a free one")


def url_of(listener: socket.socket) -> str:
    """Return the address of a bound socket."""
    address, port = listener.getsockname()[:2]
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"


@contextmanager
def freeze_start_up_objects() -> Iterator[None]:
    """Take all that has been made so far out of the garbage collector's sight.

    A full collection would walk through every library and the model's names about once a second under load, and let
    everything else wait: 60 ms on the machine where it was found.
    """
    gc.collect()
    others = gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if not others:  # who froze before us wants it to stay
            gc.unfreeze()


_BACKLOG = 4096  # connections that the system lets wait
_ACCEPTED_AT_ONCE = 32  # asyncio takes as many in one turn, before any of them can be sent away
_OWN_DESCRIPTORS = 192  # open files that are no connection yet, or none at all
_LAST_SECONDS = 2  # after the grace, for answers that are on their way
_LIBRARIES = {  # what of theirs is worth a line; that a client sent nonsense is told by ourselves
    "uvicorn": logging.ERROR,
    "fastapi": logging.WARNING,
    "asyncio": logging.WARNING,
    "python_multipart": logging.CRITICAL,
}


@dataclass(frozen=True)
class ServeResult:
    """What a server has done when it ends."""

    url: str
    requests: int
    seconds: float


def serve(
    model: ServedModel,
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_host: Sequence[str] = (),
    limits: ServerLimits | None = None,
    leash: ParentLink | None = None,
    loaded: Callable[[], object] = lambda: None,
) -> ServeResult:
    """Answer requests until SIGTERM or SIGINT; what is under way then is finished first.

    Args:
        model: Answers; it has been loaded, and is tried here once.
        name: What it is called.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        allow_host: Other names by which clients may call the server.
        limits: What is too much.
        leash: Of the process that supervises this one; it holds the socket, and `host` and `port` are its business.
        loaded: Is called when the model has answered for the first time.

    Raises:
        ConfigError: The address cannot be listened on.
        TercetError: The model does not work.
    """
    limits = limits or ServerLimits()
    limits = replace(limits, connections=min(limits.connections, _raise_descriptor_limit()))
    metrics = Metrics(restarts=leash.settings["restarts"] if leash is not None else 0)
    service = Service(model, limits, metrics)
    app = make_app(model, name, service, limits, metrics)
    model.run(np.zeros((1, 32, 32, 3), np.uint8))  # what does not work at all is found before anyone connects
    loaded()
    listener = bind(host, port) if leash is None else socket.socket(fileno=leash.settings["listener"])
    listen(listener, _BACKLOG)
    url = url_of(listener)
    journal = AccessLog(sys.stderr)
    handler = _redirect_logs(journal)
    guard = GuardMiddleware(
        app, hosts=AllowedHosts(host, allow_host), paths=route_paths(app), metrics=metrics, journal=journal
    )
    config = _configuration(guard, limits)
    config.turned_away, config.stopping = guard.turned_away, lambda: service.stopping
    opening = {"url": url, "model": name, "classes": len(model.classes), "members": len(model.member_names)}
    server = _Server(config, service, guard, journal, {**opening, "pid": os.getpid()}, leash)
    began = time.monotonic()
    service.start()
    try:
        with freeze_start_up_objects():
            asyncio.run(server.serve(sockets=[listener]))
    finally:
        service.close()
        done = ServeResult(url, server.server_state.total_requests, time.monotonic() - began)
        journal.tell("stopped", requests=done.requests, seconds=round(done.seconds, 1))
        for library in _LIBRARIES:
            logging.getLogger(library).removeHandler(handler)
        journal.close()
        listener.close()
    return done


def _configuration(guard: GuardMiddleware, limits: ServerLimits) -> ServerConfig:
    config = ServerConfig(
        cast("Any", guard),
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a client could claim any address
        backlog=_ACCEPTED_AT_ONCE,
        timeout_keep_alive=max(1, round(limits.keep_alive)),
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    config.limits = limits
    return config


class _Server(GracefulServer):
    """uvicorn's server, which on a signal first finishes what is under way while it says that it is not ready."""

    def __init__(
        self,
        config: ServerConfig,
        service: Service,
        guard: GuardMiddleware,
        journal: AccessLog,
        opening: dict[str, Any],
        leash: ParentLink | None,
    ) -> None:
        super().__init__(config)
        self._service, self._guard, self._journal, self._opening = service, guard, journal, opening
        self._leash, self._words = leash, 0
        self._latest, self._told = float("inf"), False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        for one in sockets or ():
            one.listen(_BACKLOG)
        if self._leash is not None:
            self._leash.ready(self._hear, self._orphaned)
        self._journal.tell("listening", **self._opening)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no new work; a second signal ends at once. The process ends with 0, not by the signal.

        It comes between any two instructions, so that nothing here may wait for a lock.
        """
        self._stop(again=self._leash is None)  # who signals the supervisor too would be counted twice

    def _hear(self, number: int) -> None:
        """Take the supervisor's word for a signal."""
        self._words += 1
        self._stop(again=self._words > 1)

    def _stop(self, *, again: bool) -> None:
        if self._service.stopping and again:
            self.should_exit = self.force_exit = True
        self._service.stopping = True
        self._latest = min(self._latest, time.monotonic() + cast("ServerConfig", self.config).limits.grace)

    def _orphaned(self) -> None:
        """Say why the process ends: without its supervisor nobody would start it again, and the port would be held."""
        self._journal.tell("orphaned", open=self._guard.open)
        self._journal.close()

    async def on_tick(self, counter: int) -> bool:
        """Tell whether it is time to go."""
        if self._service.stopping:
            if not self._told:
                self._told = True
                self._journal.tell("stopping", open=self._guard.open)
            if not self._guard.open or time.monotonic() > self._latest:
                self.should_exit = True
        return await super().on_tick(counter)


def _raise_descriptor_limit() -> int:
    """Let the process hold as many connections as the system allows it, and return how many; more would stall all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else max(1, hard - _OWN_DESCRIPTORS)


def _redirect_logs(journal: AccessLog) -> AccessLogHandler:
    """Send what libraries complain about to the journal, and nowhere else."""
    handler = AccessLogHandler(journal)
    for library in _LIBRARIES:
        logger = logging.getLogger(library)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(_LIBRARIES[library])
    return handler
