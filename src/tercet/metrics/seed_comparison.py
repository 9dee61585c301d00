"""Comparison of models over seeds, and diversity of their errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from tercet.core.errors import DataError
from tercet.core.predictions import Floats, Predictions, aligned
from tercet.metrics.classification import confusion
from tercet.metrics.significance import compare, mcnemar

CorrectByRun = NDArray[np.bool_]


@dataclass(frozen=True)
class SeededComparison:
    """Two networks, a and b, each trained with the same seeds, on the same images."""

    n: int
    """Images compared."""
    seeds: int
    """Pairs of trainings, one a seed."""
    difference: float
    """Accuracy of a minus accuracy of b, mean over seeds."""
    low: float
    """Lower end of the 95 % interval of the difference."""
    high: float
    """Upper end of it."""
    p_value: float
    """How likely so large a difference is, for other images and other seeds, if both are equally good."""
    test: Literal["images and seeds", "McNemar"]
    """`images and seeds` where there are several seeds, else McNemar's exact test."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def correct_by_run(trainings: Sequence[Predictions]) -> CorrectByRun:
    """Return what trainings of the same images got right, N S, in the order of the first, labelled images only.

    Raises:
        DataError: The images, the classes or the labels differ, or no label is known.
    """
    rows = aligned(list(trainings))
    known = rows[0].known
    if not known.any():
        raise DataError("no sample has a label: give the labels to compare predictions")
    return np.stack([(one.predicted == one.labels)[known] for one in rows], axis=1)


def compare_seeds(a: Sequence[Predictions], b: Sequence[Predictions]) -> SeededComparison:
    """Compare two networks, trained with the same seeds in the same order.

    With S seeds the N x S differences (1: only a right, -1: only b right) are analysed with images and seeds as
    crossed random effects; the variance of their mean is

        (max(MS_images, MS_rest) + max(MS_seeds - MS_rest, 0)) / (N S)

    and its degrees of freedom are Satterthwaite's. With one seed nothing tells how much seeds matter: the test is
    McNemar's exact one, the interval the paired bootstrap's, and both speak of these two trainings only.

    Raises:
        DataError: The two have not the same number of trainings, or as `correct_by_run`.
    """
    if not a or len(a) != len(b):
        raise DataError(f"{len(a)} trainings against {len(b)}: one of each a seed is needed")
    if len(a) == 1:
        one = compare(a[0], b[0])
        return SeededComparison(one.n, 1, one.difference, one.low, one.high, one.p_value, "McNemar")
    right = correct_by_run([*a, *b])
    differences = right[:, : len(a)].astype(np.float64) - right[:, len(a) :]
    mean, error, freedom = crossed_mean(differences)
    if error == 0:  # every image and every seed says the same: only their number is evidence
        agreeing = len(differences) if mean else 0
        p_value, half = mcnemar(agreeing, 0), 0.0
    else:
        p_value = float(2 * student.sf(abs(mean) / error, freedom))
        half = error * float(student.ppf(0.975, freedom))
    low, high = max(-1.0, mean - half), min(1.0, mean + half)
    images, seeds = differences.shape
    return SeededComparison(images, seeds, mean, low, high, p_value, "images and seeds")


def crossed_mean(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean of N x S values, its standard error and degrees of freedom; both factors random, S at least 2."""
    images, seeds = values.shape
    mean = float(values.mean())
    by_image, by_seed = values.mean(axis=1) - mean, values.mean(axis=0) - mean
    rest = values - mean - by_image[:, None] - by_seed
    degrees = np.array([max(1, images - 1), seeds - 1, max(1, images - 1) * (seeds - 1)])
    sums = np.array([seeds * (by_image**2).sum(), images * (by_seed**2).sum(), (rest**2).sum()])
    of_images, of_seeds, of_rest = sums / degrees
    variance = max(of_images, of_rest) + max(of_seeds - of_rest, 0.0)
    if math.isclose(variance, 0.0, abs_tol=1e-18):
        return mean, 0.0, math.inf
    parts = np.array([of_images, of_seeds if of_seeds > of_rest else 0.0, of_rest])
    freedom = variance**2 / (parts**2 / degrees).sum()
    return mean, math.sqrt(variance / values.size), float(freedom)


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
        right = correct_by_run([a, b])
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
    right = correct_by_run(rows).sum(axis=1)
    first = rows[0].take(rows[0].known)
    labels = tuple(first.classes[label] for label in first.labels)
    return Difficulty(first.ids, labels, tuple(int(count) for count in right), len(models))


def confused_class_pairs(trainings: Sequence[Predictions], most: int = 5) -> list[dict[str, Any]]:
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
