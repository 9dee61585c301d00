"""What is fitted to probabilities, on worlds whose truth is known: labels drawn from the very probabilities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from tercet.core.calibration import prediction_sets
from tercet.core.errors import ConfigError, DataError
from tercet.core.predictions import Predictions
from tercet.ensemble.calibrate import (
    calibrate_probabilities,
    conformal,
    cross_fitted_temperature,
    fit_temperature,
    reject_threshold,
    split_half,
    with_temperature,
)
from tercet.metrics.classification import score

CLASSES = tuple("abcde")


def world(count: int, *, temperature: float = 1.0, seed: int = 0, spread: float = 2.0) -> Predictions:
    """Return predictions that are calibrated but for a factor of their logits, and labels drawn from the truth."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, spread, (count, len(CLASSES)))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) > generator.random((count, 1))).argmax(axis=1)
    ids = [f"{seed}-{row}" for row in range(count)]
    return Predictions.from_logits(logits * temperature, ids=ids, classes=CLASSES, labels=labels)


# ------------------------------------------------------------------------------------------ temperature


@pytest.mark.parametrize("planted", [0.4, 0.8, 1.0, 1.5, 3.0])
def test_a_planted_temperature_is_found(planted: float) -> None:
    assert fit_temperature(world(20_000, temperature=planted)) == pytest.approx(planted, rel=0.05)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 4), st.integers(2, 400), st.integers(0, 1000))
def test_it_never_does_worse_where_it_was_fitted(planted: float, count: int, seed: int) -> None:
    said = world(count, temperature=planted, seed=seed)
    found = fit_temperature(said)
    assert 0.05 <= found <= 20
    after = with_temperature(said, found)
    assert np.array_equal(after.predicted, said.predicted)
    if count >= 100:  # the row that is imagined then weighs nothing
        assert score(after).log_loss <= score(said).log_loss + 0.01


def test_it_is_the_minimum() -> None:
    said = world(3000, temperature=2.0)
    found = fit_temperature(said)
    best = score(with_temperature(said, found)).log_loss
    for other in (0.9 * found, 1.1 * found, 0.5, 1.0, 5.0):
        assert best < score(with_temperature(said, other)).log_loss


def test_over_confidence_is_mended() -> None:
    one = calibrate_probabilities(world(2000, temperature=2.5))
    assert one.temperature == pytest.approx(2.5, rel=0.1)
    assert one.rows == 2000
    assert one.ece_before is not None and one.ece_after is not None
    assert one.ece_after < 0.3 * one.ece_before
    assert (one.log_loss_after or 9) < (one.log_loss_before or 0)
    assert (one.brier_after or 9) < (one.brier_before or 0)


def test_where_it_gains_nothing_it_is_left_out() -> None:
    found = [calibrate_probabilities(world(60, seed=seed)) for seed in range(20)]
    left = [one for one in found if one.temperature == 1]
    assert left and len(left) > len(found) / 3
    for one in left:
        assert (one.ece_before, one.log_loss_before) == (one.ece_after, one.log_loss_after)


def test_scores_are_of_rows_that_were_not_fitted_on() -> None:
    said = world(40, temperature=2.0, seed=3)
    honest = cross_fitted_temperature(said, folds=4, seed=1)
    assert honest.ids == said.ids
    flattered = with_temperature(said, fit_temperature(said))
    assert not np.allclose(honest.probabilities, flattered.probabilities)
    assert score(honest).log_loss > score(flattered).log_loss
    assert np.array_equal(honest.probabilities, cross_fitted_temperature(said, folds=4, seed=1).probabilities)


def test_groups_stay_whole() -> None:
    said = world(60, temperature=2.0)
    groups = [f"{row % 3}" for row in range(60)]
    honest = cross_fitted_temperature(said, folds=5, groups=groups)
    kinds = {(groups[row], round(_temperature(said, honest, row), 6)) for row in range(60)}
    assert len(kinds) == 3  # one temperature a group, as each is a fold
    first, second = split_half(said, groups=groups)
    assert not {groups[row] for row in first} & {groups[row] for row in second}


