"""The end of a run: fuse, choose on validation, look at the test split once, write the report and the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tercet.deploy.bundle import Bundle
from tercet.evaluation.cross_fitting import choose
from tercet.evaluation.metrics import score
from tercet.evaluation.report import ResultRow, as_text, comparison_text, pairs_table, results_table
from tercet.evaluation.significance import Comparison, compare
from tercet.ground.files import write_json, write_text
from tercet.ground.runtime import describe_environment
from tercet.records.predictions import Predictions
from tercet.workflows.fusing import (
    Ensemble,
    TrainedMember,
    bundle_of,
    choose_ensemble,
    fuse,
    read_members,
    select_members,
)
from tercet.workflows.plan import Plan
from tercet.workflows.prepared import PreparedData
from tercet.workflows.run_folder import RunFolder


@dataclass(frozen=True)
class Conclusion:
    """What came out of a run."""

    metrics: Mapping[str, Any]
    report: str


def conclude(
    run: RunFolder, plan: Plan, prepared: PreparedData | None, members: Sequence[TrainedMember] = ()
) -> Conclusion:
    """Fuse the members of a run (or the ones given), choose, measure, and write everything down."""
    trained = list(members) or read_members(
        run, [member.name for member in plan.members], ("validation", "test", "train")
    )
    criterion = plan.criterion
    chooser = plan.selection
    selected = select_members(trained, plan.fusion.top, criterion)
    ensembles = fuse(selected, plan.run.fuse, plan=plan, prepared=prepared) if len(selected) > 1 else []
    for one in ensembles:
        for split, said in one.predictions.items():
            said.save(run.predictions(one.method, split))
    best = choose({member.name: score(member.predictions[chooser]) for member in selected}, criterion)
    best_member = next(member for member in selected if member.name == best)
    chosen = choose_ensemble(ensembles, criterion, split=chooser) if ensembles else None
    bundle = bundle_of(chosen, selected) if chosen else Bundle(*_single(best_member))
    metrics = _metrics(run, plan, trained, ensembles, chosen, best_member)
    card = {"data": metrics["data"], "metrics": _card_scores(chosen or best_member), "versions": metrics["versions"]}
    Bundle(bundle.classes, bundle.members, bundle.combiner, card).save(run.bundle)
    write_json(run.metrics, metrics)
    text = _report(plan, trained, ensembles, chosen, best_member, metrics)
    write_text(run.report, text)
    return Conclusion(metrics, text)


def _single(member: TrainedMember) -> tuple[Any, ...]:
    loaded = member.load()
    return member.predictions["validation"].classes, (loaded,)


def _scores(predictions: Mapping[str, Predictions]) -> dict[str, Any]:
    return {
        split: score(said).to_dict()
        for split, said in predictions.items()
        if split in ("validation", "test") and said.known.any()
    }


def _card_scores(result: Ensemble | TrainedMember) -> dict[str, Any]:
    return {
        split: {key: scores[key] for key in ("n", "accuracy", "macro_f1", "kappa", "log_loss", "ece")}
        for split, scores in _scores(result.predictions).items()
    }


def _metrics(
    run: RunFolder,
    plan: Plan,
    members: Sequence[TrainedMember],
    ensembles: Sequence[Ensemble],
    chosen: Ensemble | None,
    best: TrainedMember,
) -> dict[str, Any]:
    comparison = _compare(chosen, best)
    environment = describe_environment()
    first = members[0].predictions["validation"]
    return {
        "run": str(run.path),
        "bundle": str(run.bundle),
        "data": {
            "source": plan.data,
            "classes": list(first.classes),
            "fingerprint": plan.fingerprint,
            "split": {
                key: getattr(plan.data_config, key) for key in ("val_fraction", "test_fraction", "split_seed", "limit")
            },
        },
        "protocol": {
            "criterion": plan.criterion,
            "selection": plan.selection,
            "seed": plan.run.seed,
        },
        "members": [
            {
                **member.summary,
                "name": member.name,
                **_scores(member.predictions),
            }
            for member in members
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
            for one in ensembles
        ],
        "best_member": best.name,
        "chosen": chosen.method if chosen else best.name,
        "comparison": comparison.to_dict() if comparison else None,
        "versions": environment["packages"],
    }


def _compare(chosen: Ensemble | None, best: TrainedMember) -> Comparison | None:
    """Compare the chosen ensemble with the validation-best member, on the test split where it has labels."""
    if chosen is None:
        return None
    for split in ("test", "validation"):
        if split in chosen.predictions and chosen.predictions[split].known.any():
            return compare(chosen.predictions[split], best.predictions[split])
    return None


def _rows(split: str, members: Sequence[TrainedMember], ensembles: Sequence[Ensemble], chosen: str) -> list[ResultRow]:
    rows = [
        ResultRow(one.name, "member", score(one.predictions[split]), one.seconds, one.parameters, one.name == chosen)
        for one in members
        if split in one.predictions and one.predictions[split].known.any()
    ]
    return rows + [
        ResultRow(
            one.method, "ensemble", score(one.predictions[split]), one.seconds, one.parameters, one.method == chosen
        )
        for one in ensembles
        if split in one.predictions and one.predictions[split].known.any()
    ]


def _report(
    plan: Plan,
    members: Sequence[TrainedMember],
    ensembles: Sequence[Ensemble],
    chosen: Ensemble | None,
    best: TrainedMember,
    metrics: Mapping[str, Any],
) -> str:
    name = metrics["chosen"]
    parts = []
    if plan.selection == "test":
        parts.append(
            "WARNING: epochs and ensemble were chosen on the test split (selection: test). The test scores below are\n"
            "optimistic and must not be compared with scores on images that chose nothing.\n"
        )
    note = f"chosen on {plan.selection}"
    titles = {
        "validation": "validation (what chooses; fitted ensembles are cross-fitted)",
        "test": "test (looked at once)",
    }
    for split, title in titles.items():
        if rows := _rows(split, members, ensembles, name):
            parts.append(as_text(results_table(rows, title=f"{plan.data}: {title}", note=note)))
    comparison = _compare(chosen, best)
    if comparison is not None and chosen is not None:
        parts.append(comparison_text(comparison, chosen.method, best.name) + "\n")
    said = (chosen or best).predictions
    split = "test" if "test" in said and said["test"].known.any() else "validation"
    parts.append(as_text(pairs_table(said[split], most=5, title=f"most frequent mistakes of {name} on {split}")))
    return "\n".join(parts)
