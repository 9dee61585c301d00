"""How differently models err: pairs of models, and images that all of them, or none, get right.

N images, M models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tercet.evaluation.metrics import confusion
from tercet.evaluation.repeated import rightness
from tercet.ground.errors import DataError
from tercet.records.predictions import Floats, Predictions, aligned


@dataclass(frozen=True)
class Diversity:
    """How two models, a and b, differ; every value is a share of the labelled images, and the last four sum to 1."""

    agreement: float
    """Both say the same class, right or wrong."""
    both: float
    """Both right."""
    only_a: float
    """Only a right."""
    only_b: float
    """Only b right."""
    neither: float
    """Both wrong: the double fault."""

    @property
    def disagreement(self) -> float:
        """Exactly one is right."""
        return self.only_a + self.only_b

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "disagreement": self.disagreement}


def diversity(pairs: Sequence[tuple[Predictions, Predictions]]) -> Diversity:
    """Return how two models differ, the mean over pairs of their trainings.

    Raises:
        DataError: There is no pair, or the images, classes or labels of one differ, or no label is known.
    """
    if not pairs:
        raise DataError("there is no pair of predictions to compare")
    rows = []
    for pair in pairs:
        a, b = aligned(list(pair))
        right = rightness([a, b])
        same = (a.predicted == b.predicted)[a.known]
        cells = (right.all(axis=1), right[:, 0] & ~right[:, 1], ~right[:, 0] & right[:, 1], ~right.any(axis=1))
        rows.append([same.mean(), *(cell.mean() for cell in cells)])
    return Diversity(*(float(value) for value in np.mean(rows, axis=0)))


def agreement_matrix(models: Sequence[Predictions]) -> Floats:
    """Return how often each two models say the same class, right or wrong, as shares of all images (M M).

    Raises:
        DataError: There is no model, or the images, classes or labels of one differ.
    """
    said = np.stack([model.predicted for model in aligned(list(models))])
    return np.stack([(said == one).mean(axis=1) for one in said])


@dataclass(frozen=True)
class Difficulty:
    """How many of M models get each image right."""

    ids: tuple[str, ...]
    """N labelled images."""
    labels: tuple[str, ...]
    """Their true classes."""
    right: tuple[int, ...]
    """Models that get each right, 0 to M."""
    models: int
    """M."""

    @property
    def easy(self) -> list[str]:
        """Images that every model gets right."""
        return [name for name, count in zip(self.ids, self.right, strict=True) if count == self.models]

    @property
    def hard(self) -> list[str]:
        """Images that every model gets wrong."""
        return [name for name, count in zip(self.ids, self.right, strict=True) if count == 0]


def difficulty(models: Sequence[Predictions]) -> Difficulty:
    """Return how many models get each labelled image right.

    Raises:
        DataError: There is no model, the images, classes or labels differ, or no label is known.
    """
    rows = aligned(list(models))
    right = rightness(rows).sum(axis=1)
    first = rows[0].take(rows[0].known)
    labels = tuple(first.classes[label] for label in first.labels)
    return Difficulty(first.ids, labels, tuple(int(count) for count in right), len(models))


def hard_pairs(trainings: Sequence[Predictions], most: int = 5) -> list[dict[str, Any]]:
    """Return the two classes that are taken for each other most often: `a`, `b`, and the `mistakes` of a training.

    Args:
        trainings: Predictions of the same classes; mistakes are the mean over them, either way round.
        most: Pairs to return at most, the commonest first; those without mistakes are left out.
    """
    mean = np.mean([confusion(one) for one in trainings], axis=0)  # K K
    either = np.triu(mean + mean.T, k=1)
    first, second = np.nonzero(either)
    order = np.argsort(-either[first, second], kind="stable")[:most]
    classes = trainings[0].classes
    return [
        {"a": classes[a], "b": classes[b], "mistakes": float(either[a, b])}
        for a, b in zip(first[order], second[order], strict=True)
    ]
