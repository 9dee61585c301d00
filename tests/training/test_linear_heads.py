"""Linear heads fitted on features: against scikit-learn, and on small and uneven data."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tercet.core.errors import DataError
from tercet.training.linear_heads import INVERSE_PENALTIES, fit_logistic


def clusters(counts: list[int], *, features: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features around one centre per class, N F, and labels."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = generator.normal(0, 1.5, (len(counts), features))
    values = centres[labels] + generator.normal(0, 1, (len(labels), features))
    return (5 + 3 * values).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 4])
def test_probabilities_equal_those_of_a_standardized_regression(classes: int) -> None:
    features, labels = clusters([20] * classes)
    head = fit_logistic(features, labels, classes)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=head.penalty, max_iter=1000)).fit(features, labels)
    np.testing.assert_allclose(softmax(head.logits(features), axis=1), reference.predict_proba(features), atol=5e-3)


def test_the_penalty_has_the_lowest_held_out_loss() -> None:
    features, labels = clusters([15, 15, 15], features=40)
    head = fit_logistic(features, labels, 3)
    assert set(head.losses) == set(INVERSE_PENALTIES)
    assert head.losses[head.penalty] == min(head.losses.values())


def test_groups_stay_together_when_the_penalty_is_chosen() -> None:
    """Each image is in its group many times: rows that leak would favour weak regularization."""
    features, labels = clusters([6, 6], features=30)
    copies = np.repeat(np.arange(len(labels)), 5)
    groups = [f"group {row}" for row in copies]
    leaking = fit_logistic(features[copies], labels[copies], 2)
    grouped = fit_logistic(features[copies], labels[copies], 2, groups=groups)
    assert min(grouped.losses.values()) > min(leaking.losses.values())


def test_one_image_per_class_is_fitted_without_cross_validation() -> None:
    features, labels = clusters([1, 1, 1])
    head = fit_logistic(features, labels, 3)
    assert head.losses == {} and (head.logits(features).argmax(axis=1) == labels).all()


def test_classes_without_images_are_never_predicted() -> None:
    features, labels = clusters([10, 10])
    head = fit_logistic(features, np.where(labels == 1, 3, 0), 5)
    assert head.weight.shape == (5, 6)
    assert set(head.logits(features).argmax(axis=1)) == {0, 3}


def test_weights_raise_the_probability_of_small_classes() -> None:
    features, labels = clusters([60, 6], seed=1)
    plain, weighted = (fit_logistic(features, labels, 2, weights=value) for value in (None, np.array([1, 10])[labels]))
    small = labels == 1
    assert (
        softmax(weighted.logits(features), axis=1)[small, 1].mean()
        > softmax(plain.logits(features), axis=1)[small, 1].mean()
    )


def test_a_row_of_weight_two_equals_two_rows() -> None:
    features, labels = clusters([1, 12, 12])  # one row in a class: the penalty is the default
    weights = np.ones(len(labels), dtype=np.float32)
    weights[[3, 4, 20]] = 2.0
    rows = np.repeat(np.arange(len(labels)), weights.astype(int))
    weighted = fit_logistic(features, labels, 3, weights=weights)
    repeated = fit_logistic(features[rows], labels[rows], 3)
    assert weighted.penalty == repeated.penalty
    np.testing.assert_allclose(weighted.logits(features), repeated.logits(features), atol=1e-4)


def test_constant_features_and_one_class() -> None:
    features, labels = clusters([8, 8])
    features[:, 2] = 7.0
    assert np.isfinite(fit_logistic(features, labels, 2).weight).all()
    with pytest.raises(DataError, match="at least two classes"):
        fit_logistic(features, np.zeros_like(labels), 2)
