"""The end of a run: fuse, choose on validation, look at the test split once, write the report and the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tercet.core.files import write_json, write_text
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import describe_environment
from tercet.core.streams import printable
from tercet.data.data_module import DataModule
from tercet.data.table import SampleTable
from tercet.ensemble.bundle import Bundle
from tercet.ensemble.cross_fit import choose
from tercet.experiments.calibrate import CalibrationResult, fit_calibration
from tercet.experiments.data_summary import data_card, trained_on
from tercet.experiments.fit_ensemble import (
    FittedEnsemble,
    TrainedMember,
    bundle_of,
    choose_ensemble,
    fit_ensembles,
    fitted_within_one_group,
    groups_of,
    learned_from_validation,
    read_members,
    select_members,
    validation_groups,
)
from tercet.experiments.plan import Plan
from tercet.experiments.tta import TTAChoice, choose_tta
from tercet.metrics.classification import is_better, score
from tercet.metrics.significance import Comparison, compare
from tercet.metrics.tables import ResultRow, as_text, comparison_text, pairs_table, results_table

TITLES = {
    ("validation", "validation"): "validation (what chooses; fitted ensembles are cross-fitted)",
    ("validation", "test"): "test (looked at once)",
    ("test", "validation"): "validation (fitted ensembles are cross-fitted)",
    ("test", "test"): "test (WHAT CHOSE: optimistic)",
}
"""By the split that chooses, and the split that is shown."""
CHOSEN_ON_TEST = (
    "WARNING: epochs and ensemble were chosen on the test split (monitor_split: test). The test scores below are\n"
    "optimistic and must not be compared with scores on images that chose nothing.\n"
)
"""What a report begins with where the test split chose."""
_ONE_GROUP = (
    "The validation images are of one group, so that nothing tells how what was fitted on them ({ways}) does on\n"
    "another; these ways were measured and not chosen.\n"
)
CARD_SCORES = ("n", "accuracy", "macro_f1", "kappa", "log_loss", "ece")
"""The scores that a bundle's manifest tells."""


@dataclass(frozen=True)
class RunResults:
    """What came out of a run."""

    plan: Plan
    """What was asked."""
    members: tuple[TrainedMember, ...]
    """Everyone trained."""
    ensembles: tuple[FittedEnsemble, ...]
    """Every way in which they, or the best of them, were fused; none where there is one member."""
    best: TrainedMember
    """The member that is best on the split that chooses."""
    chosen: FittedEnsemble | None
    """The ensemble that is best there; None where there is one member."""
    tta: TTAChoice | None
    """What test-time augmentation gains, where it was asked for."""
    metrics: Mapping[str, Any]
    """What `metrics.json` holds."""
    report: str
    """The report as text."""
    unsound: tuple[str, ...] = ()
    """Ways to fuse that were fitted and scored within a single group, and therefore not chosen."""
    calibrated: CalibrationResult | None = None
    """What was fitted to the probabilities of what is shipped; all scores but its own are from before."""

    @property
    def winner(self) -> FittedEnsemble | TrainedMember:
        """What is shipped."""
        return self.chosen or self.best

    @property
    def name(self) -> str:
        """The name of what is shipped."""
        return self.chosen.method if self.chosen else self.best.name

    def comparison(self) -> Comparison | None:
        """Compare the chosen ensemble with the best member, on the test split where it has labels."""
        if self.chosen is None:
            return None
        split = _last_labelled(self.chosen.predictions)
        return compare(self.chosen.predictions[split], self.best.predictions[split])


def finalize(
    run: RunFolder, plan: Plan, prepared: DataModule | None, members: Sequence[TrainedMember] = ()
) -> RunResults:
    """Fuse the members of a run (or the ones given), choose, measure, and write everything down."""
    tta = None if members else choose_tta(run, plan)
    trained = list(members) or read_members(
        run, [member.name for member in plan.members], ("validation", "test", "train")
    )
    selected = select_members(trained, plan.fusion.num_members, plan.monitor)
    ensembles = (
        fit_ensembles(selected, plan.run.ensemble_methods, plan=plan, prepared=prepared) if len(selected) > 1 else []
    )
    groups = validation_groups(selected, prepared)
    for one in ensembles:
        for split, said in one.predictions.items():
            said.save(run.predictions(one.method, split))
    best = choose({member.name: score(member.predictions[plan.monitor_split]) for member in selected}, plan.monitor)
    conclusion = RunResults(
        plan,
        tuple(trained),
        tuple(ensembles),
        next(member for member in selected if member.name == best),
        choose_ensemble(ensembles, plan.monitor, split=plan.monitor_split, groups=groups) if ensembles else None,
        tta,
        {},
        "",
        tuple(
            one.method
            for one in ensembles
            if plan.monitor_split == "validation" and fitted_within_one_group(one, groups)
        ),
    )
    conclusion = replace(conclusion, calibrated=_calibrate(conclusion, prepared))
    conclusion = replace(conclusion, metrics=_metrics(run, conclusion))
    conclusion = replace(conclusion, report=_report(conclusion))
    table = (prepared or plan.open_data(run)).table
    _bundle(conclusion, selected, table).save(run.bundle)
    write_json(run.metrics, conclusion.metrics)
    write_text(run.report, conclusion.report)
    return conclusion


