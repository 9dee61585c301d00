"""Weights that are learned from labelled predictions.

Shapes: N labelled samples, M members, K classes. What is fitted on some rows must be scored on others: see
`tercet.ensemble.cross_fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import LinearConstraint, minimize

from tercet.config.training import Monitor
from tercet.core.errors import ConfigError, DataError
from tercet.core.predictions import Floats, Ints, Predictions
from tercet.core.registry import Registry
from tercet.ensemble.combine import Combiner, stack_members
from tercet.metrics.classification import is_better, quick_scores

Fitter = Callable[[Sequence[Predictions], Monitor], Floats | None]
"""Takes members and the monitored metric, returns M weights, or None where the method has no parameters."""

FITTERS: Registry[Fitter] = Registry("way to combine")

ROUNDS = 25
_SMALLEST = 1e-15  # keeps the logarithm finite where every member gives the true class nothing


def fit_combiner(
    method: str, members: Sequence[Predictions], *, names: Sequence[str], monitor: Monitor = "accuracy"
) -> Combiner:
    """Return the combiner `method`, fitted on the labelled rows where it has parameters.

    Args:
        method: average, pruned, vote, weighted or greedy.
        members: M sets of predictions.
        names: M member names.
        monitor: Metric that greedy selection improves; `weighted` always lowers the log loss.

    Raises:
        ConfigError: The method is unknown, or names and members differ in number.
        DataError: The method has parameters and no row has a label.
    """
    if len(names) != len(members):
        raise ConfigError(f"{len(names)} names for {len(members)} members")
    weights = FITTERS[method](members, monitor)
    return Combiner(method, tuple(names), None if weights is None else tuple(weights.tolist()))


def is_fitted(method: str) -> bool:
    """Return whether the method learns from labels, so that its score needs cross-fitting."""
    return FITTERS[method] is not _nothing


def fit_weights(members: Sequence[Predictions]) -> Floats:
    """Return the M weights (not negative, sum 1) whose weighted mean has the least log loss on the labelled rows.

    The loss is convex in the weights and depends only on the probabilities of the true classes, so SLSQP from equal
    weights finds the optimum in a few steps. Were its result ever worse than equal weights, they are returned.

    Raises:
        DataError: No row has a label.
    """
    stack, labels = _labelled(members)
    likelihood = np.maximum(stack[np.arange(len(labels)), :, labels], _SMALLEST)  # N M
    count = stack.shape[1]
    equal: Floats = np.full(count, 1 / count)

    def loss(weights: Floats) -> float:
        return float(-np.log(likelihood @ weights).mean())

    def gradient(weights: Floats) -> Floats:
        slope: Floats = -(likelihood / (likelihood @ weights)[:, None]).mean(axis=0)
        return slope

    found = minimize(
        loss,
        equal,
        jac=gradient,
        bounds=[(0, 1)] * count,
        constraints=LinearConstraint(np.ones((1, count)), 1, 1),
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 200},
    )
    weights: Floats = np.maximum(found.x, 0)
    weights = weights / weights.sum()
    return weights if loss(weights) <= loss(equal) else equal


def greedy_weights(members: Sequence[Predictions], monitor: Monitor = "accuracy", *, rounds: int = ROUNDS) -> Floats:
    """Return weights from greedy forward selection with replacement (Caruana et al., ICML 2004).

    The bag starts with the best member; each round adds the one, again if need be, that makes the bag's mean best.
    The best bag met on the way is kept, so it is never worse than the best member on these rows. Weights are a
    member's copies over the bag's size.

    Args:
        members: M sets of predictions.
        monitor: Metric improved on the labelled rows; ties go to the lower loss, then to the earlier member.
        rounds: Members added after the first.

    Raises:
        DataError: No row has a label.
    """
    stack, labels = _labelled(members)
    total = np.zeros_like(stack[:, 0])
    counts = np.zeros(stack.shape[1], dtype=np.int64)
    best, best_counts = None, counts
    for _ in range(rounds + 1):
        added, scores = _best_addition(total, stack, labels, size=int(counts.sum()) + 1, monitor=monitor)
        total = total + stack[:, added]
        counts[added] += 1
        if is_better(monitor, scores, best):
            best, best_counts = scores, counts.copy()
    weights: Floats = best_counts / best_counts.sum()
    return weights


def _best_addition(
    total: Floats, stack: Floats, labels: Ints, *, size: int, monitor: Monitor
) -> tuple[int, dict[str, float]]:
    chosen, best = 0, quick_scores((total + stack[:, 0]) / size, labels, monitor=monitor)
    for member in range(1, stack.shape[1]):
        scores = quick_scores((total + stack[:, member]) / size, labels, monitor=monitor)
        if is_better(monitor, scores, best):
            chosen, best = member, scores
    return chosen, best


def _labelled(members: Sequence[Predictions]) -> tuple[Floats, Ints]:
    first, stack = stack_members(members)
    if not first.known.any():
        raise DataError("weights are fitted on labels and no sample has one: give the labels, or use average")
    return stack[first.known], first.labels[first.known]


def _nothing(members: Sequence[Predictions], monitor: Monitor) -> None:
    return None


for _method in ("average", "pruned", "vote"):
    FITTERS.register(_method)(_nothing)


@FITTERS.register("weighted")
def _least_loss(members: Sequence[Predictions], monitor: Monitor) -> Floats:
    return fit_weights(members)


@FITTERS.register("greedy")
def _greedy(members: Sequence[Predictions], monitor: Monitor) -> Floats:
    return greedy_weights(members, monitor)
