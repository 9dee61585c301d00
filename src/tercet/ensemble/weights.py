"""The built-in ensemble methods, and weights fitted on labelled predictions; `cross_fit` scores them on other rows.

Shapes: N labelled samples, M members, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import LinearConstraint, minimize

from tercet.config.training import Monitor
from tercet.core.errors import ConfigError, DataError
from tercet.core.predictions import Floats, Ints, Predictions
from tercet.ensemble.combine import (
    Combiner,
    ensemble_method,
    normalize_weights,
    stack_members,
)
from tercet.metrics.classification import quick_scores
from tercet.metrics.metric import is_better

ROUNDS = 25
_SMALLEST = 1e-15  # keeps the logarithm finite if all members give the true class probability 0


def fit_combiner(
    method: str, members: Sequence[Predictions], *, names: Sequence[str], monitor: Monitor = "accuracy"
) -> Combiner:
    """Return the combiner of a method, with weights, if it fits any, for the labelled rows.

    Args:
        method: Any method but one that trains a head.
        members: Predictions of M members.
        names: M member names.
        monitor: Metric that greedy selection improves; `weighted` always minimizes the log loss.

    Raises:
        ConfigError: The method is unknown, or names and members differ in number.
        DataError: The method has parameters and no row has a label.
    """
    if len(names) != len(members):
        raise ConfigError(f"{len(names)} names for {len(members)} members")
    fit = ensemble_method(method).fit
    weights = None if fit is None else normalize_weights(fit(members, monitor), len(members)).tolist()
    return Combiner(method, tuple(names), None if weights is None else tuple(weights))


def fit_weights(members: Sequence[Predictions]) -> Floats:
    """Return the M weights (non-negative, sum 1) whose weighted mean has the lowest log loss on the labelled rows.

    The loss is convex in the weights and depends only on the probabilities of the true classes, so SLSQP from equal
    weights finds the optimum in a few steps. If its result is worse than equal weights, equal weights are returned.
    """
    stack, labels = _labelled_rows(members)
    likelihood = np.maximum(stack[np.arange(len(labels)), :, labels], _SMALLEST)  # N M
    count = stack.shape[1]
    equal: Floats = np.full(count, 1 / count)

    def loss(weights: Floats) -> float:
        return float(-np.log(likelihood @ weights).mean())

    def gradient(weights: Floats) -> Floats:
        slope: Floats = -(likelihood / (likelihood @ weights)[:, None]).mean(axis=0)
        return slope

    result = minimize(
        loss,
        equal,
        jac=gradient,
        bounds=[(0, 1)] * count,
        constraints=LinearConstraint(np.ones((1, count)), 1, 1),
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 200},
    )
    weights: Floats = np.maximum(result.x, 0)
    weights = weights / weights.sum()
    return weights if loss(weights) <= loss(equal) else equal


def greedy_weights(members: Sequence[Predictions], monitor: Monitor = "accuracy", *, rounds: int = ROUNDS) -> Floats:
    """Return weights from greedy forward selection with replacement (Caruana et al., ICML 2004).

    The bag starts with the best member. Each round adds the member, possibly again, with which the mean of the bag
    scores best. The best bag of all rounds is used, so the result is never worse than the best member on these rows.
    A member's weight is its number of copies divided by the size of the bag.

    Args:
        members: Predictions of M members.
        monitor: Metric improved on the labelled rows; ties go to the lower loss, then to the earlier member.
        rounds: Members added after the first.
    """
    stack, labels = _labelled_rows(members)
    like = members[0].take(members[0].known)
    total = np.zeros_like(stack[:, 0])
    counts = np.zeros(stack.shape[1], dtype=np.int64)
    best, best_counts = None, counts
    for _ in range(rounds + 1):
        added, scores = _best_addition(total, stack, labels, size=int(counts.sum()) + 1, monitor=monitor, like=like)
        total = total + stack[:, added]
        counts[added] += 1
        if is_better(monitor, scores, best):
            best, best_counts = scores, counts.copy()
    weights: Floats = best_counts / best_counts.sum()
    return weights


def _best_addition(
    total: Floats, stack: Floats, labels: Ints, *, size: int, monitor: Monitor, like: Predictions
) -> tuple[int, Mapping[str, float]]:
    chosen, best = 0, quick_scores((total + stack[:, 0]) / size, labels, monitor=monitor, like=like)
    for member in range(1, stack.shape[1]):
        scores = quick_scores((total + stack[:, member]) / size, labels, monitor=monitor, like=like)
        if is_better(monitor, scores, best):
            chosen, best = member, scores
    return chosen, best


def _labelled_rows(members: Sequence[Predictions]) -> tuple[Floats, Ints]:
    first, stack = stack_members(members)
    if not first.known.any():
        raise DataError("fitting weights needs labels, and no sample has one: give labels, or use average")
    return stack[first.known], first.labels[first.known]
