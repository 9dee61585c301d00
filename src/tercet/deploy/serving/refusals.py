"""Why a request gets no answer: what the client is told, and what only the log says."""

from __future__ import annotations

from tercet.ground.errors import TercetError


class Refusal(TercetError):
    """A request that is not served.

    Args:
        status: The HTTP status.
        message: What the client is told: general, and never made of what the client sent.
        reason: What the log says beside.
        close: End the connection, because the rest of the request is not worth reading.
    """

    def __init__(self, status: int, message: str, *, reason: str = "", close: bool = False) -> None:
        super().__init__(message)
        self.status, self.reason, self.close = status, reason, close


class Busy(Refusal):
    """The server has too much to do at the moment; the client should come back."""

    def __init__(self, message: str, *, reason: str, close: bool = False) -> None:
        super().__init__(503, message, reason=reason, close=close)


class Gone(TercetError):
    """The client has closed its connection: there is nobody to answer."""
