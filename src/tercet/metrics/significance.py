"""Significance of differences between predictions of the same samples, over one or several seeds; diversity of errors.

Shapes: N images, S seeds, M models, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from scipy.stats import t as student

from tercet.core.errors import DataError
from tercet.core.predictions import Floats, Predictions, aligned
from tercet.metrics.classification import confusion

RESAMPLES = 10_000
CorrectByRun = NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """Comparison of two predictions, a and b, on the same samples: number of samples, and of those that both, only
    one, or none of them classifies correctly.
    """

    n: int
    both: int
    only_a: int
    only_b: int
    neither: int
    difference: float
    """Accuracy of a minus accuracy of b; `low` and `high` are the ends of its 95 % paired bootstrap interval."""
    low: float
    high: float
    p_value: float
    """Two-sided p-value of McNemar's exact test."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def compare(a: Predictions, b: Predictions, *, seed: int = 0, resamples: int = RESAMPLES) -> Comparison:
    """Compare two predictions on the labelled samples.

    Raises:
        DataError: The samples, the classes or the labels differ, or no label is known.
    """
    a, b = aligned([a, b])
    if not a.known.any():
        raise DataError("no sample has a label: comparisons need labels")
    correct_a, correct_b = ((rows.predicted == rows.labels)[a.known] for rows in (a, b))
    n = len(correct_a)
    cells = (correct_a & correct_b, correct_a & ~correct_b, ~correct_a & correct_b)
    both, only_a, only_b = (int(cell.sum()) for cell in cells)
    neither = n - both - only_a - only_b
    # Resampling n pairs changes only the counts of the four cells: a multinomial draw replaces n draws.
    counts = np.random.default_rng(seed).multinomial(n, np.array([both, only_a, only_b, neither]) / n, size=resamples)
    low, high = np.quantile((counts[:, 1] - counts[:, 2]) / n, (0.025, 0.975))
    return Comparison(
        n=n,
        both=both,
        only_a=only_a,
        only_b=only_b,
        neither=neither,
        difference=(only_a - only_b) / n,
        low=float(low),
        high=float(high),
        p_value=mcnemar(only_a, only_b),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of McNemar's exact test; 1 without discordant samples."""
    discordant = only_a + only_b
    return float(binomtest(only_a, discordant).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method (1979), in the same order.

    Raises:
        DataError: A value is outside [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise DataError("p-values must lie in [0, 1]")
    order = np.argsort(values, kind="stable")
    increasing = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(increasing, 1.0)
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class SeededComparison:
    """Comparison of two networks, a and b, that were trained with the same seeds, on the same images."""

    n: int
    """Number of images."""
    seeds: int
    difference: float
    """Accuracy of a minus accuracy of b, mean over seeds; `low` and `high` are the ends of its 95 % interval."""
    low: float
    high: float
    p_value: float
    """Two-sided p-value, for other images and other seeds."""
    test: Literal["images and seeds", "McNemar"]
    """`images and seeds` for several seeds, else McNemar's exact test."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def correct_by_run(trainings: Sequence[Predictions]) -> CorrectByRun:
    """Return which labelled images each training classifies correctly, N S, in the order of the first.

    Raises:
        DataError: The images, the classes or the labels differ, or no label is known.
    """
    rows = aligned(list(trainings))
    known = rows[0].known
    if not known.any():
        raise DataError("no sample has a label: comparisons need labels")
    return np.stack([(row.predicted == row.labels)[known] for row in rows], axis=1)


def compare_seeds(a: Sequence[Predictions], b: Sequence[Predictions]) -> SeededComparison:
    """Compare two networks, trained with the same seeds in the same order.

    With S seeds the N x S differences (1: only a right, -1: only b right) are analysed with images and seeds as
    crossed random effects (Dorfman, Berbaum and Metz 1992); the variance of their mean is

        (max(MS_images, MS_rest) + max(MS_seeds - MS_rest, 0)) / (N S)

    with Satterthwaite's degrees of freedom. With one seed the variance over seeds is unknown: the test is McNemar's
    exact test, the interval that of the paired bootstrap, and both are about these two trainings only.

    Raises:
        DataError: The numbers of trainings differ, or as for `correct_by_run`.
    """
    if not a or len(a) != len(b):
        raise DataError(f"{len(a)} trainings against {len(b)}: need one training of each network per seed")
    if len(a) == 1:
        paired = compare(a[0], b[0])
        return SeededComparison(paired.n, 1, paired.difference, paired.low, paired.high, paired.p_value, "McNemar")
    correct = correct_by_run([*a, *b])
    differences = correct[:, : len(a)].astype(np.float64) - correct[:, len(a) :]
    mean, error, freedom = crossed_mean(differences)
    if error == 0:  # no variance over images and seeds: only the number of images is evidence
        discordant = len(differences) if mean else 0
        p_value, half = mcnemar(discordant, 0), 0.0
    else:
        p_value = float(2 * student.sf(abs(mean) / error, freedom))
        half = error * float(student.ppf(0.975, freedom))
    low, high = max(-1.0, mean - half), min(1.0, mean + half)
    images, seeds = differences.shape
    return SeededComparison(images, seeds, mean, low, high, p_value, "images and seeds")


def crossed_mean(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return mean, standard error and degrees of freedom of N x S values with crossed random effects; S at least 2."""
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
    """Diversity of two models, a and b, as fractions of the labelled images. Those that both, only a, only b, or none
    of them classifies correctly sum to 1.
    """

    agreement: float
    """Both predict the same class, correct or not."""
    both: float
    only_a: float
    only_b: float
    neither: float
    """Both wrong: the double fault."""

    @property
    def disagreement(self) -> float:
        """Exactly one of them is correct."""
        return self.only_a + self.only_b

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "disagreement": self.disagreement}


def diversity(pairs: Sequence[tuple[Predictions, Predictions]]) -> Diversity:
    """Return the diversity of two models, the mean over pairs of their trainings.

    Raises:
        DataError: There are no pairs, images, classes or labels of a pair differ, or no label is known.
    """
    if not pairs:
        raise DataError("no pairs of predictions to compare")
    rows = []
    for pair in pairs:
        a, b = aligned(list(pair))
        first, second = correct_by_run([a, b]).T
        same = (a.predicted == b.predicted)[a.known]
        cells = (first & second, first & ~second, ~first & second, ~first & ~second)
        rows.append([same.mean(), *(cell.mean() for cell in cells)])
    return Diversity(*(float(value) for value in np.mean(rows, axis=0)))


def agreement_matrix(models: Sequence[Predictions]) -> Floats:
    """Return the fraction of all images for which each two models predict the same class, M M.

    Raises:
        DataError: There are no models, or their images, classes or labels differ.
    """
    predicted = np.stack([model.predicted for model in aligned(list(models))])  # M N
    return np.stack([(predicted == row).mean(axis=1) for row in predicted])


@dataclass(frozen=True)
class Difficulty:
    """Number of models that classify each image correctly."""

    ids: tuple[str, ...]
    """Names of the labelled images."""
    labels: tuple[str, ...]
    """Their true classes."""
    num_correct: tuple[int, ...]
    """Models that classify each correctly, 0 to M."""
    models: int
    """M."""

    @property
    def easy(self) -> list[str]:
        """Images that every model classifies correctly."""
        return [name for name, count in zip(self.ids, self.num_correct, strict=True) if count == self.models]

    @property
    def hard(self) -> list[str]:
        """Images that no model classifies correctly."""
        return [name for name, count in zip(self.ids, self.num_correct, strict=True) if count == 0]


def difficulty(models: Sequence[Predictions]) -> Difficulty:
    """Return how many models classify each labelled image correctly.

    Raises:
        DataError: There are no models, their images, classes or labels differ, or no label is known.
    """
    rows = aligned(list(models))
    num_correct = correct_by_run(rows).sum(axis=1)
    first = rows[0].take(rows[0].known)
    labels = tuple(first.classes[label] for label in first.labels)
    return Difficulty(first.ids, labels, tuple(int(count) for count in num_correct), len(models))


def confused_class_pairs(trainings: Sequence[Predictions], limit: int = 5) -> list[dict[str, Any]]:
    """Return the pairs of classes with most confusions: `a`, `b`, and the `mistakes` per training.

    Args:
        trainings: Predictions of the same classes; mistakes in both directions are averaged over them.
        limit: Maximum number of pairs; pairs without mistakes are omitted.
    """
    mean = np.mean([confusion(training) for training in trainings], axis=0)  # K K
    mistakes = np.triu(mean + mean.T, k=1)
    first, second = np.nonzero(mistakes)
    order = np.argsort(-mistakes[first, second], kind="stable")[:limit]
    classes = trainings[0].classes
    return [
        {"a": classes[a], "b": classes[b], "mistakes": float(mistakes[a, b])}
        for a, b in zip(first[order], second[order], strict=True)
    ]
