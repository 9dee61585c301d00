"""Honest scores for what is fitted on the rows it is scored on, and the choice that rests on them.

Shapes: N samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold

from tercet.config.run import METHODS
from tercet.config.training import Monitor
from tercet.core.errors import DataError
from tercet.core.predictions import Ints, Predictions, aligned, concatenate
from tercet.ensemble.weights import fit_combiner, is_fitted
from tercet.metrics.classification import Scores

FitPredict = Callable[[Ints, Ints], Predictions]
"""Takes the row numbers to fit on and those held out, returns predictions of the latter, in their order."""


def cross_fit(
    fit_predict: FitPredict,
    labels: ArrayLike,
    *,
    folds: int = 5,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Predictions:
    """Return predictions of all N rows, each made by something fitted without it.

    Args:
        fit_predict: Called once a fold.
        labels: N class indices, all known; the folds are stratified by them.
        folds: Parts; fewer where there are fewer rows.
        seed: Seed of the folds.
        groups: N names; what is fitted never saw the group of the row it predicts, where there are two groups or more.

    Raises:
        DataError: A label is unknown, there are fewer than two rows, or `fit_predict` returns other rows.
    """
    parts, rows = [], []
    for fitted, held_out in split_folds(labels, folds=folds, seed=seed, groups=groups):
        part = fit_predict(fitted, held_out)
        if len(part) != len(held_out):
            raise DataError(f"{len(held_out)} rows were held out, but {len(part)} were predicted")
        parts.append(part)
        rows.append(held_out)
    return concatenate(parts).take(np.argsort(np.concatenate(rows)))


def split_folds(
    labels: ArrayLike, *, folds: int = 5, seed: int = 0, groups: Sequence[str] | None = None
) -> list[tuple[Ints, Ints]]:
    """Return (rows to fit on, rows held out), one pair a fold; every row is held out exactly once.

    Folds are stratified; classes smaller than the number of folds are missing from some of them. Groups stay whole
    where there are at least two; there are no more folds than groups then.

    Raises:
        DataError: A label is unknown, or there are fewer than two rows.
    """
    truth = np.asarray(labels, dtype=np.int64)
    if len(truth) < 2 or truth.min() < 0:
        raise DataError("cross-fitting needs at least two samples, and the label of every one")
    several = len(set(groups or ()))
    parts = min(folds, len(truth), several if several > 1 else folds)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        if several > 1:
            whole = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
            return [pair for pair in whole.split(truth, truth, groups) if len(pair[1])]
        # Stratification needs one class with a sample a fold; below that there is nothing to keep in proportion.
        kind = StratifiedKFold if np.bincount(truth).max() >= parts else KFold
        return list(kind(parts, shuffle=True, random_state=seed).split(truth, truth))


def cross_fitted(
    method: str,
    members: Sequence[Predictions],
    *,
    folds: int = 5,
    seed: int = 0,
    monitor: Monitor = "accuracy",
    groups: Sequence[str] | None = None,
) -> Predictions:
    """Return what the members give under `method` on the labelled rows, fit to be scored there.

    Methods with parameters predict each fold with weights fitted on the other folds; the others need no such care.

    Args:
        method: average, pruned, vote, weighted or greedy.
        members: M sets of predictions.
        folds: Parts of the labelled rows.
        seed: Seed of the folds.
        monitor: Metric that greedy selection improves.
        groups: N names, in the order of the first member's rows; see `cross_fit`.

    Raises:
        ConfigError: The method is unknown.
        DataError: No row has a label, or the members do not fit each other.
    """
    matched = aligned(members)
    known = np.flatnonzero(matched[0].known)
    if not len(known):
        raise DataError("no sample has a label: nothing can be scored")
    labelled = [member.take(known) for member in matched]
    names = [str(number) for number in range(len(members))]

    def fit_predict(fitted: Ints, held_out: Ints) -> Predictions:
        combiner = fit_combiner(method, [one.take(fitted) for one in labelled], names=names, monitor=monitor)
        return combiner.apply([one.take(held_out) for one in labelled])

    if not is_fitted(method):
        return fit_combiner(method, labelled, names=names).apply(labelled)
    of_rows = None if groups is None else [groups[row] for row in known.tolist()]
    return cross_fit(fit_predict, labelled[0].labels, folds=folds, seed=seed, groups=of_rows)


def rank(scores: Mapping[str, Scores], monitor: Monitor) -> list[str]:
    """Return the names, best first: by `monitor`, then log loss, then order.

    Ways to combine come in the order of `METHODS`, anything else (members) after them as given. The first three
    members of this list are the choice of the paper's Algorithm 1, step 3.
    """

    def place(name: str) -> tuple[float, float, int]:
        values = scores[name].monitored()
        sign = 1 if monitor == "loss" else -1
        position = METHODS.index(name) if name in METHODS else len(METHODS)
        return sign * values[monitor], values["loss"], position

    return sorted(scores, key=place)


def choose(scores: Mapping[str, Scores], monitor: Monitor) -> str:
    """Return the best name; see `rank`.

    Raises:
        DataError: There is nothing to choose from.
    """
    if not scores:
        raise DataError("there is nothing to choose from")
    return rank(scores, monitor)[0]
