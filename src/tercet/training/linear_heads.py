"""Linear heads that are fitted on features in convex or closed form, instead of by gradient steps.

Shapes: N images, F features, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from tercet.core.errors import DataError
from tercet.data.splits import stratified_folds

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0)
"""C of the logistic regression on standardized features, from strong to weak regularization."""
DEFAULT_INVERSE_PENALTY = 0.1
_FOLDS = 3
_ITERATIONS = 300
_SMALLEST_STD = 1e-6
_ABSENT = -30.0  # logit of classes without training rows: probability 1e-13


@dataclass(frozen=True)
class LinearHead:
    """Logits = features @ weight.T + bias."""

    weight: Floats
    """K F."""
    bias: Floats
    """K."""
    penalty: float
    """C, the inverse of the strength of the regularization."""
    losses: dict[float, float]
    """Cross-validated log loss by C; empty if there are too few images to choose."""

    def logits(self, features: Floats) -> Floats:
        """Return N K."""
        return features @ self.weight.T + self.bias


def fit_logistic(
    features: Floats,
    labels: Ints,
    num_classes: int,
    *,
    groups: Sequence[str] | None = None,
    weights: Floats | None = None,
    seed: int = 0,
) -> LinearHead:
    """Fit a multinomial logistic regression with an L2 penalty, whose strength is chosen by cross-validation.

    Features are standardized, and the standardization is folded into the weights. Folds keep groups together.

    Args:
        features: N F.
        labels: N class indices.
        num_classes: K; classes without rows get a logit that makes them impossible.
        groups: N group names.
        weights: N weights of the rows (default: 1); a row of weight 2 equals two rows.
        seed: Seed of the folds.

    Raises:
        DataError: Fewer than two classes have rows.
    """
    if len(np.unique(labels)) < 2:
        raise DataError("a logistic head needs images of at least two classes")
    losses = _cross_validate(features, labels, num_classes, groups=groups, weights=weights, seed=seed)
    penalty = min(losses, key=lambda value: losses[value]) if losses else DEFAULT_INVERSE_PENALTY
    weight, bias = _fit(features, labels, num_classes, (penalty,), weights)[0]
    return LinearHead(weight, bias, penalty, losses)


def _cross_validate(
    features: Floats,
    labels: Ints,
    num_classes: int,
    *,
    groups: Sequence[str] | None,
    weights: Floats | None,
    seed: int,
) -> dict[float, float]:
    """Return the log loss of held-out rows by C; empty if the rows cannot be divided into folds."""
    smallest = int(np.bincount(labels)[np.unique(labels)].min())
    count = min(_FOLDS, smallest if groups is None else len(set(groups)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class that a fold lacks only makes its loss higher
            folds = stratified_folds(labels, count, seed=seed, groups=groups)
    except DataError:
        return {}
    totals = dict.fromkeys(INVERSE_PENALTIES, 0.0)
    shares = np.full(len(labels), 1 / len(labels)) if weights is None else weights / weights.sum(dtype=np.float64)
    for held_out in folds:
        kept = np.setdiff1d(np.arange(len(labels)), held_out)
        if len(np.unique(labels[kept])) < 2:
            return {}
        kept_weights = None if weights is None else weights[kept]
        fits = _fit(features[kept], labels[kept], num_classes, INVERSE_PENALTIES, kept_weights)
        for penalty, (weight, bias) in zip(INVERSE_PENALTIES, fits, strict=True):
            logs = log_softmax((features[held_out] @ weight.T + bias).astype(np.float64), axis=1)
            totals[penalty] -= float(logs[np.arange(len(held_out)), labels[held_out]] @ shares[held_out])
    return totals


def _fit(
    features: Floats, labels: Ints, num_classes: int, penalties: Sequence[float], weights: Floats | None
) -> list[tuple[Floats, Floats]]:
    """Return weight K F and bias K for each C; each fit starts from the one before it."""
    mean = np.average(features, axis=0, weights=weights).astype(np.float32)
    std = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weights))
    scale = np.where(std > _SMALLEST_STD, std, 1.0).astype(np.float32)  # a constant feature carries no information
    standardized = (features - mean) / scale
    model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)
    heads = []
    for penalty in penalties:
        model.set_params(C=penalty)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the weights of 300 iterations are good enough
            model.fit(standardized, labels, sample_weight=weights)
        slopes, offsets = model.coef_, model.intercept_
        if len(slopes) == 1:  # two classes: one logit, which softmax takes as a difference
            slopes, offsets = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-offsets, offsets]) / 2
        weight = np.zeros((num_classes, features.shape[1]), dtype=np.float32)
        bias = np.full(num_classes, _ABSENT, dtype=np.float32)
        weight[model.classes_] = slopes / scale
        bias[model.classes_] = offsets - weight[model.classes_] @ mean
        heads.append((weight, bias))
    return heads
