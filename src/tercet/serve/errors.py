"""Errors of the server as HTTP responses."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from tercet.core.errors import TercetError


class RequestError(TercetError):
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


class Overloaded(RequestError):
    """The server has too much to do at the moment; the client should come back."""

    def __init__(self, message: str, *, reason: str, close: bool = False) -> None:
        super().__init__(503, message, reason=reason, close=close)


class ClientDisconnected(TercetError):
    """The client has closed its connection: there is nobody to answer."""


RETRY_AFTER = "1"
"""Seconds after which a client that was sent away should come back."""


def json_response(status: int, document: Any, *, close: bool = False, later: bool = False) -> Response:
    """Return a JSON answer.

    Args:
        status: The HTTP status.
        document: What is said; everything beyond ASCII, and what could end a script element, is escaped.
        close: End the connection with it.
        later: Tell the client when to come back.
    """
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    headers = {"connection": "close"} if close else {}
    if later:
        headers["retry-after"] = RETRY_AFTER
    return Response(text, status, headers, media_type="application/json")


def error_response(refusal: RequestError) -> Response:
    """Return the answer to a request that is not served."""
    later = isinstance(refusal, Overloaded)
    return json_response(refusal.status, {"error": str(refusal)}, close=refusal.close, later=later)
