"""What a client is told of one image, as a JSON document."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.core.calibration import Calibration, prediction_sets
from tercet.serve.batching import BatchItem
from tercet.serve.model import CropBox, CropBoxes, ServedModel

MAX_TOP = 5
"""Classes told of each image."""
_DIGITS = 6


class ResponseBuilder:
    """Turns rows of the model's output into documents.

    Args:
        model: Gives the names, and what was calibrated; its probabilities have the temperature already.

    Raises:
        ModelError: What it says of its calibration is damaged.
    """

    def __init__(self, model: ServedModel) -> None:
        self._classes, self._members, self._sets = model.classes, model.member_names, model.sets
        self._frames = CropBoxes(model)
        said = model.metadata.get("calibration")
        calibration = Calibration() if said is None else Calibration.from_dict(said)
        self._reject, self._conformal = calibration.reject, calibration.conformal

    def tell(self, name: str | None, row: BatchItem) -> dict[str, Any]:
        """Return the answer for the file `name`."""
        output, index = row.output, row.index
        scores, members = output.probabilities[index], output.members[index]
        answer: dict[str, Any] = {"file": name}
        if self._sets:
            chosen = np.zeros(len(scores), bool) if output.chosen is None else output.chosen[index]
            answer["labels"] = self._named(chosen, scores)
        else:
            answer |= self._best(scores)
            if self._reject is not None:
                answer["rejected"] = bool(self._reject.rejected(scores[None])[0])
            if self._conformal is not None:
                inside = prediction_sets(scores[None], self._conformal.quantile)[0]
                answer["set"] = self._named(inside, scores)
        answer["top"] = [self._entry(scores, label) for label in np.argsort(-scores, kind="stable")[:MAX_TOP]]
        answer["members"] = [
            {"name": name, **self._best(one)} for name, one in zip(self._members, members, strict=True)
        ]
        answer["map"] = None if output.maps is None else _map(output.maps[index], self._frames.of(*row.size))
        return answer

    def _named(self, chosen: NDArray[np.bool_], scores: NDArray[Any]) -> list[str]:
        """Return the names of some classes, the most probable first, as `tercet predict` tells them."""
        return [self._classes[one] for one in np.argsort(-scores, kind="stable") if chosen[one]]

    def _best(self, scores: NDArray[Any]) -> dict[str, Any]:
        return self._entry(scores, int(scores.argmax()))

    def _entry(self, scores: NDArray[Any], label: int) -> dict[str, Any]:
        return {"label": self._classes[label], "probability": round(float(scores[label]), _DIGITS)}


def _map(values: NDArray[Any], frame: CropBox) -> dict[str, Any]:
    """Return a map as bytes, one a cell, row by row, and where it lies in the image."""
    cells = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    height, width = cells.shape
    encoded = base64.b64encode(cells.tobytes()).decode("ascii")
    return {"height": height, "width": width, "values": encoded, "frame": [round(part, _DIGITS) for part in frame]}


def describe_model(model: ServedModel, name: str) -> dict[str, Any]:
    """Return what `/v1/model` tells: names, members, what was measured and calibrated."""
    said = model.metadata
    card = dict(said.get("card") or {})
    if isinstance(data := card.get("data"), dict):  # digests of the training images are for `tercet evaluate` only
        card["data"] = {key: value for key, value in data.items() if key != "seen"}
    return {
        "model": name,
        "classes": list(model.classes),
        "members": said.get("members") or [{"name": member} for member in model.member_names],
        "combiner": said.get("combiner"),
        "sets": model.sets,
        "maps": model.has_maps,
        "calibration": said.get("calibration"),
        "card": card,
        "sha256": said.get("model_sha256"),
        "version": said.get("tercet"),
    }
