"""The built-in ensemble methods by name.

Libraries that fit weights are imported when a method is fitted, because the command line lists the names without them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tercet.config.training import Monitor
from tercet.core.predictions import Floats, Predictions
from tercet.ensemble.combine import ENSEMBLE_METHODS, EnsembleMethod


def _fit_weighted(members: Sequence[Predictions], monitor: Monitor) -> Floats:
    from tercet.ensemble.weights import fit_weights

    return fit_weights(members)  # whatever the metric, as only the log loss is convex in the weights


def _fit_greedy(members: Sequence[Predictions], monitor: Monitor) -> Floats:
    from tercet.ensemble.weights import greedy_weights

    return greedy_weights(members, monitor)


for _name, _method in {
    "average": EnsembleMethod(multilabel=True),
    "pruned": EnsembleMethod("pruned"),
    "vote": EnsembleMethod("vote", multilabel=True),
    "weighted": EnsembleMethod(fit=_fit_weighted),
    "greedy": EnsembleMethod(fit=_fit_greedy),
    "e2e": EnsembleMethod("head"),
}.items():
    ENSEMBLE_METHODS.register(_name)(_method)
