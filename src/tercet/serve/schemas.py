"""Pydantic models of the JSON documents, for OpenAPI.

Responses are built as plain dictionaries, which is faster; a test validates them against these models.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class ClassScore(BaseModel):
    """A class and its probability."""

    label: str
    probability: float = Field(ge=0, le=1)


class MemberPrediction(ClassScore):
    """Prediction of one member."""

    name: str


class HeatMap(BaseModel):
    """Class-activation map of the predicted class."""

    height: int
    width: int
    values: str = Field(description="One byte per cell in row-major order, base64.")
    box: list[float] = Field(
        min_length=4,
        max_length=4,
        description="Position in the image: top, left, height and width as fractions of the image's size.",
    )


class ImagePrediction(BaseModel):
    """Prediction for one image; a failed image has `file` and `error` only."""

    file: str | None = Field(description="File name of the upload; null if the body was one image.")
    label: str | None = Field(None, description="The most probable class.")
    probability: float | None = Field(None, ge=0, le=1)
    labels: list[str] | None = Field(None, description="Predicted labels of a multi-label model.")
    rejected: bool | None = Field(None, description="Whether the probability is below the calibrated threshold.")
    prediction_set: list[str] | None = Field(None, description="Conformal prediction set.")
    top: list[ClassScore] | None = Field(None, max_length=5)
    members: list[MemberPrediction] | None = None
    map: HeatMap | None = None
    error: str | None = None


class PredictionResponse(BaseModel):
    """Predictions in the order of the images."""

    model: str
    predictions: list[ImagePrediction]


class ModelInfo(BaseModel):
    """Description of the served model."""

    model: str
    classes: list[str]
    members: list[dict[str, Any]]
    combiner: Any = None
    sets: bool = Field(description="Whether the model is multi-label.")
    maps: bool = Field(description="Whether predictions have class-activation maps.")
    calibration: dict[str, Any] | None = None
    card: dict[str, Any] = Field(description="Model card: data and scores of the training run.")
    limits: dict[str, float]
    sha256: str | None = None
    version: str | None = None


class Health(BaseModel):
    """Server status."""

    status: str


class ErrorResponse(BaseModel):
    """Error message."""

    error: str


REQUEST_BODY: dict[str, Any] = {
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
"""OpenAPI description of the request body."""
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The body is empty or malformed."},
    408: {"model": ErrorResponse, "description": "Timeout: the request did not arrive in time."},
    413: {"model": ErrorResponse, "description": "The body is too large or contains too many images."},
    415: {"model": ErrorResponse, "description": "Not an image in an accepted format."},
    421: {"model": ErrorResponse, "description": "The Host header is not allowed."},
    422: {
        "model": ErrorResponse,
        "description": "The image is damaged or too large, or the model's output for it is not finite.",
    },
    500: {"model": ErrorResponse, "description": "Internal server error."},
    503: {
        "model": ErrorResponse,
        "description": "Overloaded or stopping: retry after the time in Retry-After.",
    },
}
"""OpenAPI description of the error responses."""
