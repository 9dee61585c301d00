"""From scores to sets: thresholds that are fitted on validation rows, and members that are fused.

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
SET_METHODS: tuple[MultilabelMethod, ...] = ("average", "vote")
"""The ways to fuse members, in order of preference at equal scores."""
DECISION_METHODS = 0.5
"""Threshold of networks that choose the labels themselves: their scores are above it for chosen labels only."""


@dataclass(frozen=True)
class MultilabelRule:
    """How members' scores become one set of labels: what a bundle stores."""

    method: MultilabelMethod
    """single (one member), average (of the scores), or vote (labels that more than half of the members choose)."""
    thresholds: tuple[float, ...]
    """M thresholds: a member chooses the labels whose score is above its own."""
    threshold: float = DECISION_METHODS
    """average: threshold of the mean score."""

    def __post_init__(self) -> None:
        if self.method not in ("single", *SET_METHODS):
            raise ConfigError(f"unknown way to fuse label sets '{self.method}' (known: {', '.join(SET_METHODS)})")
        if not self.thresholds or (self.method == "single" and len(self.thresholds) != 1):
            raise ConfigError(f"'{self.method}' does not fit {len(self.thresholds)} members")
        if not all(0 < threshold < 1 for threshold in (*self.thresholds, self.threshold)):
            raise ConfigError("thresholds must lie in (0, 1)")

    def members(self, logits: Logits, classes: Sequence[str]) -> list[MultilabelPredictions]:
        """Return what each member says; the logits of all members lie side by side (N M K)."""
        count, width = len(self.thresholds), len(classes)
        if logits.values.shape[1] != count * width:
            raise ModelError(f"the networks have {logits.values.shape[1]} outputs for {count} x {width} labels")
        stack = logits.values.reshape(len(logits.ids), count, width)
        if np.isnan(stack).any():
            name = logits.ids[int(np.argmax(np.isnan(stack).any(axis=(1, 2))))]
            raise ModelError(f"the network's logits for sample '{name}' are not numbers: its weights or it are bad")
        truth = logits.labels if logits.labels.ndim == 2 else None  # images without a table know nothing
        return [
            MultilabelPredictions.from_logits(
                stack[:, index], ids=logits.ids, classes=classes, truth=truth, threshold=threshold
            )
            for index, threshold in enumerate(self.thresholds)
        ]

    def combine(self, members: Sequence[MultilabelPredictions]) -> MultilabelPredictions:
        """Return the fused predictions of the members, in the order of the thresholds.

        Raises:
            DataError: The members are too many or too few, or do not hold the same samples and labels.
        """
        first = members[0]
        if len(members) != len(self.thresholds):
            raise DataError(f"{len(members)} members for {len(self.thresholds)} thresholds")
        if any((member.ids, member.classes) != (first.ids, first.classes) for member in members):
            raise DataError("members do not hold the same samples and labels in the same order")
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
            ModelError: The values describe no rule, or one for another number of members.
        """
        try:
            thresholds = tuple(float(threshold) for threshold in values["thresholds"])
            rule = cls(values["method"], thresholds, float(values["threshold"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the rule for label sets is damaged: {error}") from error
        if len(thresholds) != num_members:
            raise ModelError(f"the rule for label sets is for {len(thresholds)} members, not {num_members}")
        return rule


def combine_scores(method: MultilabelMethod, members: Sequence[MultilabelPredictions]) -> Floats:
    """Return the mean of the members' scores (average), or the share of members that choose a label (vote): N K."""
    parts = [member.chosen.astype(np.float64) if method == "vote" else member.scores for member in members]
    return np.asarray(np.stack(parts, axis=1).mean(axis=1))


def threshold_of(predictions: MultilabelPredictions, monitor: Monitor) -> float:
    """Return the threshold that is best on the samples whose sets are known; see `fit_threshold`."""
    known = predictions.take(predictions.known)
    return fit_threshold(known.scores, known.truth, monitor)


def cross_fitted_multilabel(
    predictions: MultilabelPredictions, monitor: Monitor, *, folds: int = 5, seed: int = 0
) -> MultilabelPredictions:
    """Return the same scores with sets that are fit to be scored: each chosen by a threshold fitted on other samples.

    Raises:
        DataError: A set is unknown, or there are fewer than two samples.
    """
    if not predictions.known.all():
        raise DataError("cross-fitting a threshold needs the set of every sample")
    chosen = predictions.chosen.copy()
    for fitted, held_out in split_folds(np.zeros(len(predictions), dtype=np.int64), folds=folds, seed=seed):
        threshold = threshold_of(predictions.take(fitted), monitor)
        chosen[held_out] = predictions.scores[held_out] > threshold
    return predictions.with_chosen(chosen)
