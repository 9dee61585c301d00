"""Linear heads that are fitted on features in convex or closed form: logistic and ridge regression.

Features are standardized, and the standardization is folded into the weights. Shapes: N images, F features, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from tercet.training.fitted_heads import (
    ABSENT,
    TEMPERATURES,
    FittedHead,
    Floats,
    Setting,
    TrainingFeatures,
    choose_setting,
)

INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0)
"""C of the logistic regression on standardized features, from strong to weak regularization."""
DEFAULT_INVERSE_PENALTY = 0.1
PENALTIES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)
"""Alpha of the ridge regression on standardized features."""
DEFAULT_RIDGE = (100.0, 0.25)
"""Alpha and temperature without cross-validation."""
ITERATIONS = 300
_SMALLEST_STD = 1e-6
Weights = tuple[Floats, Floats]
"""K F and K."""


Solve = Callable[[TrainingFeatures, Iterable[float]], Iterator[Weights]]
"""Yields the weights for each penalty."""


def fit_logistic(data: TrainingFeatures) -> FittedHead:
    """Fit a multinomial logistic regression with an L2 penalty, whose strength is chosen by cross-validation."""
    return logistic_head(data, _logistic, "logistic regression")


def logistic_head(data: TrainingFeatures, solve: Solve, name: str) -> FittedHead:
    """Return the logistic head of a solver with the best C by cross-validation; `name` is for the log."""

    def trial(fitted: TrainingFeatures, held_out: Floats) -> Iterator[tuple[Setting, Floats]]:
        for penalty, (weight, bias) in zip(INVERSE_PENALTIES, solve(fitted, INVERSE_PENALTIES), strict=True):
            yield (penalty,), held_out @ weight.T + bias

    (penalty,), losses = choose_setting(data, trial, (DEFAULT_INVERSE_PENALTY,))
    weight, bias = next(solve(data, (penalty,)))
    tensors = {"classes.weight": weight, "classes.bias": bias}
    return FittedHead(tensors, {"C": penalty}, losses, f"{name}, C {penalty:g}")


def fit_ridge(data: TrainingFeatures) -> FittedHead:
    """Fit a ridge regression of targets of -1 and 1, one per class.

    Penalty and temperature are chosen together, by the cross-validated log loss of the regression's values divided by
    the temperature.
    """
    return ridge_head(data, _ridge, "ridge regression")


def ridge_head(data: TrainingFeatures, solve: Solve, name: str) -> FittedHead:
    """Return the ridge head of a solver with the best setting by cross-validation; `name` is for the log."""

    def trial(fitted: TrainingFeatures, held_out: Floats) -> Iterator[tuple[Setting, Floats]]:
        for penalty, (weight, bias) in zip(PENALTIES, solve(fitted, PENALTIES), strict=True):
            values = held_out @ weight.T + bias
            yield from (((penalty, temperature), _scaled(values, temperature)) for temperature in TEMPERATURES)

    (penalty, temperature), losses = choose_setting(data, trial, DEFAULT_RIDGE)
    weight, bias = next(solve(data, (penalty,)))
    tensors = {"classes.weight": weight / np.float32(temperature), "classes.bias": _scaled(bias, temperature)}
    setting = {"penalty": penalty, "temperature": temperature}
    note = f"{name}, penalty {penalty:g}, temperature {temperature:g}"
    return FittedHead(tensors, setting, losses, note)


def _scaled(values: Floats, temperature: float) -> Floats:
    """Return values divided by a temperature; those of absent classes stay below the largest, which is over -1."""
    return np.where(values == ABSENT, ABSENT - 1 / temperature, values / temperature).astype(np.float32)


def _logistic(data: TrainingFeatures, penalties: Iterable[float]) -> Iterator[Weights]:
    """Yield the weights for each C; each fit starts from the one before it."""
    standardized, mean, scale = standardize(data)
    model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    for penalty in penalties:
        model.set_params(C=penalty)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the weights of 300 iterations are good enough
            model.fit(standardized, data.labels, sample_weight=data.weights)
        yield _weights(model, data.num_classes, mean, scale)


def _ridge(data: TrainingFeatures, penalties: Iterable[float]) -> Iterator[Weights]:
    """Yield the weights for each penalty."""
    standardized, mean, scale = standardize(data)
    for penalty in penalties:
        model = RidgeClassifier(penalty).fit(standardized, data.labels, sample_weight=data.weights)
        yield _weights(model, data.num_classes, mean, scale)


def standardize(data: TrainingFeatures) -> tuple[Floats, Floats, Floats]:
    """Return standardized features with mean and standard deviation (F)."""
    features, weights = data.features, data.weights
    if weights is None:
        mean, std = features.mean(axis=0), features.std(axis=0)
    else:
        mean = np.average(features, axis=0, weights=weights).astype(np.float32)
        std = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weights))
    scale = np.where(std > _SMALLEST_STD, std, 1.0).astype(np.float32)  # a constant feature carries no information
    return (features - mean) / scale, mean, scale


def _weights(
    model: LogisticRegression | RidgeClassifier, num_classes: int, mean: Floats, scale: Floats
) -> tuple[Floats, Floats]:
    """Return the weights of a linear model of standardized features, for features as they are."""
    slopes, offsets = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    if len(slopes) == 1:  # two classes: one value, which softmax takes as a difference
        slopes, offsets = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-offsets, offsets]) / 2
    weight = np.zeros((num_classes, len(mean)), dtype=np.float32)
    bias = np.full(num_classes, ABSENT, dtype=np.float32)
    weight[model.classes_] = slopes / scale
    bias[model.classes_] = offsets - weight[model.classes_] @ mean
    return weight, bias
