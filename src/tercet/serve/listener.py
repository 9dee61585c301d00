"""Listening sockets, file descriptors, and accepted hosts; imported by the supervisor, so without large libraries."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import re
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress

from tercet.core.errors import ConfigError

_SO_ATTACH_FILTER = 26  # Linux; not in `socket`
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF program: return 0, which drops the packet
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]+))(?::[0-9]{1,5})?")


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


class AllowedHosts:
    """Check of the Host header, against DNS rebinding.

    Args:
        bound: Address that the server listens on.
        allowed: Other accepted names, such as the public name behind a proxy.
    """

    def __init__(self, bound: str, allowed: Sequence[str] = ()) -> None:
        self._public = not is_loopback(bound)
        machine = (socket.gethostname(),) if self._public else ()
        self._names = {_normalize(name) for name in (*_LOOPBACK, bound, *machine, *allowed)}

    def accepts(self, header: str) -> bool:
        """Whether a request with this Host header is served.

        A server on a public address accepts every numeric address: rebinding needs a name.
        """
        match = _HOST.fullmatch(header)
        if match is None:
            return False
        name = _normalize(match["six"] or match["name"])
        return name in self._names or (self._public and _is_numeric(name))


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only."""
    return _normalize(host) == "localhost" or (_is_numeric(host) and ipaddress.ip_address(host).is_loopback)


def _normalize(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_numeric(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
