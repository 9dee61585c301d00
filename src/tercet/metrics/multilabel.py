"""Multi-label metrics, with the number of samples they are computed on.

Overall scores (O-) are micro averages over all N K decisions. Per-class scores (C-) are means over the labels that
occur in the truth or predictions, mAP over those in the truth. C-F1 is the harmonic mean of C-P and C-R (Wang et al.,
arXiv:1604.04573), macro-F1 the mean of the labels' F1. A ratio 0/0 is 0. Samples without known labels are ignored.

Shapes: N samples, K labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score, average_precision_score, hamming_loss, precision_recall_fscore_support

from tercet.core.errors import DataError
from tercet.core.multilabel import LabelMatrix, MultilabelPredictions
from tercet.core.predictions import Floats
from tercet.metrics.metric import Scores, complete, own_scores

RESAMPLES = 1000
_EPS = np.finfo(np.float64).eps
_QUICK = ("o_f1", "c_f1", "map", "exact_match", "hamming", "loss")
_THRESHOLDS = np.arange(1, 100) / 100


def score_multilabel(predictions: MultilabelPredictions) -> Scores:
    """Return all scores, those of the caller's own metrics included.

    Raises:
        DataError: No sample has known labels, or an own metric fails.
    """
    known = _known(predictions)
    truth = known.truth == 1
    micro = precision_recall_fscore_support(truth, known.chosen, average="micro", zero_division=0)
    by_label = precision_recall_fscore_support(truth, known.chosen, zero_division=0)
    present = truth.any(axis=0) | known.chosen.any(axis=0)
    precision, recall, macro_f1 = (float(column[present].mean()) if present.any() else 0.0 for column in by_label[:3])
    low, high = _interval(truth, known.chosen)
    return Scores(
        n=len(known),
        o_precision=float(micro[0]),
        o_recall=float(micro[1]),
        o_f1=float(micro[2]),
        o_f1_low=low,
        o_f1_high=high,
        c_precision=precision,
        c_recall=recall,
        c_f1=_harmonic_mean(precision, recall),
        macro_f1=macro_f1,
        map=_mean_average_precision(truth, known.scores),
        exact_match=float(accuracy_score(truth, known.chosen)),
        hamming=float(hamming_loss(truth, known.chosen)),
        log_loss=_log_loss(truth, known.scores),
        **own_scores("multi", known),
    )


def per_label(predictions: MultilabelPredictions) -> list[dict[str, Any]]:
    """Return one row per label: `label`, `n` (samples), `precision`, `recall`, `f1`, `ap` (None if `n` is 0)."""
    known = _known(predictions)
    truth = known.truth == 1
    precision, recall, f1, n = precision_recall_fscore_support(truth, known.chosen, zero_division=0)
    return [
        {
            "label": name,
            "n": int(n[index]),
            "precision": float(precision[index]),
            "recall": float(recall[index]),
            "f1": float(f1[index]),
            "ap": float(average_precision_score(truth[:, index], known.scores[:, index])) if n[index] else None,
        }
        for index, name in enumerate(known.classes)
    ]


def validation_multilabel_scores(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    monitor: str = "o_f1",
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
) -> dict[str, float]:
    """Return the scores of logits for a training history, at threshold 0.5: see `validation_scores`.

    Args:
        logits: N K; if any is NaN, all scores are NaN.
        labels: N K, above 0.5 for true labels.
        monitor: The monitored metric.
        classes: K label names, for own metrics.
        ids: N sample names, likewise.
    """
    values = np.asarray(logits, dtype=np.float64)
    truth, chosen = np.asarray(labels) > 0.5, values > 0
    if np.isnan(values).any():
        return complete(dict.fromkeys(_QUICK, math.nan), "multi", monitor, None)
    quick = {
        "o_f1": overall_f1(truth, chosen),
        "c_f1": class_f1(truth, chosen),
        "map": _mean_average_precision(truth, values),
        "exact_match": float((truth == chosen).all(axis=1).mean()),
        "hamming": float((truth != chosen).mean()),
        # from the logits, because saturated probabilities would limit the loss
        "loss": float(np.logaddexp(0, np.where(truth, -values, values)).sum(axis=1).mean()),
    }

    def all_scores() -> Scores:
        rows, columns = (list(map(str, range(size))) for size in values.shape)
        predictions = MultilabelPredictions.from_logits(
            values, ids=ids or rows, classes=classes or columns, truth=truth.astype(np.int8)
        )
        return score_multilabel(predictions)

    return complete(quick, "multi", monitor, all_scores)


def overall_f1(truth: LabelMatrix, chosen: LabelMatrix) -> float:
    """Return O-F1 (micro-F1) of label matrices N K."""
    total = int(truth.sum()) + int(chosen.sum())
    return 2 * int((truth & chosen).sum()) / total if total else 0.0


def class_f1(truth: LabelMatrix, chosen: LabelMatrix) -> float:
    """Return C-F1 of label matrices N K: the harmonic mean of mean precision and mean recall."""
    correct, predicted, actual = ((truth & chosen).sum(axis=0), chosen.sum(axis=0), truth.sum(axis=0))
    present = (predicted + actual) > 0
    if not present.any():
        return 0.0
    precision = correct[present] / np.maximum(predicted[present], 1)
    recall = correct[present] / np.maximum(actual[present], 1)
    return _harmonic_mean(float(precision.mean()), float(recall.mean()))


def fit_threshold(scores: Floats, truth: NDArray[np.int8], monitor: str = "o_f1") -> float:
    """Return the best common threshold of all labels of 0.01, 0.02, ... 0.99; the nearest to 0.5 wins ties.

    Args:
        scores: N K.
        truth: N K of 0 and 1.
        monitor: `c_f1` maximizes C-F1, all others O-F1.
    """
    measure = class_f1 if monitor == "c_f1" else overall_f1
    values = np.array([measure(truth == 1, scores > threshold) for threshold in _THRESHOLDS])
    best = _THRESHOLDS[values == values.max()]
    return float(best[np.abs(best - 0.5).argmin()])


def _known(predictions: MultilabelPredictions) -> MultilabelPredictions:
    if not predictions.known.any():
        raise DataError(f"none of the {len(predictions)} samples has known labels: metrics need labels")
    return predictions if predictions.known.all() else predictions.take(predictions.known)


def _harmonic_mean(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def _mean_average_precision(truth: LabelMatrix, scores: Floats) -> float:
    present = np.flatnonzero(truth.any(axis=0))
    if not len(present):
        return 0.0
    return float(np.mean([average_precision_score(truth[:, label], scores[:, label]) for label in present]))


def _log_loss(truth: LabelMatrix, scores: Floats) -> float:
    probabilities = np.where(truth, scores, 1 - scores)
    return float(-np.log(np.maximum(probabilities, _EPS)).sum(axis=1).mean())


def _interval(truth: LabelMatrix, chosen: LabelMatrix) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of O-F1."""
    correct, pairs = (truth & chosen).sum(axis=1), truth.sum(axis=1) + chosen.sum(axis=1)
    count = len(truth)
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)  # R N
    values = 2 * (weights @ correct) / np.maximum(weights @ pairs, 1)
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
