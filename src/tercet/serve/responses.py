"""JSON documents of predictions and of the model description."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.core.calibration import Calibration, prediction_sets
from tercet.inference.exported_model import ExportedModel
from tercet.serve.batching import BatchItem
from tercet.serve.model import CropBox, CropBoxes

MAX_TOP = 5
"""Number of most probable classes per image."""
_DIGITS = 6


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
        card["data"] = {key: value for key, value in data.items() if key != "seen"}
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