def _calibrate(conclusion: RunResults, prepared: DataModule | None) -> CalibrationResult | None:
    plan, chosen = conclusion.plan, conclusion.chosen
    said = conclusion.winner.predictions
    return fit_calibration(
        said,
        plan.calibration,
        method=conclusion.name,
        taken=chosen is not None and learned_from_validation(chosen),
        folds=plan.fusion.folds,
        seed=plan.run.seed,
        groups=groups_of(said["validation"], prepared),
    )


def _bundle(conclusion: RunResults, selected: Sequence[TrainedMember], table: SampleTable) -> Bundle:
    said, found = conclusion.winner.predictions, conclusion.calibrated
    if found is not None:  # the card tells what the bundle answers
        said = {split: found.calibration.apply(one) for split, one in said.items()} | {"validation": found.validation}
    scores = {split: {key: values[key] for key in CARD_SCORES} for split, values in _scores(said).items()}
    card = {"data": trained_on(conclusion.plan, table), "metrics": scores, "versions": conclusion.metrics["versions"]}
    calibration = None if found is None else found.calibration
    if conclusion.chosen is None:
        return Bundle(conclusion.plan.classes, (conclusion.best.load(),), card=card, calibration=calibration)
    return replace(bundle_of(conclusion.chosen, selected), card=card, calibration=calibration)


def _last_labelled(predictions: Mapping[str, Predictions]) -> str:
    """Return test where its labels are known, else validation."""
    return "test" if "test" in predictions and predictions["test"].known.any() else "validation"


def _scores(predictions: Mapping[str, Predictions]) -> dict[str, Any]:
    return {
        split: score(said).to_dict()
        for split, said in predictions.items()
        if split in ("validation", "test") and said.known.any()
    }


def left_out(plan: Plan) -> list[str]:
    """Return the paragraph of a report on images that were not used; none where all were."""
    if not plan.notes:
        return []
    more = f"\n  ... and {len(plan.notes) - 20} more (metrics.json names all)" if len(plan.notes) > 20 else ""
    return ["left out of the data:\n" + "\n".join(f"  {printable(note)}" for note in plan.notes[:20]) + more]


def _metrics(run: RunFolder, conclusion: RunResults) -> dict[str, Any]:
    plan, comparison = conclusion.plan, conclusion.comparison()
    return {
        "run": str(run.path),
        "bundle": str(run.bundle),
        "data": data_card(plan),
        "protocol": {"monitor": plan.monitor, "monitor_split": plan.monitor_split, "seed": plan.run.seed},
        "tta": conclusion.tta.to_dict() if conclusion.tta else None,
        "members": [
            {"name": member.name, **member.summary, **_scores(member.predictions)} for member in conclusion.members
        ],
        "ensembles": [
            {
                "name": one.method,
                "members": list(one.members),
                "fitted_on": one.fitted_on,
                "seconds": one.seconds,
                "parameters": one.parameters,
                **_scores(one.predictions),
            }
            for one in conclusion.ensembles
        ],
        "best_member": conclusion.best.name,
        "chosen": conclusion.name,
        "not_chosen": list(conclusion.unsound),
        "calibration": conclusion.calibrated.to_dict() if conclusion.calibrated else None,
        "comparison": {"of": conclusion.name, "against": conclusion.best.name, **comparison.to_dict()}
        if comparison
        else None,
        "versions": describe_environment()["packages"],
    }


def _rows(conclusion: RunResults, split: str) -> list[ResultRow]:
    rows: list[ResultRow] = []
    results: list[FittedEnsemble | TrainedMember] = [*conclusion.members, *conclusion.ensembles]
    for one in results:
        if split in one.predictions and one.predictions[split].known.any():
            name = one.name if isinstance(one, TrainedMember) else one.method
            kind = "member" if isinstance(one, TrainedMember) else "ensemble"
            scores = score(one.predictions[split])
            rows.append(ResultRow(name, kind, scores, one.seconds, one.parameters, one is conclusion.winner))  # type: ignore[arg-type]
    return rows


def _report(conclusion: RunResults) -> str:
    plan, chosen, best = conclusion.plan, conclusion.chosen, conclusion.best
    parts = [CHOSEN_ON_TEST] if plan.monitor_split == "test" else []
    parts += [conclusion.tta.to_text()] if conclusion.tta else []
    for split in ("validation", "test"):
        if rows := _rows(conclusion, split):
            title = f"{plan.data}: {TITLES[plan.monitor_split, split]}"
            table = results_table(rows, title=title, note=f"chosen on {plan.monitor_split}")
            parts.append(as_text(table))
    if conclusion.unsound:
        parts.append(_ONE_GROUP.format(ways=", ".join(conclusion.unsound)))
    comparison = conclusion.comparison()
    if chosen is not None and comparison is not None:
        parts.append(comparison_text(comparison, chosen.method, best.name) + "\n")
        alone, fused = (score(one.predictions[plan.monitor_split]).monitored() for one in (best, chosen))
        if is_better(plan.monitor, alone, fused):
            better = printable(best.name)
            parts.append(
                f"On {plan.monitor_split} {better} alone is better than every ensemble; its own bundle is beside.\n"
            )
    if conclusion.calibrated is not None:
        parts.append(conclusion.calibrated.to_text(printable(conclusion.name)))
    said = conclusion.winner.predictions
    split = _last_labelled(said)
    mistakes = as_text(pairs_table(said[split], limit=5))
    parts += left_out(plan)
    parts.append(f"most frequent mistakes of {printable(conclusion.name)} on {split}\n{mistakes}")
    return "\n".join(parts)