def _temperature(before: Predictions, after: Predictions, row: int) -> float:
    old, new = (np.log(one.probabilities[row, :2]) for one in (before, after))
    return float((old[0] - old[1]) / (new[0] - new[1]))


@pytest.mark.parametrize(
    "probabilities",
    [
        np.eye(3)[[0, 1, 2, 0, 1, 2]],  # votes that agree
        np.eye(3)[[0, 0, 2, 0, 1, 2]],
        np.full((6, 3), 1 / 3),
        np.eye(3)[[0] * 6],
        np.array([[2 / 3, 1 / 3, 0]] * 6),
    ],
)
@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1, 2], [0] * 6, [2] * 6])
def test_zeros_ones_and_constant_labels(probabilities: np.ndarray, labels: list[int]) -> None:
    said = Predictions.of(probabilities, labels=labels)
    one = calibrate_probabilities(said, folds=3)
    after = one.to_dict()
    assert all(np.isfinite(after[key]) for key in ("temperature", "ece_after", "log_loss_after", "brier_after"))
    assert (one.log_loss_after or 0) <= (one.log_loss_before or 0)
    assert np.array_equal(with_temperature(said, one.temperature).predicted, said.predicted)


def test_rows_that_are_all_right_do_not_make_certainty() -> None:
    sure = np.full((50, 3), 0.1) + 0.7 * np.eye(3)[np.arange(50) % 3]
    said = Predictions.of(sure, labels=np.arange(50) % 3)
    after = with_temperature(said, fit_temperature(said)).probabilities.max(axis=1)
    assert after.min() > 0.9
    assert after.max() < 0.99


def test_rows_without_a_label_teach_nothing() -> None:
    said = world(300, temperature=2.0)
    blind = said.with_labels(np.where(np.arange(300) % 3 == 0, -1, said.labels))
    assert fit_temperature(blind) == fit_temperature(said.take(np.arange(300) % 3 > 0))
    assert calibrate_probabilities(blind).rows == 200
    first, second = split_half(blind)
    assert not set(first) & set(second)
    assert {*first, *second} == {row for row in range(300) if row % 3}


def test_nothing_to_learn_from() -> None:
    unlabelled = world(10).with_labels(np.full(10, -1))
    for refused in (fit_temperature, calibrate_probabilities, cross_fitted_temperature):
        with pytest.raises(DataError, match="label"):
            refused(unlabelled)
    with pytest.raises(DataError, match="label"):
        conformal(unlabelled, 0.9)
    with pytest.raises(DataError, match="two"):
        calibrate_probabilities(world(1))
    assert fit_temperature(Predictions.of(np.ones((4, 1)), labels=[0] * 4)) == 1.0


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_cannot_be(temperature: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        with_temperature(world(3), temperature)


# ------------------------------------------------------------------------------------------ prediction sets


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_hold_the_true_class_as_often_as_promised(coverage: float) -> None:
    rows, fresh, draws = 199, 500, 200
    held = 0
    for seed in range(draws):
        rule = conformal(world(rows, seed=seed, spread=1.0), coverage)
        assert rule is not None and rule.rows == rows
        new = world(fresh, seed=10_000 + seed, spread=1.0)
        held += int(prediction_sets(new.probabilities, rule.quantile)[np.arange(fresh), new.labels].sum())
    # Within one draw the images share a quantile, so the spread is that of the draws' own coverages and of the images.
    exact = np.ceil((rows + 1) * coverage) / (rows + 1)
    spread = np.sqrt(exact * (1 - exact) / draws * (1 / rows + 1 / fresh))
    assert abs(held / (draws * fresh) - exact) < 4 * spread


def test_coverage_does_not_need_good_probabilities() -> None:
    coverages = []
    for seed in range(60):
        rule = conformal(world(99, temperature=5.0, seed=seed), 0.9)
        assert rule is not None
        new = world(300, temperature=5.0, seed=500 + seed)
        coverages.append(prediction_sets(new.probabilities, rule.quantile)[np.arange(300), new.labels].mean())
    assert np.mean(coverages) > 0.9 - 0.015


@pytest.mark.parametrize(
    ("rows", "coverage", "possible"), [(9, 0.9, True), (8, 0.9, False), (19, 0.95, True), (1, 0.5, True)]
)
def test_too_few_rows_promise_nothing(rows: int, coverage: float, possible: bool) -> None:
    assert (conformal(world(rows), coverage) is not None) is possible


def test_the_quantile_is_a_score() -> None:
    said = Predictions.of([[1 - p, p] for p in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)], labels=[1] * 9)
    rule = conformal(said, 0.8)  # ceil(10 * 0.8) = 8th smallest of 0.1 ... 0.9
    assert rule is not None and rule.quantile == pytest.approx(0.8)


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 200), st.floats(0.05, 0.9), st.floats(0.05, 0.9), st.integers(0, 99))
def test_more_coverage_takes_larger_sets(rows: int, one: float, other: float, seed: int) -> None:
    low, high = (conformal(world(rows, seed=seed), coverage) for coverage in sorted((one, other)))
    assert low is not None and high is not None
    assert low.quantile <= high.quantile


