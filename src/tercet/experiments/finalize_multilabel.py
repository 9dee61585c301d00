"""The end of a run on label sets: fuse, choose on validation, look at the test split once, report, leave the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tercet.core.files import write_json, write_text
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import describe_environment
from tercet.core.streams import printable
from tercet.ensemble.bundle import Bundle, Member, load_bundle
from tercet.ensemble.multilabel import (
    DECODER_THRESHOLD,
    MultilabelMethod,
    MultilabelRule,
    best_threshold,
    combine_scores,
    cross_fitted_multilabel,
)
from tercet.experiments.data_summary import data_card, trained_on
from tercet.experiments.finalize import CHOSEN_ON_TEST, TITLES, left_out
from tercet.experiments.multilabel import multilabel_methods
from tercet.experiments.plan import Plan
from tercet.metrics.classification import is_better
from tercet.metrics.comparison_tables import MultilabelRow, labels_table, multilabel_table
from tercet.metrics.multilabel import score_multilabel
from tercet.metrics.tables import as_text

_SPLITS = ("validation", "test")
_CARD_SCORES = ("n", "o_f1", "c_f1", "map", "exact_match", "hamming")


@dataclass(frozen=True)
class MultilabelResult:
    """A member, or members fused in one way, finished."""

    name: str
    """Name in tables."""
    members: tuple[str, ...]
    """Who takes part."""
    rule: MultilabelRule
    """How scores become sets."""
    predictions: dict[str, MultilabelPredictions]
    """By split; on validation the sets are fit to be scored (cross-fitted where a threshold was fitted there)."""
    summary: Mapping[str, Any]
    """What it cost: at least seconds and parameters."""

    @property
    def scores(self) -> dict[str, Any]:
        """The scores of the splits whose sets are known."""
        return {split: score_multilabel(said) for split, said in self.predictions.items() if said.known.any()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        scores = {split: one.to_dict() for split, one in self.scores.items()}
        return {"name": self.name, "members": list(self.members), **self.summary, "rule": self.rule.to_dict(), **scores}


@dataclass(frozen=True)
class MultilabelRunResults:
    """What came out of a run."""

    metrics: Mapping[str, Any]
    """What `metrics.json` holds."""
    report: str
    """The report as text."""


def finalize_multilabel(run: RunFolder, plan: Plan) -> MultilabelRunResults:
    """Fuse the members of a run, choose, measure, and write everything down."""
    members = [_member(run, member.name) for member in plan.members]
    fused = [_fuse(method, members, plan) for method in multilabel_methods(plan)] if len(members) > 1 else []
    for one in fused:
        for split, said in one.predictions.items():
            said.save(run.predictions(one.name, split))
    best, winner = _best(members, plan), _best(fused or members, plan)
    metrics = _metrics(run, plan, members, fused, best=best.name, chosen=winner.name)
    report = _report(plan, members, fused, best=best, winner=winner)
    loaded = tuple(_load(run, name) for name in winner.members)
    card = {
        "data": trained_on(plan, plan.open_data(run).table),
        "metrics": {split: {key: getattr(one, key) for key in _CARD_SCORES} for split, one in winner.scores.items()},
        "versions": metrics["versions"],
    }
    Bundle(plan.classes, loaded, card=card, sets=winner.rule).save(run.bundle)
    write_json(run.metrics, metrics)
    write_text(run.report, report)
    return MultilabelRunResults(metrics, report)


def _load(run: RunFolder, name: str) -> Member:
    return replace(load_bundle(run.member(name).bundle).members[0], name=name)


def _member(run: RunFolder, name: str) -> MultilabelResult:
    stored = {
        split: MultilabelPredictions.load(path) for split in _SPLITS if (path := run.predictions(name, split)).is_file()
    }
    summary = run.member(name).summary()
    return MultilabelResult(name, (name,), MultilabelRule("single", (summary["threshold"],)), stored, summary)


def _fuse(method: MultilabelMethod, members: Sequence[MultilabelResult], plan: Plan) -> MultilabelResult:
    """Fuse the members; a mean score gets a threshold of its own, a vote needs none."""
    said = {
        split: _fused(method, [member.predictions[split] for member in members])
        for split in _SPLITS
        if all(split in member.predictions for member in members)
    }
    rule = MultilabelRule(method, tuple(member.rule.thresholds[0] for member in members))
    if method == "average":
        rule = replace(rule, threshold=best_threshold(said["validation"], plan.monitor))
        seed, folds = plan.run.seed, plan.fusion.folds
        fitted = cross_fitted_multilabel(said["validation"], plan.monitor, folds=folds, seed=seed)
        said = {split: one.with_chosen(one.scores > rule.threshold) for split, one in said.items()}
        said["validation"] = fitted
    cost = {key: sum(member.summary[key] for member in members) for key in ("seconds", "parameters")}
    return MultilabelResult(method, tuple(member.name for member in members), rule, said, cost)


def _fused(method: MultilabelMethod, members: Sequence[MultilabelPredictions]) -> MultilabelPredictions:
    scores = combine_scores(method, members)
    return replace(members[0], scores=scores, chosen=scores > DECODER_THRESHOLD)


def _best(results: Sequence[MultilabelResult], plan: Plan) -> MultilabelResult:
    """Return the best on the split that chooses; the earlier one at equal scores and losses."""
    best = results[0]
    for one in results[1:]:
        new, old = (score_multilabel(result.predictions[plan.monitor_split]).monitored() for result in (one, best))
        best = one if is_better(plan.monitor, new, old) else best
    return best


def _metrics(
    run: RunFolder,
    plan: Plan,
    members: Sequence[MultilabelResult],
    fused: Sequence[MultilabelResult],
    *,
    best: str,
    chosen: str,
) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "bundle": str(run.bundle),
        "data": data_card(plan),
        "protocol": {"monitor": plan.monitor, "monitor_split": plan.monitor_split, "seed": plan.run.seed},
        "members": [one.to_dict() for one in members],
        "ensembles": [one.to_dict() for one in fused],
        "best_member": best,
        "chosen": chosen,
        "calibration": None,
        "comparison": None,
        "versions": describe_environment()["packages"],
    }


def _report(
    plan: Plan,
    members: Sequence[MultilabelResult],
    fused: Sequence[MultilabelResult],
    *,
    best: MultilabelResult,
    winner: MultilabelResult,
) -> str:
    parts = [CHOSEN_ON_TEST] if plan.monitor_split == "test" else []
    for split in _SPLITS:
        rows = [
            MultilabelRow(
                one.name,
                "ensemble" if one in fused else "member",
                one.scores[split],
                one.summary["seconds"],
                one.summary["parameters"],
                one is winner,
            )
            for one in (*members, *fused)
            if split in one.scores
        ]
        if rows:
            title = f"{plan.data}, sets of {len(plan.classes)} labels: {TITLES[plan.monitor_split, split]}"
            parts.append(as_text(multilabel_table(rows, title=title, note=f"chosen on {plan.monitor_split}")))
    if winner is not best:
        alone, together = (score_multilabel(one.predictions[plan.monitor_split]).monitored() for one in (best, winner))
        if is_better(plan.monitor, alone, together):
            name = printable(best.name)
            parts.append(
                f"On {plan.monitor_split} {name} alone is better than every ensemble; its own bundle is beside.\n"
            )
    parts.append("Scores of sets of labels are not calibrated.\n")
    parts += left_out(plan)
    split = "test" if "test" in winner.scores else "validation"
    title = f"{winner.name} by label on {split}"
    parts.append(as_text(labels_table(winner.predictions[split], title=title)))
    return "\n".join(parts)
