"""Classification metrics, with the number of samples they are computed on.

Samples without a label are ignored. Macro averages are over the classes that occur in the labels or predictions (the
default of scikit-learn), balanced accuracy over those in the labels. A ratio 0/0 is 0, such as the precision of a class
that is never predicted; kappa is 0 if there is a single class.

Shapes: N samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest
from sklearn.metrics import (
    brier_score_loss,
    cohen_kappa_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    recall_score,
)

from tercet.core.errors import DataError
from tercet.core.predictions import Floats, Ints, Predictions
from tercet.metrics.metric import Scores, complete, own_scores

Scorer = Callable[[ArrayLike, ArrayLike], dict[str, float]]
"""Maps logits N K and labels to scores by name, for validation during training."""
QUICK = ("accuracy", "loss", "macro_f1", "kappa", "sum")
"""Metrics of every validation: they are cheap. `sum` is accuracy + macro F1 + kappa."""
BINS = 15
_EPS = np.finfo(np.float64).eps  # scikit-learn's log loss clips probabilities at this value


def score(predictions: Predictions) -> Scores:
    """Return all scores, those of the caller's own metrics included.

    Raises:
        DataError: No sample has a label, there is a single class, or an own metric fails.
    """
    known = _known(predictions)
    classes = np.arange(len(known.classes))
    # Rows of float32 files sum to 1 only within 1e-7, and scikit-learn requires double precision.
    probabilities = known.probabilities / known.probabilities.sum(axis=1, keepdims=True)
    return Scores(
        **_confusion_scores(*_cells(known.labels, known.predicted)),
        top5=_top_k_accuracy(known, 5),
        log_loss=float(log_loss(known.labels, probabilities, labels=classes)),
        brier=float(brier_score_loss(known.labels, probabilities, labels=classes, scale_by_half=False)),
        ece=calibration_error(known),
        **own_scores("single", known),
    )


def scores_from_confusion(matrix: ArrayLike) -> Scores:
    """Return the scores of a confusion matrix K K, whose rows are the true classes.

    Raises:
        DataError: The matrix is not square, negative, or empty.
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise DataError(f"a confusion matrix must be square, got shape {counts.shape}")
    if counts.dtype.kind not in "iu" or counts.min(initial=0) < 0 or counts.sum() == 0:
        raise DataError("a confusion matrix must contain non-negative integers that are not all zero")
    truth, predicted = np.nonzero(counts)
    return _confusion_scores(truth, predicted, counts[truth, predicted])


def confusion(predictions: Predictions) -> Ints:
    """Return the confusion matrix K K: rows are true classes, columns predicted classes."""
    known = _known(predictions)
    matrix: Ints = confusion_matrix(known.labels, known.predicted, labels=np.arange(len(known.classes)))
    return matrix


def per_class(predictions: Predictions) -> list[dict[str, Any]]:
    """Return one row per class: `class`, `n` (samples of the class), `precision`, `recall`, `f1`."""
    known = _known(predictions)
    columns = precision_recall_fscore_support(
        known.labels, known.predicted, labels=np.arange(len(known.classes)), zero_division=0
    )
    return [
        {"class": name, "n": int(n), "precision": float(precision), "recall": float(recall), "f1": float(f1)}
        for name, precision, recall, f1, n in zip(known.classes, *columns, strict=True)
    ]


def confused_pairs(predictions: Predictions, limit: int = 10) -> list[dict[str, Any]]:
    """Return the most frequent errors: `truth`, `predicted`, `n`, and `share` of the true class's samples."""
    matrix = confusion(predictions)
    totals = matrix.sum(axis=1)
    errors = matrix - np.diag(np.diag(matrix))
    truth, predicted = np.nonzero(errors)
    order = np.argsort(-errors[truth, predicted], kind="stable")[:limit]
    return [
        {
            "truth": predictions.classes[row],
            "predicted": predictions.classes[column],
            "n": int(matrix[row, column]),
            "share": float(matrix[row, column] / totals[row]),
        }
        for row, column in zip(truth[order], predicted[order], strict=True)
    ]


def reliability(predictions: Predictions, *, bins: int = BINS) -> list[dict[str, float]]:
    """Return one row per non-empty bin of the top probability: `low`, `high`, `n`, `confidence`, `accuracy`.

    Bins have equal width and include their upper end: (low, high].
    """
    known = _known(predictions)
    confidence = known.probabilities.max(axis=1)
    correct = known.predicted == known.labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = []
    for index in np.unique(bin_of):
        inside = bin_of == index
        row = {"low": index / bins, "high": (index + 1) / bins, "n": int(inside.sum())}
        rows.append({**row, "confidence": float(confidence[inside].mean()), "accuracy": float(correct[inside].mean())})
    return rows


def calibration_error(predictions: Predictions, *, bins: int = BINS) -> float:
    """Return the expected calibration error: the mean over samples of |accuracy - confidence| of their bin."""
    rows = reliability(predictions, bins=bins)
    return sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / sum(row["n"] for row in rows)


