"""Predictions for image files as text, JSON and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tercet.core.calibration import Calibration, prediction_sets
from tercet.core.multilabel import SEPARATOR, MultilabelPredictions
from tercet.core.output import printable
from tercet.core.prediction_files import REJECTED, SET, write_csv
from tercet.core.predictions import Predictions
from tercet.data.image_cache import BadImage


@dataclass(frozen=True)
class PredictionResult:
    """Predictions for image files, one class per image."""

    predictions: Predictions
    """Of the readable files."""
    bad: tuple[BadImage, ...]
    """Unreadable files."""
    top_k: int
    """Classes listed per image."""
    calibration: Calibration | None = None
    """Calibration of the model, possibly with a rejection threshold and prediction sets."""

    @property
    def rejected(self) -> list[bool] | None:
        """Whether each prediction is below the rejection threshold; None without a threshold."""
        reject = self.calibration.reject if self.calibration else None
        return None if reject is None else reject.rejected(self.predictions.probabilities).tolist()

    @property
    def sets(self) -> list[list[str]] | None:
        """The prediction set of each image, most probable class first; None without conformal prediction."""
        rule = self.calibration.conformal if self.calibration else None
        if rule is None:
            return None
        probabilities = self.predictions.probabilities
        chosen = prediction_sets(probabilities, rule.quantile)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        return [
            [self.predictions.classes[index] for index in indices if included[index]]
            for indices, included in zip(order.tolist(), chosen, strict=True)
        ]

    def write_csv(self, path: Path) -> None:
        """Write the predictions, with columns for rejection and prediction sets if the model has them."""
        rejected, sets = self.rejected, self.sets
        columns = {} if rejected is None else {REJECTED: ["yes" if value else "no" for value in rejected]}
        if sets is not None:
            columns[SET] = [SEPARATOR.join(names) for names in sets]
        write_csv(self.predictions, path, marks=columns)

    def best(self, row: int) -> list[tuple[str, float]]:
        """Return the `top_k` most probable classes of an image with their probabilities."""
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
            "unreadable": _unreadable_entries(self.bad),
        }

    def to_text(self) -> str:
        """Return one line per image."""
        lines, rejected, sets = [], self.rejected, self.sets
        for row, name in enumerate(self.predictions.ids):
            line = "  ".join(f"{printable(label)} {probability:.3f}" for label, probability in self.best(row))
            line += "  REJECTED" if rejected is not None and rejected[row] else ""
            line += "" if sets is None else "  set: " + SEPARATOR.join(map(printable, sets[row]))
            lines.append(f"{printable(name)}: {line}\n")
        return "".join([*lines, *_unreadable_lines(self.bad)])


@dataclass(frozen=True)
class MultilabelPredictionResult:
    """Predictions for image files, a label set per image."""

    predictions: MultilabelPredictions
    """Of the readable files."""
    bad: tuple[BadImage, ...]
    """Unreadable files."""
    top_k: int
    """Labels listed per image in addition to the predicted ones."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = self.predictions.predicted_names
        return {
            "images": [
                {"id": name, "predicted": list(names[row]), "scores": self.predictions.best(row, self.top_k)}
                for row, name in enumerate(self.predictions.ids)
            ],
            "unreadable": _unreadable_entries(self.bad),
        }

    def to_text(self) -> str:
        """Return one line per image: its predicted labels with their scores."""
        lines = []
        for row, (name, labels) in enumerate(zip(self.predictions.ids, self.predictions.predicted_names, strict=True)):
            scores = self.predictions.best(row, 0)
            line = "  ".join(f"{printable(label)} {scores[label]:.3f}" for label in labels) or "no label"
            lines.append(f"{printable(name)}: {line}\n")
        return "".join([*lines, *_unreadable_lines(self.bad)])


def _unreadable_entries(bad: Sequence[BadImage]) -> list[dict[str, str]]:
    return [{"id": image.id, "reason": image.reason} for image in bad]


def _unreadable_lines(bad: Sequence[BadImage]) -> list[str]:
    return [f"{printable(image.location)}: UNREADABLE ({image.reason})\n" for image in bad]
