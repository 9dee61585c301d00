"""What calibrates probabilities, fitted on labelled rows: a temperature, a reject threshold, a conformal quantile.

The temperature (Guo et al., ICML 2017) may be fitted on rows that something else was fitted on, and is scored by
cross-fitting. Threshold and quantile promise something only on rows that nothing else was fitted on: see `split_half`.
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
    MAX_TEMPERATURE,
    MIN_PROBABILITY,
    MIN_TEMPERATURE,
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

CONFIDENCE = 0.95
"""How sure the bound on the error rate of answers is."""


def fit_temperature(predictions: Predictions) -> float:
    """Return the temperature with the least log loss on the labelled rows.

    The loss is convex in 1 / T, so that a bounded search finds it. One more row is imagined, the mean of all with the
    runner-up as its class: where every row is right, T would else fall to nothing. With one class T is 1.

    Raises:
        DataError: No row has a label.
    """
    known = _labelled(predictions)
    if len(known.classes) < 2:
        return 1.0
    logs = np.log(np.maximum(known.probabilities, MIN_PROBABILITY))
    logs -= logs.max(axis=1, keepdims=True)
    true = logs[np.arange(len(known)), known.labels].mean()
    runner_up = np.partition(logs, -2, axis=1)[:, -2].mean()
    rows = len(known)
    true = (rows * true + runner_up) / (rows + 1)

    def loss(exponent: float) -> float:
        share = math.exp(-exponent)  # 1 / T
        return float(np.log(np.exp(logs * share).sum(axis=1)).mean() - true * share)

    bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return min(max(math.exp(float(found.x)), MIN_TEMPERATURE), MAX_TEMPERATURE) if found.fun < loss(0.0) else 1.0


def with_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """Return the predictions with softmax(log p / T); see `apply_temperature`.

    Raises:
        ConfigError: The temperature is not positive or not finite.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature {temperature} must be positive")
    return replace(predictions, probabilities=apply_temperature(predictions.probabilities, temperature))


def cross_fitted_temperature(
    predictions: Predictions, *, folds: int = 5, seed: int = 0, groups: Sequence[str] | None = None
) -> Predictions:
    """Return the labelled rows, each with a temperature that was fitted on other folds; groups stay whole.

    Raises:
        DataError: Fewer than two rows have a label.
    """
    known = _labelled(predictions)

    def fit_predict(fitted: Ints, held_out: Ints) -> Predictions:
        return with_temperature(known.take(held_out), fit_temperature(known.take(fitted)))

    of_rows = None if groups is None else [groups[row] for row in np.flatnonzero(predictions.known).tolist()]
    return cross_fit(fit_predict, known.labels, folds=folds, seed=seed, groups=of_rows)


def calibrate_probabilities(
    predictions: Predictions, *, folds: int = 5, seed: int = 0, groups: Sequence[str] | None = None
) -> Calibration:
    """Return the temperature of the labelled rows with its cross-fitted scores.

    It is used where it lowers the cross-fitted log loss, else T is 1 and the scores are those of the rows as they are.

    Args:
        predictions: Fit to be scored: cross-fitted where what made them was fitted on these rows.
        folds: Parts of the labelled rows.
        seed: Seed of the folds.
        groups: N names, in the order of the rows.

    Raises:
        DataError: Fewer than two rows have a label, or there is only one class.
    """
    known = _labelled(predictions)
    before = score(known)
    after = score(cross_fitted_temperature(predictions, folds=folds, seed=seed, groups=groups))
    used = after.log_loss < before.log_loss
    after = after if used else before
    return Calibration(
        fit_temperature(known) if used else 1.0,
        len(known),
        before.ece,
        after.ece,
        before.log_loss,
        after.log_loss,
        before.brier,
        after.brier,
    )


def split_half(predictions: Predictions, *, seed: int = 0, groups: Sequence[str] | None = None) -> tuple[Ints, Ints]:
    """Return the labelled rows in two parts of about equal size, stratified, groups whole where there are several.

    Raises:
        DataError: Fewer than two rows have a label.
    """
    known = np.flatnonzero(predictions.known)
    of_rows = None if groups is None else [groups[row] for row in known.tolist()]
    first, second = split_folds(predictions.labels[known], folds=2, seed=seed, groups=of_rows)[0]
    return known[first], known[second]


