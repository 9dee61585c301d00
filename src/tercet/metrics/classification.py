"""How good predictions are: every score names what it is and over how many samples.

Shapes: N samples, K classes. Only samples whose label is known count. Macro averages run over the classes that occur
in the truth or among the predictions (scikit-learn's own default); balanced accuracy over those in the truth. What
would be 0/0 is 0: the precision of a class never predicted, and kappa where one class is all there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
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

from tercet.config.training import Monitor
from tercet.core.errors import DataError
from tercet.core.predictions import Floats, Ints, Predictions

Scorer = Callable[[ArrayLike, ArrayLike], dict[str, float]]
"""From logits N K and labels to scores by name: what a training validates with."""
TOP = 5
BINS = 15
_SMALLEST = np.finfo(np.float64).eps  # what scikit-learn's log loss clips at


@dataclass(frozen=True)
class Agreement:
    """What a confusion matrix alone can tell."""

    n: int
    """Samples scored."""
    accuracy: float
    """Share right."""
    accuracy_low: float
    """Lower end of the 95 % Wilson interval of the accuracy."""
    accuracy_high: float
    """Upper end of it."""
    balanced_accuracy: float
    """Mean recall of the classes in the truth."""
    macro_precision: float
    """Mean precision over classes."""
    macro_recall: float
    """Mean recall over classes."""
    macro_f1: float
    """Mean F1 over classes."""
    kappa: float
    """Cohen's kappa: agreement beyond chance, at most 1."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Scores(Agreement):
    """All scores of one set of predictions."""

    top5: float
    """Share whose class is among the min(5, K) most probable; the lowest index wins ties."""
    log_loss: float
    """Mean negative log probability of the true class, in nats."""
    brier: float
    """Mean squared distance of the probabilities from the one-hot truth, summed over classes, in [0, 2]."""
    ece: float
    """Expected calibration error of the top class, 15 bins of equal width, in [0, 1]."""

    def monitored(self) -> dict[str, float]:
        """Return what `is_better` compares, under the names of the configuration."""
        return _criteria(self.accuracy, self.log_loss, self.macro_f1, self.kappa)


def score(predictions: Predictions) -> Scores:
    """Return all scores.

    Raises:
        DataError: No sample has a label, or there is only one class.
    """
    known = _known(predictions)
    classes = np.arange(len(known.classes))
    # Rows of float32 files sum to one within 1e-7 only, and scikit-learn wants double precision.
    proper = known.probabilities / known.probabilities.sum(axis=1, keepdims=True)
    return Scores(
        **asdict(_agreement(*_cells(known.labels, known.predicted))),
        top5=_top(known, TOP),
        log_loss=float(log_loss(known.labels, proper, labels=classes)),
        brier=float(brier_score_loss(known.labels, proper, labels=classes, scale_by_half=False)),
        ece=calibration_error(known),
    )


def scores_from_confusion(matrix: ArrayLike) -> Agreement:
    """Return what a confusion matrix (K K, rows are the truth) can tell.

    Raises:
        DataError: The matrix is not square, negative, or empty.
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise DataError(f"a confusion matrix is square, got shape {counts.shape}")
    if counts.dtype.kind not in "iu" or counts.min(initial=0) < 0 or counts.sum() == 0:
        raise DataError("a confusion matrix holds counts: integers, none negative, not all zero")
    truth, predicted = np.nonzero(counts)
    return _agreement(truth, predicted, counts[truth, predicted])


def confusion(predictions: Predictions) -> Ints:
    """Return the confusion matrix (K K): rows are the truth, columns the predicted classes, in class order."""
    known = _known(predictions)
    matrix: Ints = confusion_matrix(known.labels, known.predicted, labels=np.arange(len(known.classes)))
    return matrix


def per_class(predictions: Predictions) -> list[dict[str, Any]]:
    """Return one row a class, in class order: `class`, `n` (in the truth), `precision`, `recall`, `f1`."""
    known = _known(predictions)
    columns = precision_recall_fscore_support(
        known.labels, known.predicted, labels=np.arange(len(known.classes)), zero_division=0
    )
    return [
        {"class": name, "n": int(n), "precision": float(precision), "recall": float(recall), "f1": float(f1)}
        for name, precision, recall, f1, n in zip(known.classes, *columns, strict=True)
    ]


def confused_pairs(predictions: Predictions, most: int = 10) -> list[dict[str, Any]]:
    """Return the commonest mistakes: `truth`, `predicted`, `n` and its `share` of the true class, commonest first."""
    matrix = confusion(predictions)
    totals = matrix.sum(axis=1)
    mistakes = matrix - np.diag(np.diag(matrix))
    truth, predicted = np.nonzero(mistakes)
    order = np.argsort(-mistakes[truth, predicted], kind="stable")[:most]
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
    """Return one row a non-empty bin of the top probability: `low`, `high`, `n`, `confidence`, `accuracy`.

    Bins have equal width and hold their upper end: (low, high].
    """
    known = _known(predictions)
    confidence = known.probabilities.max(axis=1)
    right = known.predicted == known.labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = []
    for index in np.unique(place):
        inside = place == index
        row = {"low": index / bins, "high": (index + 1) / bins, "n": int(inside.sum())}
        rows.append({**row, "confidence": float(confidence[inside].mean()), "accuracy": float(right[inside].mean())})
    return rows


def calibration_error(predictions: Predictions, *, bins: int = BINS) -> float:
    """Return the expected calibration error of the top class: the mean gap between bins' accuracy and confidence."""
    rows = reliability(predictions, bins=bins)
    return sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / sum(row["n"] for row in rows)


