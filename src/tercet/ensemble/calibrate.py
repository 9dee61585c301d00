"""Calibration on labelled rows: temperature scaling, rejection threshold, conformal prediction.

The temperature (Guo et al., ICML 2017) is scored by cross-fitting. The guarantees of the threshold and of the conformal
quantile need rows on which nothing else was fitted: see `split_half`.
Shapes: N labelled samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from tercet.core.calibration import (
    MIN_PROBABILITY,
    Calibration,
    PredictionSets,
    Rejection,
    apply_temperature,
    prediction_sets,
)
from tercet.core.errors import ConfigError, DataError
from tercet.core.predictions import Floats, Ints, Predictions
from tercet.ensemble.cross_fit import cross_fit, split_folds
from tercet.metrics.classification import score

MIN_ROWS = 50
"""Least labelled rows for a temperature. In simulations with 3 and 10 classes and accuracies of 0.73 to 0.93,
temperatures from 50 rows lower the mean log loss of other rows if the logits are wrong by a factor of 1.5 or more, and
raise it by at most 0.006 if they are right. Those from 15 rows can raise it in both cases, and reach 6."""
FIT_RANGE = (0.1, 10.0)
"""Range of fitted temperatures; beyond it the probabilities are a single class or nearly equal."""
CONFIDENCE = 0.95
"""Confidence level of the bound on the error rate of accepted predictions."""


def fit_temperature(predictions: Predictions) -> float:
    """Return the temperature T with the lowest log loss on the labelled rows; with one class, T is 1.

    The loss is convex in 1 / T, so that a bounded search finds the minimum. One artificial row is added, with the mean
    logits of all rows and the second most probable class as its label: otherwise T would tend to 0 if all rows are
    predicted correctly.

    Raises:
        DataError: No row has a label.
    """
    known = _labelled_rows(predictions)
    if len(known.classes) < 2:
        return 1.0
    logits = np.log(np.maximum(known.probabilities, MIN_PROBABILITY))
    logits -= logits.max(axis=1, keepdims=True)
    rows = len(known)
    second = np.partition(logits, -2, axis=1)[:, -2].mean()
    true = (rows * logits[np.arange(rows), known.labels].mean() + second) / (rows + 1)

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)  # 1 / T
        return float(np.log(np.exp(logits * scale).sum(axis=1)).mean() - true * scale)

    bounds = (math.log(FIT_RANGE[0]), math.log(FIT_RANGE[1]))
    result = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return min(max(math.exp(float(result.x)), FIT_RANGE[0]), FIT_RANGE[1]) if result.fun < loss(0.0) else 1.0


def with_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """Return the predictions with probabilities softmax(log p / T); T must be positive and finite."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature {temperature} must be positive")
    return replace(predictions, probabilities=apply_temperature(predictions.probabilities, temperature))


def cross_fitted_temperature(
    predictions: Predictions, *, folds: int = 5, seed: int = 0, groups: Sequence[str] | None = None
) -> Predictions:
    """Return the labelled rows, calibrated by temperatures that were fitted on other folds; see `cross_fit`."""
    known = _labelled_rows(predictions)

    def fit_predict(fitted: Ints, held_out: Ints) -> Predictions:
        return with_temperature(known.take(held_out), fit_temperature(known.take(fitted)))

    known_groups = None if groups is None else [groups[row] for row in np.flatnonzero(predictions.known).tolist()]
    return cross_fit(fit_predict, known.labels, folds=folds, seed=seed, groups=known_groups)


def calibrate_probabilities(
    predictions: Predictions, *, folds: int = 5, seed: int = 0, groups: Sequence[str] | None = None
) -> Calibration:
    """Return the temperature for the labelled rows, with its cross-fitted scores; see `cross_fit` for the options.

    T is 1 if temperature scaling does not lower the cross-fitted log loss. If the combiner was fitted on these rows,
    the predictions must be cross-fitted, too.

    Raises:
        DataError: Fewer than two rows have a label, or there is only one class.
    """
    known = _labelled_rows(predictions)
    before = score(known)
    after = score(cross_fitted_temperature(predictions, folds=folds, seed=seed, groups=groups))
    improves = after.log_loss < before.log_loss
    scores = {"before": before, "after": after if improves else before}
    return Calibration(
        fit_temperature(known) if improves else 1.0,
        len(known),
        **{f"{name}_{time}": getattr(scores[time], name) for name in ("ece", "log_loss", "brier") for time in scores},
    )


def split_half(predictions: Predictions, *, seed: int = 0, groups: Sequence[str] | None = None) -> tuple[Ints, Ints]:
    """Return the indices of the labelled rows in two stratified halves; groups are not divided, see `split_folds`."""
    known = np.flatnonzero(predictions.known)
    known_groups = None if groups is None else [groups[row] for row in known.tolist()]
    first, second = split_folds(predictions.labels[known], folds=2, seed=seed, groups=known_groups)[0]
    return known[first], known[second]


