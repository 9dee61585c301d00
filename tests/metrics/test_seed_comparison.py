"""Comparison over seeds: special cases with known tests, error rates, symmetry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from tercet.core.errors import DataError
from tercet.core.predictions import Predictions
from tercet.metrics.significance import compare, compare_seeds, correct_by_run, crossed_mean, mcnemar


def make_predictions(correct: np.ndarray, *, known: int | None = None) -> Predictions:
    """Return two-class predictions that are correct where `correct` (N) is true; the first `known` have labels."""
    labels = np.arange(len(correct)) % 2
    probabilities = np.eye(2)[np.where(correct, labels, 1 - labels)]
    known_labels = np.where(np.arange(len(correct)) < (len(correct) if known is None else known), labels, -1)
    return Predictions.of(probabilities, ids=[f"image {row}" for row in range(len(correct))], labels=known_labels)


def trainings(correct: np.ndarray) -> list[Predictions]:
    """Return the predictions of S trainings, given which are correct (N S)."""
    return [make_predictions(column) for column in correct.T]


def test_without_variance_over_seeds_it_is_a_t_test_over_images() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random((2, 60)) < np.array([[0.8], [0.6]])
    result = compare_seeds(trainings(np.stack([a] * 3, 1)), trainings(np.stack([b] * 3, 1)))
    expected = ttest_1samp(a.astype(float) - b, 0)
    assert result.p_value == pytest.approx(expected.pvalue)
    assert (result.low, result.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_without_variance_over_images_it_is_a_t_test_over_seeds() -> None:
    a = np.tile([True, True, True, False], (50, 1))
    b = np.tile([False, True, False, False], (50, 1))
    result = compare_seeds(trainings(a), trainings(b))
    assert result.p_value == pytest.approx(ttest_1samp([1.0, 0.0, 1.0, 0.0], 0).pvalue)


def test_with_one_seed_it_is_mcnemars_test_with_the_bootstrap_interval() -> None:
    a, b = np.random.default_rng(1).random((2, 80)) < 0.7
    result, paired = (
        compare_seeds([make_predictions(a)], [make_predictions(b)]),
        compare(make_predictions(a), make_predictions(b)),
    )
    assert (result.p_value, result.low, result.high) == (paired.p_value, paired.low, paired.high)
    assert (result.test, result.seeds, result.n) == ("McNemar", 1, 80)


@pytest.mark.parametrize(("spread_of_seeds", "images"), [(0.0, 400), (0.3, 400), (0.3, 4000)], ids=str)
def test_equal_networks_rarely_differ_significantly(spread_of_seeds: float, images: int) -> None:
    """The type I error rate is about 5 %."""
    generator, repeats, significant = np.random.default_rng(2), 200, 0
    for _ in range(repeats):
        difficulty = generator.normal(2, 2, (images, 1))
        right = [
            difficulty
            + generator.normal(0, 1, (images, 1))
            + generator.normal(0, spread_of_seeds, (1, 3))
            + generator.normal(0, 0.7, (images, 3))
            > 0
            for _ in range(2)
        ]
        mean, error, freedom = crossed_mean(right[0].astype(float) - right[1])
        significant += bool(2 * student.sf(abs(mean) / error, freedom) < 0.05)
    assert 0.01 <= significant / repeats <= 0.1


def test_a_large_difference_is_significant() -> None:
    generator = np.random.default_rng(3)
    result = compare_seeds(trainings(generator.random((300, 5)) < 0.9), trainings(generator.random((300, 5)) < 0.6))
    assert result.p_value < 1e-3 and result.low > 0.1 and result.test == "images and seeds"


@given(arrays(np.bool_, st.tuples(st.just(2), st.integers(1, 12), st.integers(2, 4))))
def test_swapping_the_networks_mirrors_the_comparison(right: np.ndarray) -> None:
    forward, backward = (compare_seeds(*pair) for pair in (map(trainings, right), map(trainings, right[::-1])))
    assert forward.difference == pytest.approx(-backward.difference)
    assert forward.p_value == pytest.approx(backward.p_value)
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low))
    assert 0 <= forward.p_value <= 1 and -1 <= forward.low <= forward.high <= 1


def test_without_variance_the_p_value_depends_on_the_number_of_images() -> None:
    always, never = np.ones((20, 3), dtype=bool), np.zeros((20, 3), dtype=bool)
    assert compare_seeds(trainings(always), trainings(never)).p_value == mcnemar(20, 0)
    same = compare_seeds(trainings(always), trainings(always))
    assert (same.p_value, same.low, same.high) == (1.0, 0.0, 0.0)


def test_unlabelled_images_are_ignored_in_any_order() -> None:
    right = np.random.default_rng(4).random((3, 30)) < 0.5
    rows = [make_predictions(row, known=20) for row in right]
    shuffled = [rows[0], rows[1].take(np.arange(30)[::-1]), rows[2]]
    assert correct_by_run(shuffled).shape == (20, 3)
    assert np.array_equal(correct_by_run(shuffled), right.T[:20])


def test_invalid_input_raises() -> None:
    right = np.ones(4, dtype=bool)
    with pytest.raises(DataError, match="2 trainings against 1"):
        compare_seeds([make_predictions(right)] * 2, [make_predictions(right)])
    with pytest.raises(DataError, match="no sample has a label"):
        compare_seeds([make_predictions(right, known=0)] * 2, [make_predictions(right, known=0)] * 2)
