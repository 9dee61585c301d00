"""Heads of label sets equal scikit-learn's regressions of each label, and share one setting."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from tercet.core.errors import DataError
from tercet.training.multilabel_heads import (
    MULTILABEL_FITTERS,
    TrainingLabelSets,
    fit_label_logistic,
    fit_label_ridge,
)

NAMES = sorted(MULTILABEL_FITTERS)


def data_of(count: int = 60, labels: int = 3, seed: int = 0, **options: object) -> TrainingLabelSets:
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, 5)).astype(np.float32)
    logits = features @ generator.normal(size=(5, labels)) + generator.normal(size=(count, labels))
    return TrainingLabelSets(features, (logits > 0).astype(np.int64), labels, **options)  # type: ignore[arg-type]


def logits_of(data: TrainingLabelSets, name: str) -> np.ndarray:
    tensors = MULTILABEL_FITTERS[name](data).tensors
    return np.asarray(data.features @ tensors["classes.weight"].T + tensors["classes.bias"])


def test_logistic_is_a_regression_of_each_label() -> None:
    data = data_of()
    fitted = fit_label_logistic(data)
    scaled, values = StandardScaler().fit_transform(data.features), logits_of(data, "logistic")
    for label in range(3):
        model = LogisticRegression(C=fitted.setting["C"], max_iter=300).fit(scaled, data.labels[:, label])
        np.testing.assert_allclose(values[:, label], model.decision_function(scaled), atol=1e-2)


def test_ridge_is_a_regression_of_each_label() -> None:
    data = data_of()
    fitted = fit_label_ridge(data)
    model = Ridge(fitted.setting["penalty"]).fit(StandardScaler().fit_transform(data.features), 2 * data.labels - 1)
    expected = model.predict(StandardScaler().fit_transform(data.features)) / fitted.setting["temperature"]
    np.testing.assert_allclose(logits_of(data, "ridge"), expected, atol=1e-3)


@settings(max_examples=20)
@given(st.integers(4, 40), st.integers(1, 5), st.integers(0, 999), st.sampled_from(NAMES), st.booleans())
def test_rare_constant_and_missing_labels(count: int, labels: int, seed: int, name: str, grouped: bool) -> None:
    generator = np.random.default_rng(seed)
    membership = (generator.random((count, labels)) < generator.random(labels)).astype(np.int64)
    membership[0, 0], membership[1, 0] = 0, 1
    groups = [str(row // 2) for row in range(count)] if grouped else None
    features = generator.normal(size=(count, 4)).astype(np.float32)
    data = TrainingLabelSets(features, membership, labels, groups)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = logits_of(data, name)
    assert values.shape == (count, labels) and np.isfinite(values).all()
    for label in range(labels):
        if not membership[:, label].any():
            assert (values[:, label] < 0).all()
        elif membership[:, label].all():
            assert (values[:, label] > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_weight_two_equals_two_rows(name: str) -> None:
    data = data_of(40)
    twice = np.concatenate([np.arange(40), np.arange(10)])
    weights = np.where(np.arange(40) < 10, 2.0, 1.0).astype(np.float32)
    weighted = TrainingLabelSets(data.features, data.labels, 3, ["all"] * 40, weights)  # a single group: the default
    repeated = TrainingLabelSets(data.features[twice], data.labels[twice], 3, ["all"] * 50)
    first, second = MULTILABEL_FITTERS[name](weighted), MULTILABEL_FITTERS[name](repeated)
    assert first.setting == second.setting and not first.losses
    for key in ("classes.weight",) if name == "logistic" else first.tensors:
        np.testing.assert_allclose(first.tensors[key], second.tensors[key], atol=1e-3)


def test_the_setting_has_the_lowest_loss_of_held_out_rows() -> None:
    fitted = fit_label_logistic(data_of(80))
    assert fitted.losses[fitted.setting["C"],] == min(fitted.losses.values())
    assert data_of().row_losses(np.zeros((2, 3)), np.array([0, 5])) == pytest.approx([3 * np.log(2)] * 2)


def test_equal_labels_of_all_images_are_an_error() -> None:
    with pytest.raises(DataError, match="with a label and images without"):
        TrainingLabelSets(np.zeros((4, 2), np.float32), np.ones((4, 3), np.int64), 3)
