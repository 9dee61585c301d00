"""How good predictions of label sets are: every score names what it is and over how many samples.

Overall scores (O-) count all decisions together. Scores by class (C-) are means over the labels that occur in the truth
or among the predictions, mAP over those in the truth; C-F1 is the harmonic mean of C-P and C-R, as in the literature of
the CNN-RNN, and macro-F1 the mean of the labels' own F1. What would be 0/0 is 0. Only samples whose set is known count.

Shapes: N samples, K labels.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score, average_precision_score, hamming_loss, precision_recall_fscore_support

from tercet.config.training import Monitor
from tercet.core.errors import DataError
from tercet.core.multilabel import LabelMatrix, MultilabelPredictions
from tercet.core.predictions import Floats

RESAMPLES = 1000
_SMALLEST = np.finfo(np.float64).eps
_THRESHOLDS = np.arange(1, 100) / 100


@dataclass(frozen=True)
class MultilabelScores:
    """All scores of one set of predictions."""

    n: int
    """Samples scored."""
    o_precision: float
    """O-P: share of all chosen labels that are right."""
    o_recall: float
    """O-R: share of all true labels that are chosen."""
    o_f1: float
    """O-F1: harmonic mean of the two."""
    o_f1_low: float
    """Lower end of the 95 % bootstrap interval of O-F1 (1,000 resamples of the images, seeded)."""
    o_f1_high: float
    """Upper end of it."""
    c_precision: float
    """C-P: mean precision over labels."""
    c_recall: float
    """C-R: mean recall over labels."""
    c_f1: float
    """C-F1: harmonic mean of the two."""
    macro_f1: float
    """Mean F1 over labels."""
    map: float
    """Mean average precision over labels: how well the scores rank the images."""
    exact_match: float
    """Share of images whose set is right in every label."""
    hamming: float
    """Hamming loss: share of all N K decisions that are wrong."""
    log_loss: float
    """Mean over images of the sum over labels of the negative log probability, in nats."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def monitored(self) -> dict[str, float]:
        """Return what `is_better` compares, under the names of the configuration."""
        return {"o_f1": self.o_f1, "c_f1": self.c_f1, "map": self.map, "loss": self.log_loss}


def score_multilabel(predictions: MultilabelPredictions) -> MultilabelScores:
    """Return all scores.

    Raises:
        DataError: The set of no sample is known.
    """
    known = _known(predictions)
    truth = known.truth == 1
    micro = precision_recall_fscore_support(truth, known.chosen, average="micro", zero_division=0)
    by_label = precision_recall_fscore_support(truth, known.chosen, zero_division=0)
    shown = truth.any(axis=0) | known.chosen.any(axis=0)
    precision, recall, macro_f1 = (float(column[shown].mean()) if shown.any() else 0.0 for column in by_label[:3])
    low, high = _interval(truth, known.chosen)
    return MultilabelScores(
        n=len(known),
        o_precision=float(micro[0]),
        o_recall=float(micro[1]),
        o_f1=float(micro[2]),
        o_f1_low=low,
        o_f1_high=high,
        c_precision=precision,
        c_recall=recall,
        c_f1=_harmonic(precision, recall),
        macro_f1=macro_f1,
        map=_mean_average_precision(truth, known.scores),
        exact_match=float(accuracy_score(truth, known.chosen)),
        hamming=float(hamming_loss(truth, known.chosen)),
        log_loss=_log_loss(truth, known.scores),
    )


def per_label(predictions: MultilabelPredictions) -> list[dict[str, Any]]:
    """Return one row a label: `label`, `n` (in the truth), `precision`, `recall`, `f1`, `ap` (None without truth)."""
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


def validation_multilabel_scores(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return `o_f1`, `c_f1`, `map`, `exact_match`, `hamming` and `loss` of logits, at threshold 0.5.

    Args:
        logits: N K; where one is NaN every score is NaN, and NaN is never better.
        labels: N K, above 0.5 for the labels that a sample has.
    """
    values = np.asarray(logits, dtype=np.float64)
    truth, chosen = np.asarray(labels) > 0.5, values > 0
    if np.isnan(values).any():
        return dict.fromkeys(("o_f1", "c_f1", "map", "exact_match", "hamming", "loss"), math.nan)
    return {
        "o_f1": overall_f1(truth, chosen),
        "c_f1": class_f1(truth, chosen),
        "map": _mean_average_precision(truth, values),
        "exact_match": float((truth == chosen).all(axis=1).mean()),
        "hamming": float((truth != chosen).mean()),
        # from the logits: what saturates still has its true, large loss
        "loss": float(np.logaddexp(0, np.where(truth, -values, values)).sum(axis=1).mean()),
    }


def overall_f1(truth: LabelMatrix, chosen: LabelMatrix) -> float:
    """Return O-F1 of sets (N K)."""
    pairs = int(truth.sum()) + int(chosen.sum())
    return 2 * int((truth & chosen).sum()) / pairs if pairs else 0.0


def class_f1(truth: LabelMatrix, chosen: LabelMatrix) -> float:
    """Return C-F1 of sets (N K): the harmonic mean of the labels' mean precision and mean recall."""
    right, said, true = ((truth & chosen).sum(axis=0), chosen.sum(axis=0), truth.sum(axis=0))
    shown = (said + true) > 0
    if not shown.any():
        return 0.0
    precision = right[shown] / np.maximum(said[shown], 1)
    recall = right[shown] / np.maximum(true[shown], 1)
    return _harmonic(float(precision.mean()), float(recall.mean()))


def fit_threshold(scores: Floats, truth: NDArray[np.int8], monitor: Monitor = "o_f1") -> float:
    """Return the one threshold of all labels, of 0.01, 0.02, ... 0.99, that is best; the nearest to 0.5 wins ties.

    Args:
        scores: N K.
        truth: N K of 0 and 1.
        monitor: `c_f1` seeks the highest C-F1, all others the highest O-F1.
    """
    measure = class_f1 if monitor == "c_f1" else overall_f1
    reached = np.array([measure(truth == 1, scores > threshold) for threshold in _THRESHOLDS])
    best = _THRESHOLDS[reached == reached.max()]
    return float(best[np.abs(best - 0.5).argmin()])


def _known(predictions: MultilabelPredictions) -> MultilabelPredictions:
    if not predictions.known.any():
        raise DataError(f"none of the {len(predictions)} samples has a known label set: give them to score predictions")
    return predictions if predictions.known.all() else predictions.take(predictions.known)


def _harmonic(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other else 0.0


def _mean_average_precision(truth: LabelMatrix, scores: Floats) -> float:
    present = np.flatnonzero(truth.any(axis=0))
    if not len(present):
        return 0.0
    return float(np.mean([average_precision_score(truth[:, label], scores[:, label]) for label in present]))


def _log_loss(truth: LabelMatrix, scores: Floats) -> float:
    of_truth = np.where(truth, scores, 1 - scores)
    return float(-np.log(np.maximum(of_truth, _SMALLEST)).sum(axis=1).mean())


def _interval(truth: LabelMatrix, chosen: LabelMatrix) -> tuple[float, float]:
    right, pairs = (truth & chosen).sum(axis=1), truth.sum(axis=1) + chosen.sum(axis=1)
    count = len(truth)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)  # R N
    reached = 2 * (drawn @ right) / np.maximum(drawn @ pairs, 1)
    low, high = np.quantile(reached, (0.025, 0.975))
    return float(low), float(high)
