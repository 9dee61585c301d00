"""The socket that a server listens on; light, as who holds it does not answer."""

from __future__ import annotations

import errno
import socket

from tercet.ground.errors import ConfigError


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