def validation_scores(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    monitor: str = "sum",
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
) -> dict[str, float]:
    """Return the scores of logits for a training history: `QUICK`, the monitored metric, and own metrics.

    Args:
        logits: N K; if any is NaN or infinite, all scores are NaN.
        labels: N class indices, all known.
        monitor: The monitored metric.
        classes: K class names, for own metrics.
        ids: N sample names, likewise.

    Raises:
        DataError: There are no samples, a label is not a class index, or an own metric fails.
    """
    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if not np.isfinite(values.max(axis=1)).all():
        return complete(dict.fromkeys(QUICK, math.nan), "single", monitor, None)
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    scores = quick_scores(probabilities, truth, monitor="sum")
    # The loss is computed from the logits, because small probabilities underflow to zero.
    logsum = np.log(exponentials.sum(axis=1)) + values.max(axis=1)
    quick = {**scores, "loss": float((logsum - values[np.arange(len(truth)), truth]).mean())}
    return complete(
        quick,
        "single",
        monitor,
        lambda: score(Predictions.of(probabilities, ids=ids, classes=classes, labels=truth)),
    )


def quick_scores(
    probabilities: Floats, labels: Ints, *, monitor: str, like: Predictions | None = None
) -> Mapping[str, float]:
    """Return the scores that `is_better` compares: at least the monitored one and the `loss`.

    Args:
        probabilities: N K.
        labels: N class indices, all known.
        monitor: The metric; accuracy and loss are 20 times cheaper than the other `QUICK` ones, and these than all.
        like: Predictions of the same samples and classes, for own metrics.

    Raises:
        DataError: There are no samples, or a label is not a class index.
    """
    if not len(labels) or len(labels) != len(probabilities):
        raise DataError(
            f"{len(labels)} labels for {len(probabilities)} predictions: need one per prediction, and at least one"
        )
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise DataError(f"labels are in {labels.min()}..{labels.max()}, expected 0..{probabilities.shape[1] - 1}")
    if monitor not in QUICK:
        template = like or Predictions.of(probabilities, labels=labels)
        return score(replace(template, probabilities=probabilities, labels=labels))
    predicted = probabilities.argmax(axis=1)
    scores = {
        "accuracy": float((predicted == labels).mean()),
        "loss": float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], _EPS)).mean()),
    }
    if monitor in scores:
        return scores
    cells = _cells(labels, predicted)
    macro_f1, kappa = _macro(*cells)[2], _kappa(*cells)
    return {**scores, "macro_f1": macro_f1, "kappa": kappa, "sum": scores["accuracy"] + macro_f1 + kappa}


def _known(predictions: Predictions) -> Predictions:
    if len(predictions.classes) < 2:
        raise DataError(f"metrics need at least two classes, got {len(predictions.classes)}")
    if not predictions.known.any():
        raise DataError(f"none of the {len(predictions)} samples has a label: metrics need labels")
    return predictions if predictions.known.all() else predictions.take(predictions.known)


def _cells(truth: Ints, predicted: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the non-zero cells of the confusion matrix as (truth, predicted, count), for speed: scikit-learn
    takes the counts as sample weights.
    """
    base = int(max(truth.max(), predicted.max())) + 1
    cells, counts = np.unique(truth * base + predicted, return_counts=True)
    return cells // base, cells % base, counts


def _confusion_scores(truth: Ints, predicted: Ints, counts: Ints) -> Scores:
    n, correct = int(counts.sum()), int(counts[truth == predicted].sum())
    interval = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    precision, recall, macro_f1 = _macro(truth, predicted, counts)
    options = {"labels": np.unique(truth), "average": "macro", "zero_division": 0}
    return Scores(
        n=n,
        accuracy=correct / n,
        accuracy_low=float(interval.low),
        accuracy_high=float(interval.high),
        balanced_accuracy=float(recall_score(truth, predicted, sample_weight=counts, **options)),
        macro_precision=precision,
        macro_recall=recall,
        macro_f1=macro_f1,
        kappa=_kappa(truth, predicted, counts),
    )


def _macro(truth: Ints, predicted: Ints, counts: Ints) -> tuple[float, float, float]:
    scores = precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0, sample_weight=counts)
    precision, recall, f1 = (float(value) for value in scores[:3])
    return precision, recall, f1


def _kappa(truth: Ints, predicted: Ints, counts: Ints) -> float:
    if len(counts) == 1 and truth[0] == predicted[0]:
        return 0.0  # chance agreement is 1, so that kappa is 0/0
    return float(cohen_kappa_score(truth, predicted, sample_weight=counts))


def _top_k_accuracy(predictions: Predictions, k: int) -> float:
    if k >= len(predictions.classes):
        return 1.0
    best = np.argsort(-predictions.probabilities, axis=1, kind="stable")[:, :k]
    return float((best == predictions.labels[:, None]).any(axis=1).mean())
