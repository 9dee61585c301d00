"""Standard error of the difference of a metric between two models on the same samples, and accuracy beyond chance.

Shapes: N samples, K classes, R resamples.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from tercet.core.errors import DataError
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.predictions import Floats, Ints, Predictions, aligned
from tercet.metrics.classification import quick_scores
from tercet.metrics.metric import find_metric, is_built_in, own_score
from tercet.metrics.multilabel import class_f1, overall_f1, score_multilabel

RESAMPLES = 200
"""Resamples of the paired bootstrap, R."""
CHANCE_ROWS = 20
"""Labelled rows below which no model is called a guess: too few for a test."""
CHANCE_LEVEL = 0.05
"""Significance level of the test against chance."""
_EPS = np.finfo(np.float64).eps  # scikit-learn's log loss clips probabilities at this value

AnyPredictions = Predictions | MultilabelPredictions


@dataclass(frozen=True)
class PairedDifference:
    """Difference of a metric between two models, a and b, on the same samples."""

    difference: float
    """How much better a is than b; positive if a is better, also where lower values are better."""
    standard_error: float
    """Standard error of this difference over samples."""

    @property
    def is_measurable(self) -> bool:
        """Whether a is better than b by more than one standard error."""
        return self.difference > self.standard_error


def paired_difference(a: AnyPredictions, b: AnyPredictions, monitor: str) -> PairedDifference:
    """Return the difference of a metric on the labelled samples.

    The standard error is exact for means over samples; for the accuracy it follows from McNemar's cells: with B samples
    that only a, and C that only b classifies correctly, it is sqrt(B + C - (B - C)^2 / N) / N. For other metrics it is
    that of a paired bootstrap with a fixed seed. The order of the samples has no effect.

    Raises:
        DataError: The samples, the classes or the labels differ, or no label is known.
    """
    a, b = _in_order(a, b)
    sign = 1 if find_metric(monitor).higher_is_better else -1
    first, second = (_row_values(rows, monitor) for rows in (a, b))
    if first is not None and second is not None:
        differences = sign * (first - second)
        error = float(differences.std()) / math.sqrt(len(differences))
        return PairedDifference(float(differences.mean()), error)
    resamples = np.random.default_rng(0).integers(len(a), size=(RESAMPLES, len(a)))  # R N
    values = [_value(_resample(a, rows), monitor) - _value(_resample(b, rows), monitor) for rows in resamples]
    error = float(np.std(values, ddof=1))
    return PairedDifference(sign * (_value(a, monitor) - _value(b, monitor)), error)


def _in_order(a: AnyPredictions, b: AnyPredictions) -> tuple[AnyPredictions, AnyPredictions]:
    """Return the labelled rows of both in the order of their ids."""
    if isinstance(a, Predictions) and isinstance(b, Predictions):
        a, b = aligned([a, b])
    elif a.ids != b.ids or a.classes != b.classes:
        raise DataError("the models do not have the same samples and labels in the same order")
    ids = a.ids
    rows = sorted(np.flatnonzero(a.known).tolist(), key=lambda row: ids[row])
    if not rows:
        raise DataError("no sample has a label: comparisons need labels")
    return a.take(rows), b.take(rows)


def _row_values(rows: AnyPredictions, monitor: str) -> Floats | None:
    """Return the values of which a metric is the mean, N; None for metrics that are not means over samples."""
    values: Any = None
    if isinstance(rows, Predictions):
        if monitor == "accuracy":
            values = rows.predicted == rows.labels
        elif monitor in ("loss", "log_loss"):
            values = -np.log(np.maximum(rows.probabilities[np.arange(len(rows)), rows.labels], _EPS))
    elif monitor == "exact_match":
        values = (rows.chosen == (rows.truth == 1)).all(axis=1)
    elif monitor == "hamming":
        values = (rows.chosen != (rows.truth == 1)).mean(axis=1)
    return None if values is None else np.asarray(values, dtype=np.float64)


def _resample(predictions: AnyPredictions, rows: Ints) -> AnyPredictions:
    """Return rows that may be repeated, under other ids."""
    ids, classes = tuple(map(str, range(len(rows)))), predictions.classes
    if isinstance(predictions, Predictions):
        return Predictions(ids, classes, predictions.probabilities[rows], predictions.labels[rows])
    scores, chosen, truth = predictions.scores, predictions.chosen, predictions.truth
    return MultilabelPredictions(ids, classes, scores[rows], chosen[rows], truth[rows])


def _value(predictions: AnyPredictions, monitor: str) -> float:
    if not is_built_in(monitor):
        return own_score(monitor, predictions)
    if isinstance(predictions, Predictions):
        return quick_scores(predictions.probabilities, predictions.labels, monitor=monitor, like=predictions)[monitor]
    quick = {"o_f1": overall_f1, "c_f1": class_f1}
    if monitor in quick:
        return quick[monitor](predictions.truth == 1, predictions.chosen)
    return score_multilabel(predictions)[monitor]


@dataclass(frozen=True)
class ChanceTest:
    """Accuracy of a model against that of guesses with the same class frequencies, without knowledge of the image."""

    rows: int
    accuracy: float
    expected: float
    """Expected accuracy of such guesses; at most the share of the most frequent class."""
    p_value: float
    """One-sided binomial test."""

    @property
    def at_chance(self) -> bool:
        """Whether the accuracy is not significantly higher; False with few rows, which show nothing."""
        return self.rows >= CHANCE_ROWS and self.p_value > CHANCE_LEVEL

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def chance_test(predictions: Predictions) -> ChanceTest:
    """Test whether the predictions of the labelled rows depend on the image.

    A model that always answers with the most frequent class has exactly the expected accuracy. One that finds a rare
    class may be less accurate than that share, and still be better than chance.
    """
    known = predictions.take(predictions.known)
    counts = (np.bincount(values, minlength=len(known.classes)) for values in (known.labels, known.predicted))
    true, predicted = (count / max(1, len(known)) for count in counts)
    correct, expected = int((known.predicted == known.labels).sum()), min(1.0, float(true @ predicted))
    p_value = binomtest(correct, len(known), expected, alternative="greater").pvalue if len(known) else 1.0
    return ChanceTest(len(known), correct / max(1, len(known)), expected, float(p_value))
