"""JSON documents of predictions and of the model description."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.core.calibration import Calibration, prediction_sets
from tercet.data.seen_images import DIGEST_KEYS
from tercet.inference.exported_model import ExportedModel
from tercet.serve.batching import BatchItem

MAX_TOP = 5
"""Number of most probable classes per image."""
_DIGITS = 6


CropBox = tuple[float, float, float, float]
"""Top, left, height and width as fractions of the image's; outside [0, 1] where a border was added."""

_FULL_IMAGE: CropBox = (0.0, 0.0, 1.0, 1.0)


class CropBoxes:
    """Computes which part of an image the class-activation maps cover.

    Args:
        model: Its metadata describe the input of each member and list the members with maps; if their crops differ,
            the box is the full image.
    """

    def __init__(self, model: ExportedModel) -> None:
        members, mapped = model.metadata.get("members"), model.metadata.get("maps")
        entries = [member for member in members if isinstance(member, Mapping)] if isinstance(members, list) else []
        inputs = [
            member.get("input") for member in entries if not isinstance(mapped, list) or member.get("name") in mapped
        ]
        same = bool(inputs) and all(_crop_key(spec) == _crop_key(inputs[0]) for spec in inputs)
        self._input: Mapping[str, Any] | None = inputs[0] if same and _crop_key(inputs[0]) is not None else None

    def of(self, height: int, width: int) -> CropBox:
        """Return the box for an image of this height and width."""
        if self._input is None:
            return _FULL_IMAGE
        size, crop_mode = self._input["size"], self._input["crop_mode"]
        if crop_mode == "border":
            ratio = min(size[0] / height, size[1] / width)
            inner = max(1, round(height * ratio)), max(1, round(width * ratio))
            top, left = ((outer - side) // 2 for outer, side in zip(size, inner, strict=True))
            return -top / inner[0], -left / inner[1], size[0] / inner[0], size[1] / inner[1]
        visible = (float(height), float(width))
        if crop_mode == "center":
            ratio = min(height / size[0], width / size[1])
            visible = (size[0] * ratio, size[1] * ratio)
        crop = tuple(max(1, round(side * self._input["crop_pct"])) for side in visible)
        return (height - crop[0]) // 2 / height, (width - crop[1]) // 2 / width, crop[0] / height, crop[1] / width


def _crop_key(spec: Any) -> tuple[Any, ...] | None:
    """Return the values of an input spec that determine the crop; None if they are missing."""
    if not isinstance(spec, Mapping) or not {"size", "crop_mode", "crop_pct"} <= set(spec):
        return None
    size = tuple(spec["size"]) if spec["crop_mode"] != "squash" else ()
    return spec["crop_mode"], spec["crop_pct"], (size[0] / size[1] if spec["crop_mode"] == "center" else size)


class ResponseBuilder:
    """Builds the JSON document of each image from the model's output.

    Args:
        model: Its probabilities are temperature-scaled already.

    Raises:
        ModelError: The calibration in the file is damaged.
    """

    def __init__(self, model: ExportedModel) -> None:
        self._classes, self._members, self._multilabel = model.classes, model.member_names, model.multilabel
        self._boxes = CropBoxes(model)
        entry = model.metadata.get("calibration")
        calibration = Calibration() if entry is None else Calibration.from_dict(entry)
        self._reject, self._conformal = calibration.reject, calibration.conformal

    def prediction(self, file: str | None, item: BatchItem) -> dict[str, Any]:
        """Return the document for the file name `file`."""
        output, index = item.output, item.index
        scores, members = output.probabilities[index], output.members[index]
        document: dict[str, Any] = {"file": file}
        if self._multilabel:
            chosen = np.zeros(len(scores), bool) if output.chosen is None else output.chosen[index]
            document["labels"] = self._labels(chosen, scores)
        else:
            document |= self._best(scores)
            if self._reject is not None:
                document["rejected"] = bool(self._reject.rejected(scores[None])[0])
            if self._conformal is not None:
                inside = prediction_sets(scores[None], self._conformal.quantile)[0]
                document["prediction_set"] = self._labels(inside, scores)
        document["top"] = [self._score(scores, label) for label in np.argsort(-scores, kind="stable")[:MAX_TOP]]
        document["members"] = [
            {"name": name, **self._best(member)} for name, member in zip(self._members, members, strict=True)
        ]
        document["map"] = None if output.maps is None else _map(output.maps[index], self._boxes.of(*item.size))
        return document

    def _labels(self, chosen: NDArray[np.bool_], scores: NDArray[Any]) -> list[str]:
        """Return the names of the chosen classes, the most probable first."""
        return [self._classes[label] for label in np.argsort(-scores, kind="stable") if chosen[label]]

    def _best(self, scores: NDArray[Any]) -> dict[str, Any]:
        return self._score(scores, int(scores.argmax()))

    def _score(self, scores: NDArray[Any], label: int) -> dict[str, Any]:
        return {"label": self._classes[label], "probability": round(float(scores[label]), _DIGITS)}


def _map(values: NDArray[Any], box: CropBox) -> dict[str, Any]:
    """Return a class-activation map as one byte per cell in row-major order, base64, with its position."""
    cells = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    height, width = cells.shape
    encoded = base64.b64encode(cells.tobytes()).decode("ascii")
    return {"height": height, "width": width, "values": encoded, "box": [round(side, _DIGITS) for side in box]}


def describe_model(model: ExportedModel, name: str) -> dict[str, Any]:
    """Return the body of `/v1/model` without the limits."""
    metadata = model.metadata
    card = dict(metadata.get("card") or {})
    if isinstance(data := card.get("data"), dict):  # digests of the training images are for `tercet evaluate` only
        card["data"] = {key: value for key, value in data.items() if key not in DIGEST_KEYS}
    return {
        "model": name,
        "classes": list(model.classes),
        "members": metadata.get("members") or [{"name": member} for member in model.member_names],
        "combiner": metadata.get("combiner"),
        "sets": model.multilabel,
        "maps": model.has_maps,
        "calibration": metadata.get("calibration"),
        "card": card,
        "sha256": metadata.get("model_sha256"),
        "version": metadata.get("tercet"),
    }
