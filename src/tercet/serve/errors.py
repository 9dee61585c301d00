"""Errors of the server and JSON responses."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from tercet.core.errors import TercetError


class RequestError(TercetError):
    """A request, or one of its images, is rejected.

    Args:
        status: HTTP status code.
        message: Text for the client; never contains client data.
        reason: Details for the log.
        close: Close the connection instead of reading the rest of the request.
    """

    def __init__(self, status: int, message: str, *, reason: str = "", close: bool = False) -> None:
        super().__init__(message)
        self.status, self.reason, self.close = status, reason, close


class Overloaded(RequestError):
    """503: the client should retry later."""

    def __init__(self, message: str, *, reason: str, close: bool = False) -> None:
        super().__init__(503, message, reason=reason, close=close)


class ClientDisconnected(TercetError):
    """The client closed the connection before the response."""


RETRY_AFTER = "1"
"""Value of the Retry-After header, in seconds."""


def json_response(status: int, document: Any, *, close: bool = False, retry: bool = False) -> Response:
    """Return a JSON response: ASCII, with `<` escaped so that no name can end a script element.

    Args:
        status: HTTP status code.
        document: The body.
        close: Add `Connection: close`.
        retry: Add `Retry-After`.
    """
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    headers = {"connection": "close"} if close else {}
    if retry:
        headers["retry-after"] = RETRY_AFTER
    return Response(text, status, headers, media_type="application/json")


def error_response(error: RequestError) -> Response:
    """Return the response for a rejected request."""
    retry = isinstance(error, Overloaded)
    return json_response(error.status, {"error": str(error)}, close=error.close, retry=retry)
