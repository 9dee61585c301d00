"""Listening sockets: bind, listen, and accept the last connections before the close."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress

from tercet.core.errors import ConfigError

_SO_ATTACH_FILTER = 26  # Linux; not in `socket`
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF program: return 0, which drops the packet


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket; the server calls `listen`.

    Raises:
        ConfigError: The address is invalid or in use.
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
    """Listen on a bound socket.

    Raises:
        ConfigError: Another process that is bound to the port listened first.
    """
    try:
        listener.listen(backlog)
    except OSError as error:
        raise _in_use(*listener.getsockname()[:2]) from error


def _in_use(host: str, port: int) -> ConfigError:
    return ConfigError(f"port {port} of {host} is in use: choose another --port, or 0 for a free one")


def url_of(listener: socket.socket) -> str:
    """Return the URL of a bound socket."""
    address, port = listener.getsockname()[:2]
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"


def accept_waiting(listeners: Sequence[socket.socket]) -> list[socket.socket]:
    """Accept the connections that wait in the kernel; no further ones are established."""
    connections = []
    for listener in listeners:
        _drop_packets(listener)
        try:
            while True:
                connections.append(listener.accept()[0])
        except OSError:  # none left, or no file descriptors
            continue
    for connection in connections:
        connection.setblocking(False)
    return connections


def _drop_packets(listener: socket.socket) -> None:
    """Drop new SYN packets (Linux only); clients retry after one second and are refused then.

    On other systems a client that connects just before the socket closes may see a reset.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(_DROP_ALL)
        with suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))
