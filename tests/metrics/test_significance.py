"""Paired tests: exact values by hand, and their symmetries."""

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


def predictions(right: list[bool]) -> Predictions:
    """Return predictions that are right (class 0) where told."""
    return Predictions.of([[1.0, 0.0] if one else [0.0, 1.0] for one in right], labels=np.zeros(len(right), dtype=int))


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


def test_the_four_cells_the_difference_and_the_p_value() -> None:
    found = compare(*pair(50, 19, 18, 13))
    assert (found.n, found.both, found.only_a, found.only_b, found.neither) == (100, 50, 19, 18, 13)
    assert found.difference == pytest.approx(0.01)
    assert found.p_value == pytest.approx(1.0)
    assert found.low < 0 < found.high
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_interval_is_close_to_its_normal_approximation() -> None:
    found = compare(*pair(6000, 2200, 1000, 800))
    share = np.array([2200, 1000]) / 10_000
    width = NormalDist().inv_cdf(0.975) * np.sqrt((share.sum() - (share[0] - share[1]) ** 2) / 10_000)
    assert (found.low, found.high) == pytest.approx((0.12 - width, 0.12 + width), abs=5e-4)


@settings(deadline=None, max_examples=20)
@given(*[st.integers(0, 30)] * 3, st.integers(1, 30))
def test_swapping_the_two_mirrors_the_comparison(both: int, only_a: int, only_b: int, neither: int) -> None:
    one, two = pair(both, only_a, only_b, neither)
    forward, backward = compare(one, two), compare(two, one)
    assert forward.difference == -backward.difference
    assert forward.p_value == backward.p_value
    assert forward.low <= forward.difference <= forward.high


def test_equal_predictions_differ_by_nothing() -> None:
    one, _ = pair(5, 3, 0, 2)
    found = compare(one, one)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_samples_are_matched_and_unlabelled_ones_left_out() -> None:
    one, two = pair(4, 3, 2, 1)
    mixed = two.take(np.random.default_rng(0).permutation(10))
    assert compare(one, mixed) == compare(one, two)
    some = np.array([0] * 6 + [-1] * 4)
    assert compare(one.with_labels(some), two.with_labels(some)).n == 6
    with pytest.raises(DataError, match="no sample has a label"):
        compare(one.with_labels([-1] * 10), two.with_labels([-1] * 10))


def test_the_interval_follows_the_seed() -> None:
    one, two = pair(40, 9, 5, 10)
    assert compare(one, two, seed=3) == compare(one, two, seed=3)
    assert compare(one, two, resamples=100, seed=3) != compare(one, two, resamples=100, seed=4)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_only_raises_keeps_order_and_stays_below_bonferroni(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(
        value <= new <= min(1.0, value * len(values)) + 1e-12 for value, new in zip(values, adjusted, strict=True)
    )
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@pytest.mark.parametrize("values", [[-0.1], [1.1], [float("nan")]])
def test_holm_refuses_what_is_no_p_value(values: list[float]) -> None:
    with pytest.raises(DataError):
        holm(values)
