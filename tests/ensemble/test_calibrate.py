"""Calibration on simulated data, whose labels are drawn from known probabilities."""

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
    """Return predictions whose logits are the true ones times `temperature`, and labels drawn from the true ones."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, spread, (count, len(CLASSES)))
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (truth.cumsum(axis=1) > generator.random((count, 1))).argmax(axis=1)
    ids = [f"{seed}-{row}" for row in range(count)]
    return Predictions.from_logits(logits * temperature, ids=ids, classes=CLASSES, labels=labels)


# ------------------------------------------------------------------------------------------ temperature


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_true_temperature_is_recovered(true: float) -> None:
    assert fit_temperature(world(20_000, temperature=true)) == pytest.approx(true, rel=0.05)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 4), st.integers(2, 400), st.integers(0, 1000))
def test_temperature_scaling_never_increases_the_fitted_loss(true: float, count: int, seed: int) -> None:
    predictions = world(count, temperature=true, seed=seed)
    temperature = fit_temperature(predictions)
    assert 0.05 <= temperature <= 20
    after = with_temperature(predictions, temperature)
    assert np.array_equal(after.predicted, predictions.predicted)
    if count >= 100:  # where the artificial row hardly matters
        assert score(after).log_loss <= score(predictions).log_loss + 0.01


def test_the_temperature_minimizes_the_loss() -> None:
    predictions = world(3000, temperature=2.0)
    temperature = fit_temperature(predictions)
    best = score(with_temperature(predictions, temperature)).log_loss
    for other in (0.9 * temperature, 1.1 * temperature, 0.5, 1.0, 5.0):
        assert best < score(with_temperature(predictions, other)).log_loss


def test_temperature_scaling_corrects_overconfidence() -> None:
    calibration = calibrate_probabilities(world(2000, temperature=2.5))
    assert calibration.temperature == pytest.approx(2.5, rel=0.1)
    assert calibration.rows == 2000
    assert calibration.ece_before is not None and calibration.ece_after is not None
    assert calibration.ece_after < 0.3 * calibration.ece_before
    assert (calibration.log_loss_after or 9) < (calibration.log_loss_before or 0)
    assert (calibration.brier_after or 9) < (calibration.brier_before or 0)


def test_the_temperature_is_1_if_scaling_does_not_help() -> None:
    calibrations = [calibrate_probabilities(world(60, seed=seed)) for seed in range(20)]
    unscaled = [calibration for calibration in calibrations if calibration.temperature == 1]
    assert len(unscaled) > len(calibrations) / 3
    for calibration in unscaled:
        assert calibration.ece_before == calibration.ece_after
        assert calibration.log_loss_before == calibration.log_loss_after


def test_temperatures_are_scored_on_held_out_rows() -> None:
    predictions = world(40, temperature=2.0, seed=3)
    honest = cross_fitted_temperature(predictions, folds=4, seed=1)
    assert honest.ids == predictions.ids
    flattered = with_temperature(predictions, fit_temperature(predictions))
    assert not np.allclose(honest.probabilities, flattered.probabilities)
    assert score(honest).log_loss > score(flattered).log_loss
    assert np.array_equal(honest.probabilities, cross_fitted_temperature(predictions, folds=4, seed=1).probabilities)


def test_groups_are_not_divided() -> None:
    predictions = world(60, temperature=2.0)
    groups = [f"{row % 3}" for row in range(60)]
    honest = cross_fitted_temperature(predictions, folds=5, groups=groups)
    temperatures = {(groups[row], round(_temperature(predictions, honest, row), 6)) for row in range(60)}
    assert len(temperatures) == 3  # one temperature per group, as each group is a fold
    first, second = split_half(predictions, groups=groups)
    assert not {groups[row] for row in first} & {groups[row] for row in second}


def _temperature(before: Predictions, after: Predictions, row: int) -> float:
    old, new = (np.log(predictions.probabilities[row, :2]) for predictions in (before, after))
    return float((old[0] - old[1]) / (new[0] - new[1]))


@pytest.mark.parametrize(
    "probabilities",
    [
        np.eye(3)[[0, 0, 2, 0, 1, 2]],  # votes
        np.full((6, 3), 1 / 3),
        np.array([[2 / 3, 1 / 3, 0]] * 6),
    ],
)
@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1, 2], [2] * 6])
def test_extreme_probabilities_and_constant_labels(probabilities: np.ndarray, labels: list[int]) -> None:
    predictions = Predictions.of(probabilities, labels=labels)
    calibration = calibrate_probabilities(predictions, folds=3)
    after = calibration.to_dict()
    assert all(np.isfinite(after[key]) for key in ("temperature", "ece_after", "log_loss_after", "brier_after"))
    assert (calibration.log_loss_after or 0) <= (calibration.log_loss_before or 0)
    assert np.array_equal(with_temperature(predictions, calibration.temperature).predicted, predictions.predicted)


def test_all_correct_predictions_do_not_become_certain() -> None:
    probabilities = np.full((50, 3), 0.1) + 0.7 * np.eye(3)[np.arange(50) % 3]
    predictions = Predictions.of(probabilities, labels=np.arange(50) % 3)
    after = with_temperature(predictions, fit_temperature(predictions)).probabilities.max(axis=1)
    assert after.min() > 0.9
    assert after.max() < 0.99


def test_rows_without_a_label_are_ignored() -> None:
    predictions = world(300, temperature=2.0)
    partly = predictions.with_labels(np.where(np.arange(300) % 3 == 0, -1, predictions.labels))
    assert fit_temperature(partly) == fit_temperature(predictions.take(np.arange(300) % 3 > 0))
    assert calibrate_probabilities(partly).rows == 200
    first, second = split_half(partly)
    assert not set(first) & set(second)
    assert {*first, *second} == {row for row in range(300) if row % 3}


def test_calibration_needs_labels() -> None:
    unlabelled = world(10).with_labels(np.full(10, -1))
    for fit in (fit_temperature, calibrate_probabilities, cross_fitted_temperature):
        with pytest.raises(DataError, match="label"):
            fit(unlabelled)
    with pytest.raises(DataError, match="label"):
        conformal(unlabelled, 0.9)
    with pytest.raises(DataError, match="two"):
        calibrate_probabilities(world(1))
    assert fit_temperature(Predictions.of(np.ones((4, 1)), labels=[0] * 4)) == 1.0


@pytest.mark.parametrize("temperature", [0.0, float("nan"), float("inf")])
def test_temperatures_must_be_positive_and_finite(temperature: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        with_temperature(world(3), temperature)


# ------------------------------------------------------------------------------------------ prediction sets


@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_prediction_sets_reach_their_coverage(coverage: float) -> None:
    rows, fresh, draws = 199, 500, 200
    covered = 0
    for seed in range(draws):
        rule = conformal(world(rows, seed=seed, spread=1.0), coverage)
        assert rule is not None and rule.rows == rows
        new = world(fresh, seed=10_000 + seed, spread=1.0)
        covered += int(prediction_sets(new.probabilities, rule.quantile)[np.arange(fresh), new.labels].sum())
    # The images of a draw share a quantile: the variance is that of the coverage of draws plus that of the images.
    exact = np.ceil((rows + 1) * coverage) / (rows + 1)
    deviation = np.sqrt(exact * (1 - exact) / draws * (1 / rows + 1 / fresh))
    assert abs(covered / (draws * fresh) - exact) < 4 * deviation


def test_coverage_does_not_need_calibrated_probabilities() -> None:
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
def test_conformal_needs_enough_rows(rows: int, coverage: float, possible: bool) -> None:
    assert (conformal(world(rows), coverage) is not None) is possible


def test_the_quantile_is_one_of_the_scores() -> None:
    predictions = Predictions.of([[1 - p, p] for p in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)], labels=[1] * 9)
    rule = conformal(predictions, 0.8)  # ceil(10 * 0.8) = 8th smallest of 0.1 ... 0.9
    assert rule is not None and rule.quantile == pytest.approx(0.8)


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 200), st.floats(0.05, 0.9), st.floats(0.05, 0.9), st.integers(0, 99))
def test_higher_coverage_gives_larger_sets(rows: int, first: float, second: float, seed: int) -> None:
    low, high = (conformal(world(rows, seed=seed), coverage) for coverage in sorted((first, second)))
    assert low is not None and high is not None
    assert low.quantile <= high.quantile


# ------------------------------------------------------------------------------------------ rejecting


def test_the_error_rate_is_bounded_with_the_given_confidence() -> None:
    risk, draws, failed, rules = 0.1, 200, 0, 0
    new = world(40_000, seed=99_999, spread=4.0)
    wrong = new.predicted != new.labels
    assert wrong.mean() > 1.3 * risk  # without rejecting it would fail
    for seed in range(draws):
        predictions = world(600, seed=seed, spread=4.0)
        first, second = split_half(predictions, seed=seed)
        rule = reject_threshold(predictions.take(second), risk, guide=predictions.take(first))
        if rule is not None:
            rules += 1
            accepted = ~rule.rejected(new.probabilities)
            failed += bool(wrong[accepted].mean() > risk)
            assert rule.errors <= risk and 0 < rule.accepted <= 1 and rule.rows == len(second)
    assert rules > 0.8 * draws
    assert failed <= binom.ppf(0.999, draws, 0.05)


def test_a_higher_risk_accepts_more() -> None:
    predictions, guide = world(1500, seed=1, spread=4.0), world(1500, seed=2, spread=4.0)
    rules = [reject_threshold(predictions, risk, guide=guide) for risk in (0.05, 0.1, 0.2, 0.5)]
    shares = [0.0 if rule is None else rule.accepted for rule in rules]
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == 1
    assert rules[-1] is not None and rules[-1].threshold == 0


def test_the_bound_is_that_of_clopper_and_pearson() -> None:
    predictions, guide = world(1500, seed=1, spread=4.0), world(1500, seed=2, spread=4.0)
    rule = reject_threshold(predictions, 0.1, guide=guide)
    assert rule is not None
    accepted = predictions.take(~rule.rejected(predictions.probabilities))
    wrong = int((accepted.predicted != accepted.labels).sum())
    assert (wrong / len(accepted), len(accepted) / len(predictions)) == pytest.approx((rule.errors, rule.accepted))
    assert binom.cdf(wrong, len(accepted), 0.1) <= 0.05
    below = guide.probabilities.max(axis=1)
    further = predictions.take(predictions.probabilities.max(axis=1) >= below[below < rule.threshold].max())
    assert binom.cdf(int((further.predicted != further.labels).sum()), len(further), 0.1) > 0.05


def test_no_threshold_without_enough_evidence() -> None:
    chance = Predictions.of(np.full((400, 4), 0.25), labels=np.arange(400) % 4)
    assert reject_threshold(chance, 0.1, guide=chance) is None
    perfect = Predictions.of(np.eye(2)[np.arange(28) % 2], labels=np.arange(28) % 2)
    assert reject_threshold(perfect, 0.1, guide=perfect) is None  # 0.9 ** 28 > 0.05: too few rows
    more = Predictions.of(np.eye(2)[np.arange(29) % 2], labels=np.arange(29) % 2)
    rule = reject_threshold(more, 0.1, guide=more)
    assert rule is not None and (rule.errors, rule.accepted, rule.threshold) == (0, 1, 0)


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_coverage_risk_and_confidence_are_between_0_and_1(value: float) -> None:
    predictions = world(30)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        conformal(predictions, value)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        reject_threshold(predictions, value, guide=predictions)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        reject_threshold(predictions, 0.1, guide=predictions, confidence=value)