# ------------------------------------------------------------------------------------------ rejecting


def test_errors_stay_below_the_risk_as_often_as_promised() -> None:
    risk, draws, failed, found = 0.1, 200, 0, 0
    new = world(40_000, seed=99_999, spread=4.0)
    wrong = new.predicted != new.labels
    assert wrong.mean() > 1.3 * risk  # without rejecting it would fail
    for seed in range(draws):
        said = world(600, seed=seed, spread=4.0)
        first, second = split_half(said, seed=seed)
        rule = reject_threshold(said.take(second), risk, guide=said.take(first))
        if rule is not None:
            found += 1
            answered = ~rule.rejected(new.probabilities)
            failed += bool(wrong[answered].mean() > risk)
            assert rule.errors <= risk and 0 < rule.accepted <= 1 and rule.rows == len(second)
    assert found > 0.8 * draws
    assert failed <= binom.ppf(0.999, draws, 0.05)


def test_a_higher_risk_answers_more() -> None:
    said, guide = world(1500, seed=1, spread=4.0), world(1500, seed=2, spread=4.0)
    rules = [reject_threshold(said, risk, guide=guide) for risk in (0.05, 0.1, 0.2, 0.5)]
    shares = [0.0 if rule is None else rule.accepted for rule in rules]
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == 1
    assert rules[-1] is not None and rules[-1].threshold == 0


def test_the_bound_is_clopper_pearsons() -> None:
    said, guide = world(1500, seed=1, spread=4.0), world(1500, seed=2, spread=4.0)
    rule = reject_threshold(said, 0.1, guide=guide)
    assert rule is not None
    kept = said.take(~rule.rejected(said.probabilities))
    wrong = int((kept.predicted != kept.labels).sum())
    assert (wrong / len(kept), len(kept) / len(said)) == pytest.approx((rule.errors, rule.accepted))
    assert binom.cdf(wrong, len(kept), 0.1) <= 0.05
    below = guide.probabilities.max(axis=1)
    further = said.take(said.probabilities.max(axis=1) >= below[below < rule.threshold].max())
    assert binom.cdf(int((further.predicted != further.labels).sum()), len(further), 0.1) > 0.05


def test_what_cannot_be_kept_is_not_promised() -> None:
    blind = Predictions.of(np.full((400, 4), 0.25), labels=np.arange(400) % 4)
    assert reject_threshold(blind, 0.1, guide=blind) is None
    perfect = Predictions.of(np.eye(2)[np.arange(28) % 2], labels=np.arange(28) % 2)
    assert reject_threshold(perfect, 0.1, guide=perfect) is None  # 0.9 ** 28 > 0.05: too few to know
    more = Predictions.of(np.eye(2)[np.arange(29) % 2], labels=np.arange(29) % 2)
    rule = reject_threshold(more, 0.1, guide=more)
    assert rule is not None and (rule.errors, rule.accepted, rule.threshold) == (0, 1, 0)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_shares_that_cannot_be(value: float) -> None:
    said = world(30)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        conformal(said, value)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        reject_threshold(said, value, guide=said)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        reject_threshold(said, 0.1, guide=said, confidence=value)
