"""Finish a run: fit ensembles, choose on validation, score the test split once, write report and bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tercet.core.output import printable
from tercet.core.predictions import Predictions
from tercet.core.progress import next_phase
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import describe_environment
from tercet.data.copies import torn_copies
from tercet.data.data_module import DataModule
from tercet.data.table import SampleTable
from tercet.ensemble.bundle import Bundle
from tercet.ensemble.choice import MEMBER, Choice
from tercet.experiments.calibrate import CalibrationResult, fit_calibration
from tercet.experiments.copy_scores import copy_scores, copy_warnings
from tercet.experiments.fit_ensemble import (
    FittedEnsemble,
    TrainedMember,
    bundle_of,
    fit_ensembles,
    groups_of,
    is_fitted_on_one_group,
    read_members,
    select_members,
)
from tercet.experiments.frozen import counts_of, sum_counts
from tercet.experiments.plan import Plan
from tercet.experiments.selection import ChanceLevel, best_member, choose_model, members_at_chance
from tercet.experiments.tta import TTAChoice, choose_tta
from tercet.metrics.classification import score
from tercet.metrics.metric import Scores
from tercet.metrics.significance import Comparison, compare
from tercet.metrics.tables import ResultRow, comparison_text, mistakes_text, results_table

TITLES = {
    ("validation", "validation"): "validation (used for selection; fitted ensembles are cross-fitted)",
    ("validation", "test"): "test (not used for any choice)",
    ("test", "validation"): "validation (fitted ensembles are cross-fitted)",
    ("test", "test"): "test (USED FOR SELECTION: optimistic)",
}
"""Table titles by monitored split and scored split."""
CHOSEN_ON_TEST = (
    "WARNING: epochs and ensemble were selected on the test split (monitor_split: test). The test scores below are\n"
    "optimistic; do not compare them with scores on images that were not used for selection.\n"
)
_ONE_GROUP = (
    "All validation images belong to one group, so the scores of methods fitted on them ({methods}) are\n"
    "optimistic for other groups. These methods were not considered for selection.\n"
)


@dataclass(frozen=True)
class RunResults:
    """Results of a run."""

    plan: Plan
    members: tuple[TrainedMember, ...]
    ensembles: tuple[FittedEnsemble, ...]
    """One per ensemble method; empty with a single member."""
    best: TrainedMember
    """The best single member on the monitored split."""
    choice: Choice
    """The shipped model and the best one."""
    chance: ChanceLevel
    """Members at chance level."""
    tta: TTAChoice | None
    """None if test-time augmentation was not requested."""
    metrics: Mapping[str, Any]
    """Content of `metrics.json`."""
    report: str
    not_chosen: tuple[str, ...] = ()
    """Methods that were not considered because they were fitted and scored on a single group."""
    calibrated: CalibrationResult | None = None
    """Calibration of the chosen model; all other scores are before calibration."""
    copies: Mapping[str, Any] = field(default_factory=dict)
    """Scores of the chosen model with and without images that have copies in another split; see `copy_scores`."""

    @property
    def chosen(self) -> FittedEnsemble | None:
        """The shipped ensemble; None if a single member is shipped."""
        names = [] if self.choice.shipped.complexity == MEMBER else [self.choice.shipped.name]
        return next((ensemble for ensemble in self.ensembles if ensemble.method in names), None)

    @property
    def against(self) -> FittedEnsemble | TrainedMember | None:
        """The model to compare the shipped one with: the best member; if it is shipped, the best or first ensemble."""
        if self.chosen is None:
            named = (ensemble for ensemble in self.ensembles if ensemble.method == self.choice.best.name)
            return next(named, self.ensembles[0] if self.ensembles else None)
        return self.best

    @property
    def winner(self) -> FittedEnsemble | TrainedMember:
        """The chosen model."""
        return self.chosen or self.best

    @property
    def name(self) -> str:
        """Name of the chosen model."""
        return self.choice.shipped.name

    def comparison(self) -> Comparison | None:
        """Compare the shipped model with `against`, on test if it has labels."""
        if self.against is None:
            return None
        split = _scored_split(self.winner.predictions)
        return compare(self.winner.predictions[split], self.against.predictions[split])


def finalize(
    run: RunFolder,
    plan: Plan,
    prepared: DataModule | None,
    members: Sequence[TrainedMember] = (),
) -> RunResults:
    """Combine the members of the run, or the given ones; choose, score, and write predictions and bundle."""
    tta = None if members else choose_tta(run, plan)
    trained = list(members) or read_members(
        run, [member.name for member in plan.members], ("validation", "test", "train")
    )
    chance = members_at_chance(plan, {member.name: member.predictions["validation"] for member in trained})
    kept = [member for member in trained if chance.keeps(member.name)]
    selected = select_members(kept, plan.fusion.num_members, plan.monitor)
    methods = plan.run.ensemble_methods if len(selected) > 1 else ()
    ensembles = fit_ensembles(selected, methods, plan=plan, prepared=prepared)
    groups = groups_of(selected[0].predictions["validation"], prepared)
    for ensemble in ensembles:
        for split, predictions in ensemble.predictions.items():
            predictions.save(run.predictions(ensemble.method, split))
    results = RunResults(
        plan,
        tuple(trained),
        tuple(ensembles),
        best_member(selected, plan),
        choose_model(selected, ensembles, plan, groups),
        chance,
        tta,
        {},
        "",
        tuple(
            ensemble.method
            for ensemble in ensembles
            if plan.monitor_split == "validation" and is_fitted_on_one_group(ensemble, groups)
        ),
    )
    next_phase("calibrating")
    results = replace(results, calibrated=_calibrate(results, prepared))
    table = (prepared or plan.open_data(run)).table
    scored = {split: [values] for split, values in results.winner.predictions.items() if values.known.any()}
    results = replace(results, copies=copy_scores(torn_copies(table), scored))
    results = replace(results, metrics=_metrics(run, results))
    results = replace(results, report=_report(results))
    next_phase("writing the bundle")
    _bundle(results, selected, table).save(run.bundle)
    return results


def _calibrate(results: RunResults, prepared: DataModule | None) -> CalibrationResult | None:
    plan, chosen = results.plan, results.chosen
    predictions = results.winner.predictions
    return fit_calibration(
        predictions,
        plan.calibration,
        method=results.name,
        fitted_on_validation=chosen is not None and chosen.fitted_on == "validation",
        folds=plan.fusion.folds,
        seed=plan.run.seed,
        groups=groups_of(predictions["validation"], prepared),
    )


def _bundle(results: RunResults, selected: Sequence[TrainedMember], table: SampleTable) -> Bundle:
    predictions, calibrated = results.winner.predictions, results.calibrated
    calibration = None if calibrated is None else calibrated.calibration
    if calibrated is not None:  # the card holds the scores of the bundle's own, calibrated predictions
        predictions = {split: calibrated.calibration.apply(values) for split, values in predictions.items()}
        predictions["validation"] = calibrated.validation
    scores = {split: values.card() for split, values in _scores(predictions).items()}
    card = {"data": results.plan.data_card(table), "metrics": scores, "versions": results.metrics["versions"]}
    if results.chosen is None:
        return Bundle(results.plan.classes, (results.best.load(),), card=card, calibration=calibration)
    return replace(bundle_of(results.chosen, selected), card=card, calibration=calibration)


def _scored_split(predictions: Mapping[str, Predictions]) -> str:
    """Return test if it has labels, else validation."""
    return "test" if "test" in predictions and predictions["test"].known.any() else "validation"


def _scores(predictions: Mapping[str, Predictions]) -> dict[str, Scores]:
    return {
        split: score(values)
        for split, values in predictions.items()
        if split in ("validation", "test") and values.known.any()
    }


def data_notes(plan: Plan) -> list[str]:
    """Return the section of the report on skipped files and rows; empty if there are none."""
    if not plan.notes:
        return []
    more = f"\n  ... and {len(plan.notes) - 20} more (see metrics.json)" if len(plan.notes) > 20 else ""
    return ["notes on the data\n" + "\n".join(f"  {printable(note)}" for note in plan.notes[:20]) + more + "\n"]


def _metrics(run: RunFolder, results: RunResults) -> dict[str, Any]:
    plan, comparison = results.plan, results.comparison()
    return {
        "run": str(run.path),
        "bundle": str(run.bundle),
        "data": plan.data_card(),
        "protocol": {"monitor": plan.monitor, "monitor_split": plan.monitor_split, "seed": plan.run.seed},
        "tta": results.tta.to_dict() if results.tta else None,
        "members": [
            {"name": member.name, **member.summary, **_scores(member.predictions)} for member in results.members
        ],
        "ensembles": [
            {
                "name": ensemble.method,
                "members": list(ensemble.members),
                "fitted_on": ensemble.describe_fit(),
                **({"note": ensemble.note} if ensemble.note else {}),
                "seconds": ensemble.seconds,
                "parameters": ensemble.parameters,
                **_scores(ensemble.predictions),
            }
            for ensemble in results.ensembles
        ],
        "best_member": results.best.name,
        "chosen": results.name,
        "choice": results.choice.to_dict(),
        "at_chance": results.chance.to_list(),
        "not_chosen": list(results.not_chosen),
        "calibration": results.calibrated.to_dict() if results.calibrated else None,
        "copies": dict(results.copies),
        "comparison": {"of": results.name, "against": _name(results.against), **comparison.to_dict()}
        if comparison
        else None,
        "features": sum_counts(counts_of(member.folder for member in results.members)),
        "versions": describe_environment()["packages"],
    }


def _rows(results: RunResults, split: str) -> list[ResultRow]:
    rows: list[ResultRow] = []
    models: list[FittedEnsemble | TrainedMember] = [*results.members, *results.ensembles]
    for model in models:
        if split in model.predictions and model.predictions[split].known.any():
            kind = "member" if isinstance(model, TrainedMember) else "ensemble"
            scores = score(model.predictions[split])
            rows.append(ResultRow(_name(model), kind, scores, model.seconds, model.parameters, model is results.winner))
    return rows


def _name(model: FittedEnsemble | TrainedMember | None) -> str:
    return "" if model is None else model.name if isinstance(model, TrainedMember) else model.method


def _report(results: RunResults) -> str:
    plan = results.plan
    sections = [CHOSEN_ON_TEST] if plan.monitor_split == "test" else []
    sections += copy_warnings(results.copies)
    sections += [results.tta.to_text()] if results.tta else []
    for split in ("validation", "test"):
        if rows := _rows(results, split):
            title = f"{plan.data}: {TITLES[plan.monitor_split, split]}"
            table = results_table(rows, title=title, note=f"chosen on {plan.monitor_split}")
            sections.append(table.to_text())
    if text := results.chance.to_text():
        sections.append(text)
    sections += [f"{ensemble.method}: {ensemble.note}\n" for ensemble in results.ensembles if ensemble.note]
    if results.not_chosen:
        sections.append(_ONE_GROUP.format(methods=", ".join(results.not_chosen)))
    if len(results.members) > 1:
        sections.append(results.choice.to_text() + "\n")
    comparison = results.comparison()
    if comparison is not None:
        sections.append(comparison_text(comparison, results.name, _name(results.against)) + "\n")
    if results.calibrated is not None:
        sections.append(results.calibrated.to_text(printable(results.name)))
    sections += data_notes(plan)
    predictions = results.winner.predictions
    split = _scored_split(predictions)
    sections.append(mistakes_text(predictions[split], model=f"{results.name} on {split}"))
    return "\n".join(sections)
