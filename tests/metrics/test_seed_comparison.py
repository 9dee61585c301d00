import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from tercet.core.errors import DataError
from tercet.core.predictions import Predictions
from tercet.metrics.seed_comparison import compare_seeds, correct_by_run, crossed_mean
from tercet.metrics.significance import compare, mcnemar


def said(right: np.ndarray, *, known: int | None = None) -> Predictions:
    """Return predictions over two classes that are right where `right` (N) says so; labels only for the first ones."""
    labels = np.arange(len(right)) % 2
    probabilities = np.eye(2)[np.where(right, labels, 1 - labels)]
    shown = np.where(np.arange(len(right)) < (len(right) if known is None else known), labels, -1)
    return Predictions.of(probabilities, ids=[f"image {row}" for row in range(len(right))], labels=shown)


def trainings(right: np.ndarray) -> list[Predictions]:
    """Return one set of predictions a column of `right` (N S)."""
    return [said(column) for column in right.T]


def test_equal_trainings_leave_a_t_test_over_images() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random((2, 60)) < np.array([[0.8], [0.6]])
    found = compare_seeds(trainings(np.stack([a] * 3, 1)), trainings(np.stack([b] * 3, 1)))
    expected = ttest_1samp(a.astype(float) - b, 0)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_equal_images_leave_a_t_test_over_seeds() -> None:
    a = np.tile([True, True, True, False], (50, 1))
    b = np.tile([False, True, False, False], (50, 1))
    found = compare_seeds(trainings(a), trainings(b))
    assert found.p_value == pytest.approx(ttest_1samp([1.0, 0.0, 1.0, 0.0], 0).pvalue)


def test_one_seed_is_mcnemar_with_the_bootstrap_interval() -> None:
    a, b = np.random.default_rng(1).random((2, 80)) < 0.7
    found, plain = compare_seeds([said(a)], [said(b)]), compare(said(a), said(b))
    assert (found.p_value, found.low, found.high) == (plain.p_value, plain.low, plain.high)
    assert (found.test, found.seeds, found.n) == ("McNemar", 1, 80)


@pytest.mark.parametrize(("spread_of_seeds", "images"), [(0.0, 400), (0.3, 400), (0.3, 4000)], ids=str)
def test_equal_networks_are_rarely_told_apart(spread_of_seeds: float, images: int) -> None:
    """Neither the luck of the seeds nor that of the images may pass for skill: about 5 in 100 are called different."""
    generator, repeats, called = np.random.default_rng(2), 200, 0
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
        called += bool(2 * student.sf(abs(mean) / error, freedom) < 0.05)
    assert 0.01 <= called / repeats <= 0.1


def test_a_large_difference_is_found() -> None:
    generator = np.random.default_rng(3)
    found = compare_seeds(trainings(generator.random((300, 5)) < 0.9), trainings(generator.random((300, 5)) < 0.6))
    assert found.p_value < 1e-3 and found.low > 0.1 and found.test == "images and seeds"


@given(arrays(np.bool_, st.tuples(st.just(2), st.integers(1, 12), st.integers(2, 4))))
def test_the_sides_can_be_changed(right: np.ndarray) -> None:
    one, other = (compare_seeds(*sides) for sides in (map(trainings, right), map(trainings, right[::-1])))
    assert one.difference == pytest.approx(-other.difference)
    assert one.p_value == pytest.approx(other.p_value)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert 0 <= one.p_value <= 1 and -1 <= one.low <= one.high <= 1


def test_where_nothing_varies_only_the_number_of_images_is_evidence() -> None:
    always, never = np.ones((20, 3), dtype=bool), np.zeros((20, 3), dtype=bool)
    assert compare_seeds(trainings(always), trainings(never)).p_value == mcnemar(20, 0)
    same = compare_seeds(trainings(always), trainings(always))
    assert (same.p_value, same.low, same.high) == (1.0, 0.0, 0.0)


def test_only_labelled_images_count_in_any_order() -> None:
    right = np.random.default_rng(4).random((3, 30)) < 0.5
    rows = [said(row, known=20) for row in right]
    shuffled = [rows[0], rows[1].take(np.arange(30)[::-1]), rows[2]]
    assert correct_by_run(shuffled).shape == (20, 3)
    assert np.array_equal(correct_by_run(shuffled), right.T[:20])


def test_wrong_input_is_told() -> None:
    right = np.ones(4, dtype=bool)
    with pytest.raises(DataError, match="2 trainings against 1"):
        compare_seeds([said(right)] * 2, [said(right)])
    with pytest.raises(DataError, match="no sample has a label"):
        compare_seeds([said(right, known=0)] * 2, [said(right, known=0)] * 2)
