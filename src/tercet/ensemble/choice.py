"""The choice of the model that is shipped: the simplest that is not measurably worse than the best.

This is the one-standard-error rule of Breiman et al. (Classification and Regression Trees, 1984) on paired samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tercet.config.training import Monitor
from tercet.core.errors import DataError
from tercet.core.output import printable
from tercet.ensemble.combine import ensemble_method, is_fitted
from tercet.metrics.metric import Scores, describe_metric, rank_key
from tercet.metrics.paired import AnyPredictions, PairedDifference, paired_difference

Rule = Literal["simplest", "best", "requested"]
"""simplest: see `choose_simplest`; best: the best score; requested: the only ensemble method that was requested."""
MEMBER = 0
"""Complexity of a single network; see `complexity`."""


def complexity(method: str) -> int:
    """Return the place of an ensemble method in the order of complexity: above `MEMBER`, the smaller the simpler.

    1 the average, 2 others that fit nothing (such as pruned and vote), 3 fitted weights, 4 a trained head.
    """
    if ensemble_method(method).operation == "head":
        return 4
    return 3 if is_fitted(method) else 1 if method == "average" else 2


@dataclass(frozen=True)
class Candidate:
    """A network or an ensemble that may be shipped."""

    name: str
    complexity: int
    predictions: AnyPredictions
    """On the monitored split; cross-fitted if the method was fitted there."""
    scores: Scores
    """Of these predictions."""


@dataclass(frozen=True)
class Choice:
    """The best candidate, the shipped one, and why."""

    best: Candidate
    shipped: Candidate
    paired: PairedDifference
    """Of best and shipped."""
    monitor: Monitor
    rule: Rule

    split: str
    """The monitored split."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "best": self.best.name,
            "shipped": self.shipped.name,
            "difference": self.paired.difference,
            "standard_error": self.paired.standard_error,
            "rule": self.rule,
            "reason": self.to_text(),
        }

    def to_text(self) -> str:
        """Return the sentence of the report."""
        metric, best, shipped = describe_metric(self.monitor), printable(self.best.name), printable(self.shipped.name)
        if self.best is self.shipped:
            score = f"{metric.title} {format(self.best.scores[self.monitor], metric.format)}"
            requested = "the only requested method, " if self.rule == "requested" else ""
            simplest = " (no simpler model comes within one standard error)" if self.rule == "simplest" else ""
            simplest = "" if self.shipped.complexity == MEMBER else simplest
            return f"Shipped: {shipped}, {requested}the best on {self.split}: {score}{simplest}."
        reason = "the simplest model that is not measurably worse than the best"
        reason = "the only requested method" if self.rule == "requested" else reason
        if self.paired.difference == 0:
            same = f"{metric.title} {format(self.best.scores[self.monitor], metric.format)}"
            return f"Shipped: {shipped}, {reason}. {best} has the same {same} on {self.split}, and a lower log loss."
        direction = "higher" if metric.higher_is_better else "lower"
        values = (self.paired.difference, self.paired.standard_error)
        difference, error = (format(value, metric.format) for value in values)
        return (
            f"Shipped: {shipped}, {reason}. {best} is best on {self.split}: {metric.title} {difference} {direction}, "
            f"standard error {error}."
        )


def choose_simplest(candidates: Sequence[Candidate], monitor: Monitor, split: str = "validation") -> Choice:
    """Return the simplest candidate that is not measurably worse than the best.

    The best has the best monitored score; the lower log loss, then the simpler one decides ties. For each complexity,
    the best of its candidates is compared with it: it is measurably worse if its score is lower by more than one
    standard error of the paired difference.

    Raises:
        DataError: There are no candidates, or they have other samples or labels.
    """
    ranked = _ranked(candidates, monitor)
    best = ranked[0]
    for level in sorted({candidate.complexity for candidate in ranked}):
        candidate = next(candidate for candidate in ranked if candidate.complexity == level)
        choice = _compare(best, candidate, monitor, "simplest", split)
        if not choice.paired.is_measurable:
            return choice
    raise AssertionError("the best candidate is not worse than itself")


def choose_among(
    members: Sequence[Candidate],
    ensembles: Sequence[Candidate],
    monitor: Monitor,
    rule: Literal["simplest", "best"],
    *,
    requested: Sequence[str],
    split: str = "validation",
) -> Choice:
    """Choose by a rule; without ensembles, the best member.

    With the rule `best`, or if a single method was requested, only ensembles are shipped.
    """
    if not ensembles or rule == "best":
        candidates = ensembles or members
        return _compare(_ranked(candidates, monitor)[0], _ranked(candidates, monitor)[0], monitor, "best", split)
    candidates = [*members, *ensembles]
    if len(requested) == 1:
        return _compare(_ranked(candidates, monitor)[0], _ranked(ensembles, monitor)[0], monitor, "requested", split)
    return choose_simplest(candidates, monitor, split)


def _ranked(candidates: Sequence[Candidate], monitor: Monitor) -> list[Candidate]:
    if not candidates:
        raise DataError("there is nothing to choose from")

    def sort_key(candidate: Candidate) -> tuple[float, ...]:
        # rounding: sums over samples in another order differ in the last digits
        return (*(round(value, 12) for value in rank_key(monitor, candidate.scores)), candidate.complexity)

    return sorted(candidates, key=sort_key)


def _compare(best: Candidate, shipped: Candidate, monitor: Monitor, rule: Rule, split: str) -> Choice:
    same = best is shipped
    paired = PairedDifference(0.0, 0.0) if same else paired_difference(best.predictions, shipped.predictions, monitor)
    return Choice(best, shipped, paired, monitor, rule, split)
