"""Cross-fitting: scores of ensemble methods that are fitted on the validation rows, and the choice among them.

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
from tercet.ensemble.combine import is_fitted
from tercet.ensemble.weights import fit_combiner
from tercet.metrics.metric import Scores, rank_key

FitPredict = Callable[[Ints, Ints], Predictions]
"""Takes row indices to fit on and held-out row indices; returns predictions of the held-out rows, in their order."""


def cross_fit(
    fit_predict: FitPredict,
    labels: ArrayLike,
    *,
    folds: int = 5,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Predictions:
    """Return out-of-fold predictions of all N rows.

    Args:
        fit_predict: Called once per fold.
        labels: N class indices, all known; the folds are stratified by them.
        folds: Number of folds; at most the number of rows.
        seed: Seed of the folds.
        groups: N group names; see `split_folds`.

    Raises:
        DataError: `fit_predict` returns too many or few rows; see also `split_folds`.
    """
    fold_predictions, rows = [], []
    for fitted, held_out in split_folds(labels, folds=folds, seed=seed, groups=groups):
        predictions = fit_predict(fitted, held_out)
        if len(predictions) != len(held_out):
            raise DataError(f"{len(held_out)} rows were held out, but {len(predictions)} were predicted")
        fold_predictions.append(predictions)
        rows.append(held_out)
    return concatenate(fold_predictions).take(np.argsort(np.concatenate(rows)))


def split_folds(
    labels: ArrayLike, *, folds: int = 5, seed: int = 0, groups: Sequence[str] | None = None
) -> list[tuple[Ints, Ints]]:
    """Return (rows to fit on, rows held out) per fold; every row is held out exactly once.

    Folds are stratified; classes smaller than the number of folds are missing from some of them. If there are at least
    two groups, no group is divided and there are at most as many folds as groups.

    Raises:
        DataError: A label is unknown, or there are fewer than two rows.
    """
    truth = np.asarray(labels, dtype=np.int64)
    if len(truth) < 2 or truth.min() < 0:
        raise DataError("cross-fitting needs at least two samples, all with labels")
    num_groups, seed = len(set(groups or ())), seed % 2**32  # the range of scikit-learn
    num_folds = min(folds, len(truth), num_groups if num_groups > 1 else folds)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        if num_groups > 1:
            splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
            return [pair for pair in splitter.split(truth, truth, groups) if len(pair[1])]
        # StratifiedKFold raises if no class has a sample for every fold.
        kind = StratifiedKFold if np.bincount(truth).max() >= num_folds else KFold
        return list(kind(num_folds, shuffle=True, random_state=seed).split(truth, truth))


def cross_fitted(
    method: str,
    members: Sequence[Predictions],
    *,
    folds: int = 5,
    seed: int = 0,
    monitor: Monitor = "accuracy",
    groups: Sequence[str] | None = None,
) -> Predictions:
    """Return the combined predictions of the labelled rows, suitable for scoring.

    Methods that fit weights predict each fold with weights fitted on the other folds; see `fit_combiner`, `cross_fit`.

    Raises:
        ConfigError: The method is unknown.
        DataError: No row has a label, or the members have different samples or classes.
    """
    matched = aligned(members)
    known = np.flatnonzero(matched[0].known)
    if not len(known):
        raise DataError("no sample has a label, so nothing can be scored")
    labelled = [member.take(known) for member in matched]
    names = [str(number) for number in range(len(members))]

    def fit_predict(fitted: Ints, held_out: Ints) -> Predictions:
        combiner = fit_combiner(method, [member.take(fitted) for member in labelled], names=names, monitor=monitor)
        return combiner.apply([member.take(held_out) for member in labelled])

    if not is_fitted(method):
        return fit_combiner(method, labelled, names=names).apply(labelled)
    labelled_groups = None if groups is None else [groups[row] for row in known.tolist()]
    return cross_fit(fit_predict, labelled[0].labels, folds=folds, seed=seed, groups=labelled_groups)


def rank(scores: Mapping[str, Scores], monitor: Monitor) -> list[str]:
    """Return the names, best first: by `monitor`, then log loss, then order.

    Ensemble methods are in the order of `METHODS`, followed by the members in the order of `scores`. The first three
    members of the result are those chosen by step 3 of the paper's Algorithm 1.
    """

    def sort_key(name: str) -> tuple[float, float, int]:
        position = METHODS.index(name) if name in METHODS else len(METHODS)
        return *rank_key(monitor, scores[name]), position

    return sorted(scores, key=sort_key)


def choose(scores: Mapping[str, Scores], monitor: Monitor) -> str:
    """Return the best name; see `rank`."""
    if not scores:
        raise DataError("there is nothing to choose from")
    return rank(scores, monitor)[0]
