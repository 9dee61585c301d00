"""Answers as bytes: JSON that no client can make into anything else."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from tercet.deploy.serving.refusals import Busy, Refusal

RETRY_AFTER = "1"
"""Seconds after which a client that was sent away should come back."""


def reply(status: int, document: Any, *, close: bool = False, later: bool = False) -> Response:
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


def refuse(refusal: Refusal) -> Response:
    """Return the answer to a request that is not served."""
    later = isinstance(refusal, Busy)
    return reply(refusal.status, {"error": str(refusal)}, close=refusal.close, later=later)
