"""What is told of images that a bundle classified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tercet.data.store import BadImage
from tercet.ground.streams import printable
from tercet.records.label_sets import SetPredictions
from tercet.records.predictions import Predictions


@dataclass(frozen=True)
class Classified:
    """What a bundle said of some files."""

    predictions: Predictions
    """The files that could be read."""
    bad: tuple[BadImage, ...]
    """Those that could not."""
    top: int
    """Classes told for each image."""

    def best(self, row: int) -> list[tuple[str, float]]:
        """Return the most probable classes of an image with their probabilities."""
        probabilities = self.predictions.probabilities[row]
        order = np.argsort(-probabilities, kind="stable")[: self.top]
        return [(self.predictions.classes[index], float(probabilities[index])) for index in order]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "images": [
                {
                    "id": name,
                    "predicted": self.predictions.predicted_names[row],
                    "probabilities": dict(self.best(row)),
                }
                for row, name in enumerate(self.predictions.ids)
            ],
            "unreadable": _told(self.bad),
        }

    def to_text(self) -> str:
        """Return one line an image."""
        lines = []
        for row, name in enumerate(self.predictions.ids):
            said = "  ".join(f"{printable(label)} {share:.3f}" for label, share in self.best(row))
            lines.append(f"{printable(name)}: {said}\n")
        return "".join([*lines, *_lines(self.bad)])


@dataclass(frozen=True)
class ClassifiedSets:
    """What a bundle said of some files."""

    predictions: SetPredictions
    """The files that could be read."""
    bad: tuple[BadImage, ...]
    """Those that could not."""
    top: int
    """Labels told for each image beside the chosen ones."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = self.predictions.predicted_names
        return {
            "images": [
                {"id": name, "predicted": list(names[row]), "scores": self.predictions.best(row, self.top)}
                for row, name in enumerate(self.predictions.ids)
            ],
            "unreadable": _told(self.bad),
        }

    def to_text(self) -> str:
        """Return one line an image: its labels with their scores."""
        lines = []
        for row, (name, labels) in enumerate(zip(self.predictions.ids, self.predictions.predicted_names, strict=True)):
            scores = self.predictions.best(row, 0)
            said = "  ".join(f"{printable(label)} {scores[label]:.3f}" for label in labels) or "no label"
            lines.append(f"{printable(name)}: {said}\n")
        return "".join([*lines, *_lines(self.bad)])


def _told(bad: Sequence[BadImage]) -> list[dict[str, str]]:
    return [{"id": image.id, "reason": image.reason} for image in bad]


def _lines(bad: Sequence[BadImage]) -> list[str]:
    return [f"{printable(image.location)}: UNREADABLE ({image.reason})\n" for image in bad]