def validation_scores(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return `accuracy`, `loss`, `macro_f1`, `kappa` and their `sum` (accuracy + F1 + kappa), fast enough for a loop.

    Args:
        logits: N K; where one is NaN or infinite every score is NaN, and NaN is never better.
        labels: N class indices, all known.

    Raises:
        DataError: There is no sample, or a label is no class index.
    """
    values = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(values.max(axis=1)).all():
        return dict.fromkeys(("accuracy", "loss", "macro_f1", "kappa", "sum"), math.nan)
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    truth = np.asarray(labels)
    proper = exponentials / exponentials.sum(axis=1, keepdims=True)
    scores = quick_scores(proper, truth, monitor="sum")
    # From the logits: a probability that underflows to zero still has its true, large loss.
    logsum = np.log(exponentials.sum(axis=1)) + values.max(axis=1)
    return {**scores, "loss": float((logsum - values[np.arange(len(truth)), truth]).mean())}


def quick_scores(probabilities: Floats, labels: Ints, *, monitor: Monitor) -> dict[str, float]:
    """Return what `is_better` needs under `monitor`: at least that score and the `loss`.

    Args:
        probabilities: N K.
        labels: N class indices, all known.
        monitor: accuracy and loss are 20 times cheaper than the others.

    Raises:
        DataError: There is no sample, or a label is no class index.
    """
    if not len(labels) or len(labels) != len(probabilities):
        raise DataError(f"{len(labels)} labels for {len(probabilities)} predictions: need one each, and at least one")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise DataError(f"labels lie in {labels.min()}..{labels.max()}, expected 0..{probabilities.shape[1] - 1}")
    predicted = probabilities.argmax(axis=1)
    loss = float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], _SMALLEST)).mean())
    if monitor in ("accuracy", "loss"):
        return {"accuracy": float((predicted == labels).mean()), "loss": loss}
    cells = _cells(labels, predicted)
    _, _, macro_f1 = _macro(*cells)
    return _criteria(float((predicted == labels).mean()), loss, macro_f1, _kappa(*cells))


def is_better(monitor: Monitor, new: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
    """Return whether `new` beats `best` under `monitor`; the lower loss decides ties, and NaN never wins.

    Args:
        monitor: A key of both; `loss` is better when lower, all others when higher.
        new: Scores that include `monitor` and `loss`.
        best: Likewise; None is beaten by anything but NaN.
    """
    if math.isnan(new[monitor]) or math.isnan(new["loss"]):
        return False
    if best is None or math.isnan(best[monitor]) or math.isnan(best["loss"]):
        return True
    if new[monitor] == best[monitor]:
        return new["loss"] < best["loss"]
    return (new[monitor] > best[monitor]) != (monitor == "loss")


def _known(predictions: Predictions) -> Predictions:
    if len(predictions.classes) < 2:
        raise DataError(f"scores need at least two classes, these predictions have {len(predictions.classes)}")
    if not predictions.known.any():
        raise DataError(f"none of the {len(predictions)} samples has a label: give the labels to score predictions")
    return predictions if predictions.known.all() else predictions.take(predictions.known)


def _criteria(accuracy: float, loss: float, macro_f1: float, kappa: float) -> dict[str, float]:
    total = accuracy + macro_f1 + kappa
    return {"accuracy": accuracy, "loss": loss, "macro_f1": macro_f1, "kappa": kappa, "sum": total}


def _cells(truth: Ints, predicted: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the filled cells of the confusion matrix as (truth, predicted, count): scikit-learn is then fast."""
    width = int(max(truth.max(), predicted.max())) + 1
    cells, counts = np.unique(truth * width + predicted, return_counts=True)
    return cells // width, cells % width, counts


def _agreement(truth: Ints, predicted: Ints, counts: Ints) -> Agreement:
    n, right = int(counts.sum()), int(counts[truth == predicted].sum())
    interval = binomtest(right, n).proportion_ci(0.95, method="wilson")
    precision, recall, macro_f1 = _macro(truth, predicted, counts)
    present = {"labels": np.unique(truth), "average": "macro", "zero_division": 0}
    return Agreement(
        n=n,
        accuracy=right / n,
        accuracy_low=float(interval.low),
        accuracy_high=float(interval.high),
        balanced_accuracy=float(recall_score(truth, predicted, sample_weight=counts, **present)),
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
        return 0.0  # chance would agree as well
    return float(cohen_kappa_score(truth, predicted, sample_weight=counts))


def _top(predictions: Predictions, count: int) -> float:
    if count >= len(predictions.classes):
        return 1.0
    best = np.argsort(-predictions.probabilities, axis=1, kind="stable")[:, :count]
    return float((best == predictions.labels[:, None]).any(axis=1).mean())
