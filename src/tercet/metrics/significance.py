"""Significance of differences: paired comparisons on the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from tercet.core.errors import DataError
from tercet.core.predictions import Predictions, aligned

RESAMPLES = 10_000


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