def reject_threshold(
    predictions: Predictions, risk: float, *, guide: Predictions, confidence: float = CONFIDENCE
) -> Rejection | None:
    """Return the threshold on the top probability at which answers are wrong at most as often as `risk`.

    Fixed-sequence testing: other rows (`guide`) give the thresholds and say where to begin, at the one that they are
    surest of. From there downwards each is tested on `predictions` until one fails; the last that passes is returned.
    A threshold passes where the one-sided Clopper-Pearson bound on the error rate of what it answers is at most
    `risk`. As the sequence is fixed before these rows are looked at, the risk is exceeded with a probability of at
    most 1 - `confidence`, for new images that are like these rows.

    Args:
        predictions: Labelled rows that nothing was fitted on.
        risk: Error rate among the answers, in (0, 1).
        guide: Other labelled rows.
        confidence: How sure the bound is to be.

    Returns:
        None where no threshold passes, as the model is not good enough or the rows are too few.

    Raises:
        ConfigError: The risk or the confidence does not lie in (0, 1).
        DataError: No row has a label.
    """
    _require_between("risk", risk)
    _require_between("confidence", confidence)
    allowed = 1 - confidence
    sure, wrong = _ranked(guide)
    counts = np.arange(1, len(sure) + 1)
    begin = int(np.argmin(binom.cdf(np.cumsum(wrong), counts, risk)))
    thresholds = np.append(np.unique(sure[begin:])[::-1], 0.0)  # last comes: answer everything
    sure, wrong = _ranked(predictions)
    answered = np.searchsorted(-sure, -thresholds, side="right")
    errors = np.append(0, np.cumsum(wrong))[answered]
    # The bound is at most `risk` just where so few errors are this unlikely under it.
    passes = (answered > 0) & (binom.cdf(errors, answered, risk) <= allowed)
    last = len(passes) if passes.all() else int(np.argmin(passes))
    if not last:
        return None
    threshold, count = float(thresholds[last - 1]), int(answered[last - 1])
    return Rejection(threshold, risk, confidence, count / len(sure), float(errors[last - 1]) / count, len(sure))


def conformal(predictions: Predictions, coverage: float) -> PredictionSets | None:
    """Return the quantile of split conformal prediction, with the score 1 - p of the true class.

    It is the smallest score number ceil((n + 1) coverage) of n. Over the draw of these rows and of a new image like
    them, `prediction_sets` then holds the true class with a probability of at least `coverage`.

    Args:
        predictions: Labelled rows that nothing was fitted on.
        coverage: In (0, 1).

    Returns:
        None where there are too few rows: with n of them no more than n / (n + 1) can be promised.

    Raises:
        ConfigError: The coverage does not lie in (0, 1).
        DataError: No row has a label.
    """
    _require_between("coverage", coverage)
    known = _labelled(predictions)
    place = quantile_rank(len(known), coverage)
    if place > len(known):
        return None
    scores = np.sort(1 - known.probabilities[np.arange(len(known)), known.labels])
    return PredictionSets(float(np.clip(scores[place - 1], 0, 1)), coverage, len(known))


def check_coverage(predictions: Predictions, calibration: Calibration) -> dict[str, float | None]:
    """Return what threshold and sets do on labelled rows whose probabilities are calibrated already.

    Returns:
        `answered` and `errors_answered` (None where nothing is answered) if there is a threshold; `set_coverage` and
        `set_size` if there are sets.

    Raises:
        DataError: No row has a label.
    """
    known = _labelled(predictions)
    found: dict[str, float | None] = {}
    if calibration.reject is not None:
        kept = ~calibration.reject.rejected(known.probabilities)
        wrong = (known.predicted != known.labels)[kept]
        found |= {"answered": float(kept.mean()), "errors_answered": float(wrong.mean()) if len(wrong) else None}
    if calibration.conformal is not None:
        sets = prediction_sets(known.probabilities, calibration.conformal.quantile)
        inside = sets[np.arange(len(known)), known.labels]
        found |= {"set_coverage": float(inside.mean()), "set_size": float(sets.sum(axis=1).mean())}
    return found


def quantile_rank(rows: int, coverage: float) -> int:
    """Return ceil((n + 1) coverage), safe from what rounding adds to a product that is whole."""
    return math.ceil((rows + 1) * coverage - 1e-9)


def _ranked(predictions: Predictions) -> tuple[Floats, Floats]:
    """Return top probabilities, largest first, and whether each row is wrong."""
    known = _labelled(predictions)
    sure = known.probabilities.max(axis=1)
    order = np.argsort(-sure, kind="stable")
    return sure[order], (known.predicted != known.labels)[order].astype(np.float64)


def _labelled(predictions: Predictions) -> Predictions:
    if not predictions.known.any():
        raise DataError("calibration learns from labels and no sample has one: give the labels")
    return predictions if predictions.known.all() else predictions.take(predictions.known)


def _require_between(what: str, value: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(f"{what} {value} must lie between 0 and 1")
