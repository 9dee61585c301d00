"""Whether one network is better than another when each was trained with several seeds.

Two things are drawn by chance: the images that are tested, and the seeds that trained. A test over the images alone
takes the luck of these seeds for skill, and one over the seeds alone the luck of these images. Both are random effects
here, crossed, as in Clark's quasi-F ("The language-as-fixed-effect fallacy", 1973) and in the analysis of readers and
cases in radiology (Dorfman, Berbaum and Metz, 1992).

Shapes: N images, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from tercet.evaluation.significance import compare, mcnemar
from tercet.ground.errors import DataError
from tercet.records.predictions import Predictions, aligned

Right = NDArray[np.bool_]


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


def rightness(trainings: Sequence[Predictions]) -> Right:
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
        DataError: The two have not the same number of trainings, or as `rightness`.
    """
    if not a or len(a) != len(b):
        raise DataError(f"{len(a)} trainings against {len(b)}: one of each a seed is needed")
    if len(a) == 1:
        one = compare(a[0], b[0])
        return SeededComparison(one.n, 1, one.difference, one.low, one.high, one.p_value, "McNemar")
    right = rightness([*a, *b])
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
