"""Tempered probabilities, prediction sets, and the values that a bundle keeps of them."""

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

WHOLE = Calibration(
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
    """Return probabilities N K: any, one-hot ones, shares of votes, and neighbours that differ by one rounding."""
    values = draw(arrays(np.float64, draw(SHAPES), elements=st.floats(0, 1) | st.sampled_from([0.0, 1.0, 0.5])))
    values[values.sum(axis=1) == 0, 0] = 1
    values = values / values.sum(axis=1, keepdims=True)
    if draw(st.booleans()):
        values[0] = 1 / values.shape[1]
        values[0, -1] = np.nextafter(values[0, -1], 1)
    return values


@given(tables(), TEMPERATURES)
def test_a_temperature_changes_no_predicted_class_and_leaves_probabilities(values: Floats, temperature: float) -> None:
    said = apply_temperature(values, temperature)
    assert np.array_equal(said.argmax(axis=1), values.argmax(axis=1))
    assert np.abs(said.sum(axis=1) - 1).max() < 1e-9
    assert said.min() >= 0
    Predictions.of(said)


@given(tables())
def test_one_changes_nothing_and_higher_is_less_sure(values: Floats) -> None:
    assert np.array_equal(apply_temperature(values, 1.0), values)
    tops = [apply_temperature(values, temperature).max(axis=1) for temperature in (0.25, 0.5, 0.999999, 2.0, 8.0)]
    for surer, less in pairwise(tops):
        assert (surer >= less - 1e-6).all()


def test_the_definition() -> None:
    logits = np.array([[2.0, 0.0, -1.0]])
    probabilities = np.exp(logits) / np.exp(logits).sum()
    expected = np.exp(logits / 3) / np.exp(logits / 3).sum()
    assert np.allclose(apply_temperature(probabilities, 3.0), expected, atol=1e-15)
    assert apply_temperature(np.zeros((0, 3)), 2.0).shape == (0, 3)


@given(tables(), st.floats(0, 1), st.floats(0, 1))
def test_sets_are_never_empty_and_grow_with_the_quantile(values: Floats, one: float, other: float) -> None:
    small, large = (prediction_sets(values, quantile) for quantile in sorted((one, other)))
    assert small[np.arange(len(values)), values.argmax(axis=1)].all()
    assert (large | ~small).all()
    assert prediction_sets(values, 1.0).all()


def test_sets_of_one_row() -> None:
    assert prediction_sets([[0.5, 0.3, 0.2]], 0.7).tolist() == [[True, True, False]]
    assert prediction_sets([[0.5, 0.3, 0.2]], 0.1).tolist() == [[True, False, False]]


def test_an_answer_at_the_threshold_is_given() -> None:
    assert WHOLE.reject is not None
    assert WHOLE.reject.rejected([[0.62, 0.38], [0.61, 0.39], [0.3, 0.7]]).tolist() == [False, True, False]


def test_values_survive_json() -> None:
    for one in (WHOLE, Calibration(), replace(WHOLE, reject=None)):
        assert Calibration.from_dict(one.to_dict()) == one
    assert WHOLE.to_dict()["conformal"] == {"quantile": 0.93, "coverage": 0.9, "rows": 100}


def test_applying_keeps_everything_else() -> None:
    said = Predictions.of([[0.7, 0.3], [0.2, 0.8]], ids=["a", "b"], labels=[0, -1])
    after = WHOLE.apply(said)
    assert (after.ids, after.classes, after.labels.tolist()) == (said.ids, said.classes, [0, -1])
    assert np.allclose(after.probabilities, apply_temperature(said.probabilities, 1.7))
    assert Calibration().apply(said) is said


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": 1e9},
        {"temperature": "2"},
        {"temperature": None},
        {"temperature": True},
        {"rows": -1},
        {"rows": 1.5},
        {"ece_after": "low"},
        {"log_loss_before": float("inf")},
        {"reject": {}},
        {"reject": 3},
        {"reject": {**asdict(WHOLE)["reject"], "threshold": 1.5}},
        {"reject": {**asdict(WHOLE)["reject"], "more": 1}},
        {"conformal": {"quantile": 0.5, "coverage": 0.9}},
        {"conformal": {"quantile": float("nan"), "coverage": 0.9, "rows": 3}},
        {"conformal": {"quantile": 0.5, "coverage": 0.9, "rows": "3"}},
        {"conformal": []},
    ],
)
def test_odd_values_are_refused(change: dict) -> None:
    with pytest.raises(ModelError):
        Calibration.from_dict({**WHOLE.to_dict(), **change})


@pytest.mark.parametrize("key", ["temperature", "rows", "ece_before", "reject", "conformal"])
def test_a_missing_value_is_named(key: str) -> None:
    values = WHOLE.to_dict()
    del values[key]
    with pytest.raises(ModelError, match=key):
        Calibration.from_dict(values)
