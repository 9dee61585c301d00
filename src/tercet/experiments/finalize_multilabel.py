"""Finish a multi-label run: combine members, choose on validation, score test once, write report and bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tercet.core.multilabel import MultilabelPredictions
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import describe_environment
from tercet.data.copies import torn_copies
from tercet.ensemble.bundle import Bundle, Member, load_bundle
from tercet.ensemble.choice import MEMBER, Candidate, Choice, choose_among, complexity
from tercet.ensemble.multilabel import (
    SINGLE,
    MultilabelRule,
    cross_fitted_multilabel,
    fit_rule,
)
from tercet.experiments.copy_scores import copy_scores, copy_warnings
from tercet.experiments.finalize import CHOSEN_ON_TEST, TITLES, data_notes
from tercet.experiments.frozen import counts_of, sum_counts
from tercet.experiments.plan import Plan
from tercet.metrics.metric import Scores
from tercet.metrics.multilabel import score_multilabel
from tercet.metrics.tables import ResultRow, classes_table, results_table

_SPLITS = ("validation", "test")


@dataclass(frozen=True)
class MultilabelResult:
    """A finished member, or members combined by one method."""

    name: str
    members: tuple[str, ...]
    rule: MultilabelRule
    """How scores become label sets."""
    predictions: dict[str, MultilabelPredictions]
    """By split; on validation with cross-fitted thresholds if a threshold was fitted there."""
    summary: Mapping[str, Any]
    """At least seconds and parameters."""

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Scores of the labelled splits."""
        return {split: score_multilabel(values) for split, values in self.predictions.items() if values.known.any()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        head = {"name": self.name, "members": list(self.members)}
        return {**head, **self.summary, "rule": self.rule.to_dict(), **self.scores}


def finalize_multilabel(run: RunFolder, plan: Plan) -> tuple[dict[str, Any], str]:
    """Combine the members of a run; choose, write predictions and bundle, and return metrics and report."""
    members = [_member(run, member.name) for member in plan.members]
    methods = plan.run.ensemble_methods if len(members) > 1 else ()
    ensembles = [_combine(method, members, plan) for method in methods]
    for ensemble in ensembles:
        for split, predictions in ensemble.predictions.items():
            predictions.save(run.predictions(ensemble.name, split))
    choice = _choose(members, ensembles, plan)
    best = _choose(members, (), plan).shipped.name
    winner = next(result for result in (*members, *ensembles) if result.name == choice.shipped.name)
    table = plan.open_data(run).table
    copies = copy_scores(torn_copies(table), {split: [values] for split, values in winner.predictions.items()})
    metrics = {**_metrics(run, plan, members, ensembles, best=best, choice=choice), "copies": copies}
    report = "\n".join([*copy_warnings(copies), ""]) + _report(plan, members, ensembles, choice=choice, winner=winner)
    networks = tuple(_load(run, name) for name in winner.members)
    card = {
        "data": plan.data_card(table),
        "metrics": {split: scores.card() for split, scores in winner.scores.items()},
        "versions": metrics["versions"],
    }
    Bundle(plan.classes, networks, card=card, sets=winner.rule).save(run.bundle)
    return metrics, report


def _load(run: RunFolder, name: str) -> Member:
    return replace(load_bundle(run.member(name).bundle).members[0], name=name)


def _member(run: RunFolder, name: str) -> MultilabelResult:
    stored = {
        split: MultilabelPredictions.load(path) for split in _SPLITS if (path := run.predictions(name, split)).is_file()
    }
    summary = run.member(name).summary()
    return MultilabelResult(name, (name,), MultilabelRule(SINGLE, (summary["threshold"],)), stored, summary)


def _combine(method: str, members: Sequence[MultilabelResult], plan: Plan) -> MultilabelResult:
    """Combine the members by a rule that is fitted, and scored by cross-fitting, on validation."""
    thresholds = [member.rule.thresholds[0] for member in members]

    def fit(predictions: Sequence[MultilabelPredictions]) -> MultilabelRule:
        return fit_rule(method, predictions, thresholds, plan.monitor)

    stored = {
        split: [member.predictions[split] for member in members]
        for split in _SPLITS
        if all(split in member.predictions for member in members)
    }
    rule = fit(stored["validation"])
    predictions = {split: rule.combine(values) for split, values in stored.items()}
    predictions["validation"] = cross_fitted_multilabel(
        stored["validation"],
        lambda fitted, others: fit(fitted).combine(others),
        folds=plan.fusion.folds,
        seed=plan.run.seed,
    )
    cost = {key: sum(member.summary[key] for member in members) for key in ("seconds", "parameters")}
    return MultilabelResult(method, tuple(member.name for member in members), rule, predictions, cost)


def _choose(members: Sequence[MultilabelResult], ensembles: Sequence[MultilabelResult], plan: Plan) -> Choice:
    """Choose among members and ensembles on the monitored split."""
    split = plan.monitor_split
    single, combined = (
        [
            Candidate(
                result.name,
                MEMBER if result in members else complexity(result.name),
                result.predictions[split],
                result.scores[split],
            )
            for result in results
        ]
        for results in (members, ensembles)
    )
    return choose_among(
        single, combined, plan.monitor, plan.fusion.choose, requested=plan.run.ensemble_methods, split=split
    )


def _metrics(
    run: RunFolder,
    plan: Plan,
    members: Sequence[MultilabelResult],
    ensembles: Sequence[MultilabelResult],
    *,
    best: str,
    choice: Choice,
) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "bundle": str(run.bundle),
        "data": plan.data_card(),
        "protocol": {"monitor": plan.monitor, "monitor_split": plan.monitor_split, "seed": plan.run.seed},
        "features": sum_counts(counts_of(run.member(member.name) for member in members)),
        "members": [member.to_dict() for member in members],
        "ensembles": [ensemble.to_dict() for ensemble in ensembles],
        "best_member": best,
        "chosen": choice.shipped.name,
        "choice": choice.to_dict(),
        "calibration": None,
        "comparison": None,
        "versions": describe_environment()["packages"],
    }


def _report(
    plan: Plan,
    members: Sequence[MultilabelResult],
    ensembles: Sequence[MultilabelResult],
    *,
    choice: Choice,
    winner: MultilabelResult,
) -> str:
    sections = [CHOSEN_ON_TEST] if plan.monitor_split == "test" else []
    for split in _SPLITS:
        rows = [
            ResultRow(
                result.name,
                "ensemble" if result in ensembles else "member",
                result.scores[split],
                result.summary["seconds"],
                result.summary["parameters"],
                result is winner,
            )
            for result in (*members, *ensembles)
            if split in result.scores
        ]
        if rows:
            title = f"{plan.data}, {len(plan.classes)} labels: {TITLES[plan.monitor_split, split]}"
            sections.append(results_table(rows, title=title, note=f"chosen on {plan.monitor_split}").to_text())
    if len(members) > 1:
        sections.append(choice.to_text() + "\n")
    sections.append("Multi-label scores are not calibrated.\n")
    sections += data_notes(plan)
    split = "test" if "test" in winner.scores else "validation"
    sections.append(classes_table(winner.predictions[split], title=f"{winner.name} by label on {split}").to_text())
    return "\n".join(sections)
