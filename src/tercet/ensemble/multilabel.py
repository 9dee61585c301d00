"""Multi-label ensembles: combination of the members' scores and votes, and fitted thresholds.

Shapes: N samples, M members, K labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tercet.config.run import METHODS
from tercet.config.training import Monitor
from tercet.core.errors import ConfigError, DataError, ModelError
from tercet.core.multilabel import MultilabelPredictions
from tercet.ensemble.combine import (
    ENSEMBLE_METHODS,
    Operation,
    combine_values,
    ensemble_method,
    normalize_weights,
    resolve_operation,
    stored_operation,
)
from tercet.ensemble.cross_fit import split_folds
from tercet.metrics.multilabel import fit_threshold
from tercet.models.forward import Logits

SINGLE = "single"
"""Method of a rule for one member."""
DECODER_THRESHOLD = 0.5
"""Threshold of label decoders, whose scores exceed it exactly for the labels that they output; and of votes."""


def multilabel_methods() -> tuple[str, ...]:
    """Return the ensemble methods for label sets, in order of preference at equal scores."""
    names = [name for name in (*METHODS, *sorted(ENSEMBLE_METHODS.custom())) if ensemble_method(name).multilabel]
    return tuple(names)


@dataclass(frozen=True)
class MultilabelRule:
    """How a bundle combines its members' scores into one label set per image."""

    method: str
    """`single` (one member), or an ensemble method for label sets, such as `average` (mean score) or `vote` (labels
    predicted by more than half of the members)."""
    thresholds: tuple[float, ...]
    """M thresholds: a member predicts the labels whose score exceeds its threshold."""
    threshold: float = DECODER_THRESHOLD
    """Threshold of the combined score."""
    weights: tuple[float, ...] | None = None
    """M weights that sum to 1, if the method fits weights."""
    operation: Operation | None = None
    """Default: that of the registered method; see `resolve_operation`. None for a single member."""

    def __post_init__(self) -> None:
        if self.method != SINGLE:
            operation = resolve_operation(self.method, self.operation, weighted=self.weights is not None)
            registered = self.method in ENSEMBLE_METHODS
            if operation not in ("mean", "vote") or (registered and not ensemble_method(self.method).multilabel):
                raise ConfigError(f"'{self.method}' cannot combine label sets: use {' or '.join(multilabel_methods())}")
            object.__setattr__(self, "operation", operation)
        if not self.thresholds or (self.method == SINGLE and len(self.thresholds) != 1):
            raise ConfigError(f"method '{self.method}' does not fit {len(self.thresholds)} members")
        if not all(0 < threshold < 1 for threshold in (*self.thresholds, self.threshold)):
            raise ConfigError("thresholds must lie in (0, 1)")
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(normalize_weights(self.weights, len(self.thresholds)).tolist()))

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
        if self.operation not in ("mean", "vote"):
            return first
        scores = np.stack([member.scores for member in members], axis=1)
        votes = np.stack([member.chosen for member in members], axis=1).astype(np.float64)
        combined = combine_values(self.operation, scores, votes=votes, weights=self.weights)
        return replace(first, scores=combined, chosen=combined > self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        operation = None if self.operation is None else stored_operation(self.method, self.operation)
        return {**asdict(self), "operation": operation}

    @classmethod
    def from_dict(cls, values: dict[str, Any], num_members: int) -> MultilabelRule:
        """Rebuild from `to_dict`'s result.

        Raises:
            ModelError: The values do not describe a rule for `num_members` members.
        """
        try:
            thresholds, weights, operation = values["thresholds"], values.get("weights"), values.get("operation")
            rule = cls(values["method"], tuple(map(float, thresholds)), float(values["threshold"]), weights, operation)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the multi-label rule is damaged: {error}") from error
        if len(rule.thresholds) != num_members:
            raise ModelError(f"the multi-label rule is for {len(rule.thresholds)} members, not {num_members}")
        return rule


def fit_rule(
    method: str, members: Sequence[MultilabelPredictions], thresholds: Sequence[float], monitor: Monitor
) -> MultilabelRule:
    """Return the rule of an ensemble method, with weights and threshold fitted on the labelled samples.

    Votes need no other threshold than those of the M members.
    """
    fit = ensemble_method(method).fit
    weights = None if fit is None else tuple(np.asarray(fit(members, monitor), dtype=np.float64).tolist())
    rule = MultilabelRule(method, tuple(thresholds), weights=weights)
    if rule.operation == "vote":
        return rule
    return replace(rule, threshold=best_threshold(rule.combine(members), monitor))


def best_threshold(predictions: MultilabelPredictions, monitor: Monitor) -> float:
    """Return the threshold that is best on the labelled samples; see `fit_threshold`."""
    known = predictions.take(predictions.known)
    return fit_threshold(known.scores, known.truth, monitor)


def cross_fitted_multilabel(
    members: Sequence[MultilabelPredictions],
    fit_predict: Callable[[Sequence[MultilabelPredictions], Sequence[MultilabelPredictions]], MultilabelPredictions],
    *,
    folds: int = 5,
    seed: int = 0,
) -> MultilabelPredictions:
    """Return the combined predictions of the members; whatever is fitted for a sample is fitted on other folds.

    `fit_predict` takes the members' predictions to fit on, and those to combine; it returns the latter combined.

    Raises:
        DataError: A sample has no label set, or there are fewer than two samples.
    """
    first = members[0]
    if not first.known.all():
        raise DataError("cross-fitting needs the label set of every sample")
    scores, chosen = first.scores.copy(), first.chosen.copy()

    def take(rows: ArrayLike) -> list[MultilabelPredictions]:
        return [member.take(rows) for member in members]

    for fitted, held_out in split_folds(np.zeros(len(first), dtype=np.int64), folds=folds, seed=seed):
        combined = fit_predict(take(fitted), take(held_out))
        scores[held_out], chosen[held_out] = combined.scores, combined.chosen
    return replace(first, scores=scores, chosen=chosen)