def reject_threshold(
    predictions: Predictions, risk: float, *, guide: Predictions, confidence: float = CONFIDENCE
) -> Rejection | None:
    """Return the lowest threshold on the top probability that bounds the error rate of accepted predictions by `risk`.

    Fixed-sequence testing: the candidates are the top probabilities of other rows (`guide`), in descending order from
    the threshold with the smallest p-value there. They are tested on `predictions` until one fails; the last that
    passes is returned. A threshold passes if the one-sided Clopper-Pearson bound on the error rate of the rows that it
    accepts is at most `risk`. Because the sequence does not depend on `predictions`, the error rate on new images from
    the same distribution exceeds `risk` with a probability of at most 1 - `confidence`.

    Args:
        predictions: Labelled rows on which nothing was fitted.
        risk: Maximum error rate of accepted predictions, in (0, 1).
        guide: Other labelled rows.
        confidence: Confidence level of the bound, in (0, 1).

    Returns:
        None if no threshold passes: the error rate is too high, or there are too few rows.
    """
    _require_between("risk", risk)
    _require_between("confidence", confidence)
    top, wrong = _ranked(guide)
    counts = np.arange(1, len(top) + 1)
    start = int(np.argmin(binom.cdf(np.cumsum(wrong), counts, risk)))
    thresholds = np.append(np.unique(top[start:])[::-1], 0.0)  # 0 accepts all predictions
    top, wrong = _ranked(predictions)
    accepted = np.searchsorted(-top, -thresholds, side="right")
    errors = np.append(0, np.cumsum(wrong))[accepted]
    # The Clopper-Pearson bound is at most `risk` exactly if so few errors have this probability under `risk`.
    passes = (accepted > 0) & (binom.cdf(errors, accepted, risk) <= 1 - confidence)
    num_passed = len(passes) if passes.all() else int(np.argmin(passes))
    if not num_passed:
        return None
    threshold, count = float(thresholds[num_passed - 1]), int(accepted[num_passed - 1])
    return Rejection(threshold, risk, confidence, count / len(top), float(errors[num_passed - 1]) / count, len(top))


def conformal(predictions: Predictions, coverage: float) -> PredictionSets | None:
    """Return the quantile of split conformal prediction, with the score 1 - p of the true class.

    The quantile is the ceil((n + 1) coverage)-th smallest of n scores. `prediction_sets` then contain the true class of
    a new image from the same distribution with a probability of at least `coverage`.

    Args:
        predictions: Labelled rows on which nothing was fitted.
        coverage: In (0, 1).

    Returns:
        None if there are too few rows: n rows allow a coverage of at most n / (n + 1).
    """
    _require_between("coverage", coverage)
    known = _labelled_rows(predictions)
    rank = math.ceil((len(known) + 1) * coverage - 1e-9)  # robust against rounding errors of integer products
    if rank > len(known):
        return None
    scores = np.sort(1 - known.probabilities[np.arange(len(known)), known.labels])
    return PredictionSets(float(np.clip(scores[rank - 1], 0, 1)), coverage, len(known))


def check_coverage(predictions: Predictions, calibration: Calibration) -> dict[str, float | None]:
    """Return the measured error rate and coverage on labelled rows whose probabilities are already calibrated.

    With a threshold, `accepted` (share of accepted rows) and `errors_accepted` (their error rate; None if no row is
    accepted). With conformal prediction, `set_coverage` and `set_size` (mean number of classes).
    """
    known = _labelled_rows(predictions)
    values: dict[str, float | None] = {}
    if calibration.reject is not None:
        accepted = ~calibration.reject.rejected(known.probabilities)
        wrong = (known.predicted != known.labels)[accepted]
        values |= {"accepted": float(accepted.mean()), "errors_accepted": float(wrong.mean()) if len(wrong) else None}
    if calibration.conformal is not None:
        sets = prediction_sets(known.probabilities, calibration.conformal.quantile)
        covered = sets[np.arange(len(known)), known.labels]
        values |= {"set_coverage": float(covered.mean()), "set_size": float(sets.sum(axis=1).mean())}
    return values


def _ranked(predictions: Predictions) -> tuple[Floats, Floats]:
    """Return the top probabilities in descending order, and for each 1 if the prediction is wrong, else 0."""
    known = _labelled_rows(predictions)
    top = known.probabilities.max(axis=1)
    order = np.argsort(-top, kind="stable")
    return top[order], (known.predicted != known.labels)[order].astype(np.float64)


def _labelled_rows(predictions: Predictions) -> Predictions:
    if not predictions.known.any():
        raise DataError("calibration needs labels, and no sample has one: give labels")
    return predictions if predictions.known.all() else predictions.take(predictions.known)


def _require_between(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(f"{name} {value} must lie between 0 and 1")
