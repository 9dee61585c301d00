"""Whether a difference is more than chance: paired comparisons on the same samples."""

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
    """Two sets of predictions, a and b, on the same samples."""

    n: int
    """Samples compared."""
    both: int
    """Both right."""
    only_a: int
    """Only a right."""
    only_b: int
    """Only b right."""
    neither: int
    """Neither right."""
    difference: float
    """Accuracy of a minus accuracy of b."""
    low: float
    """Lower end of the 95 % paired bootstrap interval of the difference."""
    high: float
    """Upper end of it."""
    p_value: float
    """McNemar's exact test, two-sided: how likely a split this uneven is if both are equally good."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def compare(a: Predictions, b: Predictions, *, seed: int = 0, resamples: int = RESAMPLES) -> Comparison:
    """Compare two sets of predictions on the samples whose label is known.

    Raises:
        DataError: The samples, the classes or the labels differ, or no label is known.
    """
    a, b = aligned([a, b])
    if not a.known.any():
        raise DataError("no sample has a label: give the labels to compare predictions")
    right_a, right_b = ((one.predicted == one.labels)[a.known] for one in (a, b))
    n = len(right_a)
    both, only_a, only_b = (int(x.sum()) for x in (right_a & right_b, right_a & ~right_b, ~right_a & right_b))
    neither = n - both - only_a - only_b
    # Resampling the n pairs only moves counts among the four cells: one multinomial draw replaces n draws.
    drawn = np.random.default_rng(seed).multinomial(n, np.array([both, only_a, only_b, neither]) / n, size=resamples)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 2]) / n, (0.025, 0.975))
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
    """Return the two-sided p-value of McNemar's exact test; 1 where the two never disagree."""
    discordant = only_a + only_b
    return float(binomtest(only_a, discordant).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down method, in the same order.

    Raises:
        DataError: A value lies outside [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise DataError("p-values must lie in [0, 1]")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]
