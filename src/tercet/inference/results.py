"""What is told of images that a bundle classified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tercet.core.calibration import Calibration, prediction_sets
from tercet.core.multilabel import SEPARATOR, MultilabelPredictions
from tercet.core.prediction_files import REJECTED, SET, write_csv
from tercet.core.predictions import Predictions
from tercet.core.streams import printable
from tercet.data.image_cache import BadImage


@dataclass(frozen=True)
class PredictionResult:
    """What a bundle said of some files."""

    predictions: Predictions
    """The files that could be read."""
    bad: tuple[BadImage, ...]
    """Those that could not."""
    top_k: int
    """Classes told for each image."""
    calibration: Calibration | None = None
    """The bundle's: it may have a threshold below which an answer is rejected, and make prediction sets."""

    @property
    def rejected(self) -> list[bool] | None:
        """Whether each answer is too unsure to be given; None where the bundle has no threshold."""
        reject = self.calibration.reject if self.calibration else None
        return None if reject is None else reject.rejected(self.predictions.probabilities).tolist()

    @property
    def sets(self) -> list[list[str]] | None:
        """The prediction set of each image, the most probable class first; None where the bundle makes none."""
        rule = self.calibration.conformal if self.calibration else None
        if rule is None:
            return None
        probabilities = self.predictions.probabilities
        inside = prediction_sets(probabilities, rule.quantile)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        return [
            [self.predictions.classes[index] for index in row if chosen[index]]
            for row, chosen in zip(order.tolist(), inside, strict=True)
        ]

    def write_csv(self, path: Path) -> None:
        """Write the predictions, with `rejected` and `set` where the bundle tells them."""
        rejected, sets = self.rejected, self.sets
        marks = {} if rejected is None else {REJECTED: ["yes" if one else "no" for one in rejected]}
        if sets is not None:
            marks[SET] = [SEPARATOR.join(names) for names in sets]
        write_csv(self.predictions, path, marks=marks)

    def best(self, row: int) -> list[tuple[str, float]]:
        """Return the most probable classes of an image with their probabilities."""
        probabilities = self.predictions.probabilities[row]
        order = np.argsort(-probabilities, kind="stable")[: self.top_k]
        return [(self.predictions.classes[index], float(probabilities[index])) for index in order]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names, rejected, sets = self.predictions.predicted_names, self.rejected, self.sets
        return {
            "images": [
                {
                    "id": name,
                    "predicted": names[row],
                    **({} if rejected is None else {"rejected": rejected[row]}),
                    **({} if sets is None else {"set": sets[row]}),
                    "probabilities": dict(self.best(row)),
                }
                for row, name in enumerate(self.predictions.ids)
            ],
            "unreadable": _told(self.bad),
        }

    def to_text(self) -> str:
        """Return one line an image."""
        lines, rejected, sets = [], self.rejected, self.sets
        for row, name in enumerate(self.predictions.ids):
            said = "  ".join(f"{printable(label)} {share:.3f}" for label, share in self.best(row))
            said += "  REJECTED" if rejected is not None and rejected[row] else ""
            said += "" if sets is None else "  set: " + SEPARATOR.join(map(printable, sets[row]))
            lines.append(f"{printable(name)}: {said}\n")
        return "".join([*lines, *_lines(self.bad)])


@dataclass(frozen=True)
class MultilabelPredictionResult:
    """What a bundle said of some files."""

    predictions: MultilabelPredictions
    """The files that could be read."""
    bad: tuple[BadImage, ...]
    """Those that could not."""
    top_k: int
    """Labels told for each image beside the chosen ones."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = self.predictions.predicted_names
        return {
            "images": [
                {"id": name, "predicted": list(names[row]), "scores": self.predictions.best(row, self.top_k)}
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
