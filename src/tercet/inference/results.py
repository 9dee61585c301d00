"""Predictions for image files as text, JSON and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Predictions for image files."""

    predictions: Predictions | MultilabelPredictions
    """Of the readable files."""
    bad: tuple[BadImage, ...]
    """Unreadable files."""
    top_k: int
    """Classes listed per image; of a multi-label model in addition to the predicted labels."""
    calibration: Calibration | None = None
    """Calibration of the model, possibly with a rejection threshold and prediction sets."""

    @property
    def rejected(self) -> list[bool] | None:
        """Whether each prediction is below the rejection threshold; None without a threshold."""
        reject = self.calibration.reject if self.calibration else None
        if reject is None or not isinstance(self.predictions, Predictions):
            return None
        return [bool(value) for value in reject.rejected(self.predictions.probabilities)]

    @property
    def sets(self) -> list[list[str]] | None:
        """The prediction set of each image, most probable class first; None without conformal prediction."""
        rule = self.calibration.conformal if self.calibration else None
        if rule is None or not isinstance(self.predictions, Predictions):
            return None
        probabilities = self.predictions.probabilities
        chosen = prediction_sets(probabilities, rule.quantile)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        return [
            [self.predictions.classes[index] for index in indices if included[index]]
            for indices, included in zip(order.tolist(), chosen, strict=True)
        ]

    def _marks(self) -> Mapping[str, Sequence[Any]]:
        """Return whether each image is rejected, and its prediction set, as far as the model has them."""
        marks: dict[str, Sequence[Any] | None] = {REJECTED: self.rejected, SET: self.sets}
        return {name: values for name, values in marks.items() if values is not None}

    def write_csv(self, path: Path) -> None:
        """Write the predictions, with columns for rejection and prediction sets if the model has them."""
        if isinstance(self.predictions, MultilabelPredictions):
            self.predictions.write_csv(path)
            return
        texts = {REJECTED: lambda value: "yes" if value else "no", SET: SEPARATOR.join}
        write_csv(
            self.predictions, path, marks={name: [*map(texts[name], cells)] for name, cells in self._marks().items()}
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        predictions, marks = self.predictions, self._marks()
        names = predictions.predicted_names
        key = "probabilities" if isinstance(predictions, Predictions) else "scores"
        images = [
            {
                "id": name,
                "predicted": names[row] if isinstance(names[row], str) else [*names[row]],
                **{mark: values[row] for mark, values in marks.items()},
                key: predictions.best(row, self.top_k),
            }
            for row, name in enumerate(predictions.ids)
        ]
        return {"images": images, "unreadable": [{"id": image.id, "reason": image.reason} for image in self.bad]}

    def to_text(self) -> str:
        """Return one line per image: its most probable classes, or its predicted labels with their scores."""
        top_k = self.top_k if isinstance(self.predictions, Predictions) else 0
        lines, rejected, sets = [], self.rejected, self.sets
        for row, name in enumerate(self.predictions.ids):
            scores = self.predictions.best(row, top_k)
            line = "  ".join(f"{printable(label)} {value:.3f}" for label, value in scores.items()) or "no label"
            line += "  REJECTED" if rejected is not None and rejected[row] else ""
            line += "" if sets is None else "  set: " + SEPARATOR.join(map(printable, sets[row]))
            lines.append(f"{printable(name)}: {line}\n")
        lines += [f"{printable(image.location)}: UNREADABLE ({image.reason})\n" for image in self.bad]
        return "".join(lines)
