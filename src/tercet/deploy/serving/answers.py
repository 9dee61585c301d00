"""What a client is told of one image, as a JSON document."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.deploy.serving.batching import Row
from tercet.deploy.serving.contract import Model

TOP = 5
"""Classes told of each image."""
_DIGITS = 6


class Teller:
    """Turns rows of the model's output into documents.

    Args:
        model: Gives the names, and what was calibrated.
    """

    def __init__(self, model: Model) -> None:
        self._classes, self._members, self._sets = model.classes, model.member_names, model.sets
        calibration = _mapping(model.metadata.get("calibration"))
        self._threshold = _number(_mapping(calibration.get("reject")).get("threshold"))
        self._quantile = _number(_mapping(calibration.get("conformal")).get("quantile"))

    def tell(self, name: str | None, row: Row) -> dict[str, Any]:
        """Return the answer for the file `name`."""
        output, index = row.output, row.index
        scores, members = output.probabilities[index], output.members[index]
        answer: dict[str, Any] = {"file": name}
        if self._sets:
            chosen = np.zeros(len(scores), bool) if output.chosen is None else output.chosen[index]
            answer["labels"] = [self._classes[label] for label in np.flatnonzero(chosen)]
        else:
            answer |= self._best(scores)
            if self._threshold is not None:
                answer["rejected"] = bool(scores.max() < self._threshold)
            if self._quantile is not None:
                inside = 1 - scores <= self._quantile
                inside[scores.argmax()] = True  # a set is never empty
                answer["set"] = [self._classes[one] for one in np.flatnonzero(inside)]
        answer["top"] = [self._entry(scores, label) for label in np.argsort(-scores, kind="stable")[:TOP]]
        answer["members"] = [
            {"name": name, **self._best(one)} for name, one in zip(self._members, members, strict=True)
        ]
        answer["map"] = None if output.maps is None else _map(output.maps[index])
        return answer

    def _best(self, scores: NDArray[Any]) -> dict[str, Any]:
        return self._entry(scores, int(scores.argmax()))

    def _entry(self, scores: NDArray[Any], label: int) -> dict[str, Any]:
        return {"label": self._classes[label], "probability": round(float(scores[label]), _DIGITS)}


def _map(values: NDArray[Any]) -> dict[str, Any]:
    """Return a map as bytes, one a cell, row by row."""
    cells = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    height, width = cells.shape
    return {"height": height, "width": width, "values": base64.b64encode(cells.tobytes()).decode("ascii")}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def describe(model: Model, name: str) -> dict[str, Any]:
    """Return what `/v1/model` tells: names, members, what was measured and calibrated."""
    said = model.metadata
    return {
        "model": name,
        "classes": list(model.classes),
        "members": said.get("members") or [{"name": member} for member in model.member_names],
        "combiner": said.get("combiner"),
        "sets": model.sets,
        "maps": model.has_maps,
        "calibration": said.get("calibration"),
        "card": said.get("card") or {},
        "sha256": said.get("model_sha256"),
        "version": said.get("tercet"),
    }
