"""Temperature scaling, prediction sets, and the calibration stored in bundles."""

from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tercet.core.calibration import Calibration, PredictionSets, Rejection, apply_temperature, prediction_sets
from tercet.core.errors import ModelError
from tercet.core.predictions import Floats, Predictions

COMPLETE = Calibration(
    1.7,
    200,
    0.09,
    0.03,
    0.5,
    0.4,
    0.3,
    0.2,
    Rejection(0.62, 0.05, 0.95, 0.8, 0.02, 100),
    PredictionSets(0.93, 0.9, 100),
)
SHAPES = st.tuples(st.integers(1, 6), st.integers(2, 5))
TEMPERATURES = st.floats(0.05, 20)


@st.composite
def tables(draw: st.DrawFn) -> Floats:
    """Return probabilities N K: arbitrary, one-hot, votes, and values that differ by one rounding error."""
    values = draw(arrays(np.float64, draw(SHAPES), elements=st.floats(0, 1) | st.sampled_from([0.0, 1.0, 0.5])))
    values[values.sum(axis=1) == 0, 0] = 1
    values = values / values.sum(axis=1, keepdims=True)
    if draw(st.booleans()):
        values[0] = 1 / values.shape[1]
        values[0, -1] = np.nextafter(values[0, -1], 1)
    return values


@given(tables(), TEMPERATURES)
def test_temperature_preserves_predicted_classes_and_returns_probabilities(values: Floats, temperature: float) -> None:
    scaled = apply_temperature(values, temperature)
    assert np.array_equal(scaled.argmax(axis=1), values.argmax(axis=1))
    assert np.abs(scaled.sum(axis=1) - 1).max() < 1e-9
    assert scaled.min() >= 0
    Predictions.of(scaled)


@given(tables())
def test_temperature_one_changes_nothing_and_higher_ones_lower_the_confidence(values: Floats) -> None:
    assert np.array_equal(apply_temperature(values, 1.0), values)
    tops = [apply_temperature(values, temperature).max(axis=1) for temperature in (0.25, 0.5, 0.999999, 2.0, 8.0)]
    for lower, higher in pairwise(tops):
        assert (lower >= higher - 1e-6).all()


def test_temperature_divides_the_logits() -> None:
    logits = np.array([[2.0, 0.0, -1.0]])
    probabilities = np.exp(logits) / np.exp(logits).sum()
    expected = np.exp(logits / 3) / np.exp(logits / 3).sum()
    assert np.allclose(apply_temperature(probabilities, 3.0), expected, atol=1e-15)
    assert apply_temperature(np.zeros((0, 3)), 2.0).shape == (0, 3)


@given(tables(), st.floats(0, 1), st.floats(0, 1))
def test_prediction_sets_are_never_empty_and_grow_with_the_quantile(values: Floats, a: float, b: float) -> None:
    small, large = (prediction_sets(values, quantile) for quantile in sorted((a, b)))
    assert small[np.arange(len(values)), values.argmax(axis=1)].all()
    assert (large | ~small).all()
    assert prediction_sets(values, 1.0).all()


def test_prediction_sets_of_one_row() -> None:
    assert prediction_sets([[0.5, 0.3, 0.2]], 0.7).tolist() == [[True, True, False]]
    assert prediction_sets([[0.5, 0.3, 0.2]], 0.1).tolist() == [[True, False, False]]


def test_predictions_at_the_threshold_are_accepted() -> None:
    assert COMPLETE.reject is not None
    assert COMPLETE.reject.rejected([[0.62, 0.38], [0.61, 0.39], [0.3, 0.7]]).tolist() == [False, True, False]


def test_calibrations_are_rebuilt_from_dicts() -> None:
    for calibration in (COMPLETE, Calibration(), replace(COMPLETE, reject=None)):
        assert Calibration.from_dict(calibration.to_dict()) == calibration
    assert COMPLETE.to_dict()["conformal"] == {"quantile": 0.93, "coverage": 0.9, "rows": 100}


def test_apply_changes_only_probabilities() -> None:
    predictions = Predictions.of([[0.7, 0.3], [0.2, 0.8]], ids=["a", "b"], labels=[0, -1])
    calibrated = COMPLETE.apply(predictions)
    assert (calibrated.ids, calibrated.classes) == (predictions.ids, predictions.classes)
    assert calibrated.labels.tolist() == [0, -1]
    assert np.allclose(calibrated.probabilities, apply_temperature(predictions.probabilities, 1.7))
    assert Calibration().apply(predictions) is predictions


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"temperature": 1e9},
        {"temperature": "2"},
        {"temperature": True},
        {"rows": -1},
        {"rows": 1.5},
        {"ece_after": "low"},
        {"log_loss_before": float("inf")},
        {"reject": {}},
        {"reject": {**asdict(COMPLETE)["reject"], "threshold": 1.5}},
        {"reject": {**asdict(COMPLETE)["reject"], "more": 1}},
        {"conformal": {"quantile": 0.5, "coverage": 0.9}},
        {"conformal": {"quantile": float("nan"), "coverage": 0.9, "rows": 3}},
        {"conformal": {"quantile": 0.5, "coverage": 0.9, "rows": "3"}},
    ],
)
def test_invalid_values_raise(change: dict) -> None:
    with pytest.raises(ModelError):
        Calibration.from_dict({**COMPLETE.to_dict(), **change})


@pytest.mark.parametrize("key", ["temperature", "rows", "ece_before", "reject", "conformal"])
def test_missing_values_raise_with_their_name(key: str) -> None:
    values = COMPLETE.to_dict()
    del values[key]
    with pytest.raises(ModelError, match=key):
        Calibration.from_dict(values)
