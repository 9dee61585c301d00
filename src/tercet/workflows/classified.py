"""What is told of images that a bundle classified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tercet.data.store import BadImage
from tercet.ground.streams import printable
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
            "unreadable": [{"id": image.id, "reason": image.reason} for image in self.bad],
        }

    def to_text(self) -> str:
        """Return one line an image."""
        lines = []
        for row, name in enumerate(self.predictions.ids):
            said = "  ".join(f"{printable(label)} {share:.3f}" for label, share in self.best(row))
            lines.append(f"{printable(name)}: {said}\n")
        lines += [f"{printable(image.location)}: UNREADABLE ({image.reason})\n" for image in self.bad]
        return "".join(lines)
