"""Multi-label ensembles: fitted thresholds and combination of the members.

Shapes: N samples, M members, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from tercet.config.training import Monitor
from tercet.core.errors import ConfigError, DataError, ModelError
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.predictions import Floats
from tercet.ensemble.cross_fit import split_folds
from tercet.metrics.multilabel import fit_threshold
from tercet.models.forward import Logits

MultilabelMethod = Literal["single", "average", "vote"]
MULTILABEL_METHODS: tuple[MultilabelMethod, ...] = ("average", "vote")
"""Ensemble methods, in order of preference at equal scores."""
DECODER_THRESHOLD = 0.5
"""Threshold of label decoders, whose scores exceed it exactly for the labels that they output."""


@dataclass(frozen=True)
class MultilabelRule:
    """How a bundle combines its members' scores into one label set per image."""

    method: MultilabelMethod
    """single (one member), average (mean score), or vote (labels predicted by more than half of the members)."""
    thresholds: tuple[float, ...]
    """M thresholds: a member predicts the labels whose score exceeds its threshold."""
    threshold: float = DECODER_THRESHOLD
    """average: threshold of the mean score."""

    def __post_init__(self) -> None:
        if self.method not in ("single", *MULTILABEL_METHODS):
            raise ConfigError(
                f"unknown multi-label ensemble method '{self.method}' (known: {', '.join(MULTILABEL_METHODS)})"
            )
        if not self.thresholds or (self.method == "single" and len(self.thresholds) != 1):
            raise ConfigError(f"method '{self.method}' does not fit {len(self.thresholds)} members")
        if not all(0 < threshold < 1 for threshold in (*self.thresholds, self.threshold)):
            raise ConfigError("thresholds must lie in (0, 1)")

    def members(self, logits: Logits, classes: Sequence[str]) -> list[MultilabelPredictions]:
        """Return the predictions of each member from the concatenated logits of all members (N, M K).

        Raises:
            ModelError: The number of logits is wrong, or a logit is NaN.
        """
        num_members, num_labels = len(self.thresholds), len(classes)
        if logits.values.shape[1] != num_members * num_labels:
            outputs = logits.values.shape[1]
            raise ModelError(f"the networks have {outputs} outputs for {num_members} x {num_labels} labels")
        stack = logits.values.reshape(len(logits.ids), num_members, num_labels)
        if np.isnan(stack).any():
            name = logits.ids[int(np.argmax(np.isnan(stack).any(axis=(1, 2))))]
            raise ModelError(f"the logits of sample '{name}' are NaN: the weights or the image are damaged")
        truth = logits.labels if logits.labels.ndim == 2 else None  # 1-D: images without a table have no label sets
        return [
            MultilabelPredictions.from_logits(
                stack[:, index], ids=logits.ids, classes=classes, truth=truth, threshold=threshold
            )
            for index, threshold in enumerate(self.thresholds)
        ]

    def combine(self, members: Sequence[MultilabelPredictions]) -> MultilabelPredictions:
        """Return the combined predictions of the members, which are in the order of the thresholds.

        Raises:
            DataError: The number of members is wrong, or they have different samples or labels.
        """
        first = members[0]
        if len(members) != len(self.thresholds):
            raise DataError(f"{len(members)} members for {len(self.thresholds)} thresholds")
        if any((member.ids, member.classes) != (first.ids, first.classes) for member in members):
            raise DataError("the members do not have the same samples and labels in the same order")
        if self.method == "single":
            return first
        scores = combine_scores(self.method, members)
        return replace(first, scores=scores, chosen=scores > self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"method": self.method, "thresholds": list(self.thresholds), "threshold": self.threshold}

    @classmethod
    def from_dict(cls, values: dict[str, Any], num_members: int) -> MultilabelRule:
        """Rebuild from `to_dict`'s result.

        Raises:
            ModelError: The values do not describe a rule for `num_members` members.
        """
        try:
            thresholds = tuple(float(threshold) for threshold in values["thresholds"])
            rule = cls(values["method"], thresholds, float(values["threshold"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the multi-label rule is damaged: {error}") from error
        if len(thresholds) != num_members:
            raise ModelError(f"the multi-label rule is for {len(thresholds)} members, not {num_members}")
        return rule


def combine_scores(method: MultilabelMethod, members: Sequence[MultilabelPredictions]) -> Floats:
    """Return the mean score (average), or the share of members that predict a label (vote): N K."""
    scores = [member.chosen.astype(np.float64) if method == "vote" else member.scores for member in members]
    return np.asarray(np.stack(scores, axis=1).mean(axis=1))


def best_threshold(predictions: MultilabelPredictions, monitor: Monitor) -> float:
    """Return the threshold that is best on the labelled samples; see `fit_threshold`."""
    known = predictions.take(predictions.known)
    return fit_threshold(known.scores, known.truth, monitor)


def cross_fitted_multilabel(
    predictions: MultilabelPredictions, monitor: Monitor, *, folds: int = 5, seed: int = 0
) -> MultilabelPredictions:
    """Return the same scores with label sets from thresholds that were fitted on other folds.

    Raises:
        DataError: A sample has no label set, or there are fewer than two samples.
    """
    if not predictions.known.all():
        raise DataError("cross-fitting a threshold needs the label set of every sample")
    chosen = predictions.chosen.copy()
    for fitted, held_out in split_folds(np.zeros(len(predictions), dtype=np.int64), folds=folds, seed=seed):
        threshold = best_threshold(predictions.take(fitted), monitor)
        chosen[held_out] = predictions.scores[held_out] > threshold
    return predictions.with_chosen(chosen)
