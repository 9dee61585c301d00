"""Which `Host` headers are answered: a foreign page cannot reach a server through a name that it controls."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]+))(?::[0-9]{1,5})?")


class Hosts:
    """The hosts that a server answers to.

    Args:
        bound: The address that it listens on.
        allowed: Other names, such as the public one behind a proxy.
    """

    def __init__(self, bound: str, allowed: Sequence[str] = ()) -> None:
        self._open = not loopback(bound)
        own = (socket.gethostname(),) if self._open else ()
        self._names = {_plain(name) for name in (*_LOOPBACK, bound, *own, *allowed)}

    def accepts(self, header: str) -> bool:
        """Tell whether to answer a request with this header.

        Where the server is open to a network, every numeric address is accepted: rebinding needs a name.
        """
        match = _HOST.fullmatch(header)
        if match is None:
            return False
        name = _plain(match["six"] or match["name"])
        return name in self._names or (self._open and _numeric(name))


def loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    return _plain(host) == "localhost" or (_numeric(host) and ipaddress.ip_address(host).is_loopback)


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _numeric(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
