"""Ensembles of predictions: ways to combine, weights that are learned, and the honest choice among them."""

from tercet.evaluation.combining import (
    Combiner,
    Ties,
    aligned,
    average,
    average_stack,
    pruned,
    pruned_stack,
    stack_members,
    vote,
    vote_stack,
    weighted,
    weighted_stack,
)
from tercet.evaluation.cross_fitting import choose, cross_fit, cross_fitted, rank, split_folds
from tercet.evaluation.fitting import FITTERS, fit_combiner, fit_weights, greedy_weights, is_fitted

__all__ = [
    "FITTERS",
    "Combiner",
    "Ties",
    "aligned",
    "average",
    "average_stack",
    "choose",
    "cross_fit",
    "cross_fitted",
    "fit_combiner",
    "fit_weights",
    "greedy_weights",
    "is_fitted",
    "pruned",
    "pruned_stack",
    "rank",
    "split_folds",
    "stack_members",
    "vote",
    "vote_stack",
    "weighted",
    "weighted_stack",
]
