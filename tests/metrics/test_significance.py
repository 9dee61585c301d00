"""Paired tests: hand-computed values and symmetry."""

import json
from math import comb
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.core.errors import DataError
from tercet.core.predictions import Predictions
from tercet.metrics.significance import compare, holm, mcnemar


def predictions(correct: list[bool]) -> Predictions:
    """Return b-class predictions with true class 0."""
    return Predictions.of(np.eye(2)[np.where(correct, 0, 1)], labels=np.zeros(len(correct), dtype=int))


def pair(both: int, only_a: int, only_b: int, neither: int) -> tuple[Predictions, Predictions]:
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return predictions(a), predictions(b)


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [
        (19, 18, 1.0),
        (0, 0, 1.0),
        (5, 0, 2 / 2**5),
        (0, 1, 1.0),
        (1, 7, 2 * (1 + 8) / 2**8),
        (10, 2, 2 * (1 + 12 + comb(12, 2)) / 2**12),
    ],
)
def test_mcnemar_is_exact(only_a: int, only_b: int, expected: float) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(expected)


def test_counts_difference_and_p_value() -> None:
    result = compare(*pair(50, 19, 18, 13))
    assert (result.n, result.both, result.only_a, result.only_b, result.neither) == (100, 50, 19, 18, 13)
    assert result.difference == pytest.approx(0.01)
    assert result.p_value == pytest.approx(1.0)
    assert result.low < 0 < result.high
    json.dumps(result.to_dict(), allow_nan=False)


def test_the_interval_is_close_to_the_normal_approximation() -> None:
    result = compare(*pair(6000, 2200, 1000, 800))
    fractions = np.array([2200, 1000]) / 10_000
    width = NormalDist().inv_cdf(0.975) * np.sqrt((fractions.sum() - (fractions[0] - fractions[1]) ** 2) / 10_000)
    assert (result.low, result.high) == pytest.approx((0.12 - width, 0.12 + width), abs=5e-4)


@settings(deadline=None, max_examples=20)
@given(*[st.integers(0, 30)] * 3, st.integers(1, 30))
def test_swapping_the_predictions_mirrors_the_comparison(both: int, only_a: int, only_b: int, neither: int) -> None:
    a, b = pair(both, only_a, only_b, neither)
    forward, backward = compare(a, b), compare(b, a)
    assert forward.difference == -backward.difference
    assert forward.p_value == backward.p_value
    assert forward.low <= forward.difference <= forward.high


def test_equal_predictions_have_no_difference() -> None:
    a, _ = pair(5, 3, 0, 2)
    result = compare(a, a)
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)


def test_samples_are_aligned_and_unlabelled_ones_ignored() -> None:
    a, b = pair(4, 3, 2, 1)
    shuffled = b.take(np.random.default_rng(0).permutation(10))
    assert compare(a, shuffled) == compare(a, b)
    labels = np.array([0] * 6 + [-1] * 4)
    assert compare(a.with_labels(labels), b.with_labels(labels)).n == 6
    with pytest.raises(DataError, match="no sample has a label"):
        compare(a.with_labels([-1] * 10), b.with_labels([-1] * 10))


def test_the_interval_depends_on_the_seed() -> None:
    a, b = pair(40, 9, 5, 10)
    assert compare(a, b, seed=3) == compare(a, b, seed=3)
    assert compare(a, b, resamples=100, seed=3) != compare(a, b, resamples=100, seed=4)


def test_holm_equals_hand_computed_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_monotone_and_between_raw_and_bonferroni(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(
        value <= new <= min(1.0, value * len(values)) + 1e-12 for value, new in zip(values, adjusted, strict=True)
    )
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@pytest.mark.parametrize("values", [[-0.1], [1.1], [float("nan")]])
def test_holm_raises_for_invalid_p_values(values: list[float]) -> None:
    with pytest.raises(DataError):
        holm(values)
