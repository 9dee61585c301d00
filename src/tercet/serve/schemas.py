"""The documents that the server speaks in, for the OpenAPI description, and a page about them that loads nothing.

Answers are made of plain dictionaries, which costs less; a test holds them against these classes.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field


class ClassScore(BaseModel):
    """A class, and how probable it is."""

    label: str
    probability: float = Field(ge=0, le=1)


class MemberPrediction(ClassScore):
    """What one member says."""

    name: str


class HeatMap(BaseModel):
    """Where the image speaks for its class: one byte a cell, row by row, base64."""

    height: int
    width: int
    values: str
    frame: list[float] = Field(
        min_length=4,
        max_length=4,
        description="Top, left, height and width of where it lies, as shares of the image's.",
    )


class ImagePrediction(BaseModel):
    """What is said of one image, or why nothing is: then there is only `file` and `error`."""

    file: str | None = Field(description="The file's name as it was sent; null where the body was one image.")
    label: str | None = Field(None, description="The most probable class.")
    probability: float | None = Field(None, ge=0, le=1)
    labels: list[str] | None = Field(None, description="The labels, where the model gives sets of labels.")
    rejected: bool | None = Field(None, description="The probability lies below the calibrated threshold.")
    set: list[str] | None = Field(None, description="The calibrated prediction set.")
    top: list[ClassScore] | None = Field(None, max_length=5)
    members: list[MemberPrediction] | None = None
    map: HeatMap | None = None
    error: str | None = None


class PredictionResponse(BaseModel):
    """Answers in the order of the images."""

    model: str
    answers: list[ImagePrediction]


class ModelInfo(BaseModel):
    """What is known of the model."""

    model: str
    classes: list[str]
    members: list[dict[str, Any]]
    combiner: Any = None
    sets: bool
    maps: bool
    calibration: dict[str, Any] | None = None
    card: dict[str, Any]
    limits: dict[str, float]
    sha256: str | None = None
    version: str | None = None


class Health(BaseModel):
    """How the server is."""

    status: str


class ErrorResponse(BaseModel):
    """Why there is no answer."""

    error: str


BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "files": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                    },
                    "required": ["files"],
                    "additionalProperties": False,
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary", "minLength": 1}},
            "image/*": {"schema": {"type": "string", "format": "binary", "minLength": 1}},
        },
    }
}
"""How images are sent."""
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The body is empty or broken."},
    408: {"model": ErrorResponse, "description": "The request did not arrive in time."},
    413: {"model": ErrorResponse, "description": "The body is too large, or holds too many images."},
    415: {"model": ErrorResponse, "description": "No image in an accepted format."},
    421: {"model": ErrorResponse, "description": "The server does not answer to this host."},
    422: {
        "model": ErrorResponse,
        "description": "The image is damaged or too large, or the model has no answer for it.",
    },
    500: {"model": ErrorResponse, "description": "A fault of the server."},
    503: {"model": ErrorResponse, "description": "Too much to do: come back after `Retry-After` seconds."},
}
"""What may come instead of an answer."""


def openapi_document(described: Mapping[str, Any]) -> str:
    """Return a page that lists an OpenAPI description, as HTML without scripts."""
    parts = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{_text(method.upper())} {_text(path)}</code></h2>")
            parts.append(f"<p>{_text(operation.get('description') or operation.get('summary') or '')}</p>")
            kinds = operation.get("requestBody", {}).get("content", {})
            if kinds:
                parts.append(f"<p>Body: {', '.join(f'<code>{_text(kind)}</code>' for kind in kinds)}</p>")
            rows = "".join(
                f"<tr><th scope='row'>{_text(status)}</th><td>{_text(one.get('description', ''))}</td></tr>"
                for status, one in operation.get("responses", {}).items()
            )
            parts.append(f"<table>{rows}</table>")
    info = described["info"]
    title = _text(info["title"])
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><link rel='stylesheet' href='/page.css'><link rel='icon' href='/icon.svg'></head>"
        f"<body><main class='documentation'><h1>{title}</h1><p>{_text(info.get('description', ''))}</p>"
        "<p>For programs: <a href='/openapi.json'>openapi.json</a>. For people: <a href='/'>the page</a>.</p>"
        f"{''.join(parts)}</main></body></html>"
    )


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
