"""The end of a cross-validation: pooled predictions, the mean of the folds as one bundle, scores, and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tercet.core.files import write_json, write_text
from tercet.core.predictions import Predictions
from tercet.core.runtime import describe_environment
from tercet.core.streams import printable
from tercet.data.data_module import held_out_digest
from tercet.data.run_reader import CHOSEN
from tercet.ensemble.combiners import FOLD_MEAN, FoldMean
from tercet.experiments.calibrate import CalibrationResult, fit_calibration
from tercet.experiments.crossval_pooled import PooledResult, PooledResults, pool
from tercet.experiments.data_summary import data_card, trained_on
from tercet.experiments.finalize import CARD_SCORES, left_out
from tercet.experiments.fit_ensemble import groups_of
from tercet.experiments.fold_runs import FoldRuns
from tercet.metrics.classification import score
from tercet.metrics.significance import Comparison, compare
from tercet.metrics.tables import ResultRow, as_text, comparison_text, pairs_table, results_table, spread, spread_table

_ON_TEST = (
    "WARNING: epochs and ensembles were chosen on the held-out folds themselves (monitor_split: test), as papers and\n"
    "competitions do. The scores of the folds below are optimistic.\n"
)
_UNCALIBRATED = (
    "The bundle is not calibrated: a mean is less sure than its parts, and only images that no fold saw could tell by\n"
    "how much (--calibration-fraction keeps some).\n"
)


@dataclass(frozen=True)
class CrossvalResults:
    """What came out of a cross-validation."""

    pooled: PooledResults
    """Predictions and the bundle."""
    metrics: Mapping[str, Any]
    """What `metrics.json` holds."""
    report: str
    """The report as text."""


def finalize_folds(runs: FoldRuns) -> CrossvalResults:
    """Put the concluded folds together, and write everything down."""
    pooled = pool(runs)
    for result in (*pooled.members, *pooled.ensembles, pooled.chosen):
        result.pooled.save(runs.whole.predictions(result.name, "pooled"))
    seen_by_none = {"validation": pooled.validation, "test": pooled.test.get(FOLD_MEAN)}
    for split, said in seen_by_none.items():
        if said is not None:
            said.save(runs.whole.predictions(FOLD_MEAN, split))
    alone = {split: said for split, said in seen_by_none.items() if said is not None and said.known.any()}
    calibrated = _calibrate(pooled, alone)
    comparison = compare(pooled.chosen.pooled, pooled.best.pooled) if pooled.ensembles else None
    metrics = _metrics(pooled, comparison, calibrated)
    report = _report(pooled, comparison, calibrated)
    if calibrated is not None:  # the card tells what the bundle answers
        alone = {split: calibrated.calibration.apply(said) for split, said in alone.items()}
        alone["validation"] = calibrated.validation
    measured = {"pooled": metrics["pooled"], **{name: score(said).to_dict() for name, said in alone.items()}}
    card = {
        "data": {**trained_on(runs.plan, pooled.whole.table), "held_out": metrics["data"]["held_out"]},
        "metrics": {name: {key: values[key] for key in CARD_SCORES} for name, values in measured.items()},
        "versions": metrics["versions"],
    }
    calibration = None if calibrated is None else calibrated.calibration
    replace(pooled.bundle, card=card, calibration=calibration).save(runs.whole.bundle)
    write_json(runs.whole.metrics, metrics)
    write_text(runs.whole.report, report)
    return CrossvalResults(pooled, metrics, report)


def _calibrate(pooled: PooledResults, alone: Mapping[str, Predictions]) -> CalibrationResult | None:
    """Calibrate the mean on rows that no fold saw: it is less sure than its parts, so that theirs would not do."""
    if "validation" not in alone:
        return None
    plan = pooled.runs.plan
    return fit_calibration(
        alone,
        pooled.runs.calibration,
        method=FOLD_MEAN,
        taken=False,
        folds=plan.fusion.folds,
        seed=plan.run.seed,
        groups=groups_of(alone["validation"], pooled.whole),
    )


def _metrics(
    pooled: PooledResults, comparison: Comparison | None, calibrated: CalibrationResult | None
) -> dict[str, Any]:
    runs, plan = pooled.runs, pooled.runs.plan
    test = {name: score(said).to_dict() for name, said in pooled.test.items() if said.known.any()}
    return {
        "run": str(runs.whole.path),
        "bundle": str(runs.whole.bundle),
        "data": {**data_card(plan), "held_out": held_out_digest(pooled.whole.table)},
        "protocol": {
            "folds": len(runs.folds),
            "how": runs.how,
            "monitor": plan.monitor,
            "monitor_split": plan.monitor_split,
            "seed": plan.run.seed,
        },
        "folds": [
            {
                "name": fold.name,
                "run": str(fold.run.path),
                "chosen": pooled.documents[fold.name]["chosen"],
                "best_member": pooled.documents[fold.name]["best_member"],
                "unlearned": list(fold.unlearned),
                **pooled.chosen.scores[fold.name].to_dict(),
            }
            for fold in runs.folds
        ],
        "pooled": pooled.chosen.overall.to_dict(),
        **spread(list(pooled.chosen.scores.values())),
        "members": [result.to_dict() for result in pooled.members],
        "ensembles": [result.to_dict() for result in pooled.ensembles],
        "comparison": {"of": CHOSEN, "against": pooled.best.name, **comparison.to_dict()} if comparison else None,
        "test": test.pop(FOLD_MEAN, None),
        "test_by_fold": test,
        "calibration": calibrated.to_dict() if calibrated else None,
        "versions": describe_environment()["packages"],
    }


def _report(pooled: PooledResults, comparison: Comparison | None, calibrated: CalibrationResult | None) -> str:
    runs, plan = pooled.runs, pooled.runs.plan
    chosen = [pooled.chosen] if len(pooled.members) > 1 else []
    everyone = [*pooled.members, *pooled.ensembles, *chosen]
    parts = [_ON_TEST] if plan.monitor_split == "test" else []
    title = f"{plan.data}: {len(runs.folds)} folds ({runs.how}), all held-out images together"
    note = f"each fold's own, chosen on {plan.monitor_split}" + (
        " (WHAT IS SCORED)" if plan.monitor_split == "test" else ""
    )
    parts.append(as_text(results_table([_row(result, pooled) for result in everyone], title=title, note=note)))
    parts.append(as_text(results_table(_fold_rows(pooled), title=f"{CHOSEN}, by held-out fold")))
    rows = {result.name: list(result.scores.values()) for result in everyone}
    parts.append(as_text(spread_table(rows, title="mean ± standard deviation over folds")))
    if comparison is not None:
        parts.append(comparison_text(comparison, CHOSEN, f"the {pooled.best.name} of each fold") + "\n")
    parts.append(_told_bundle(pooled))
    parts.append(_told_calibration(pooled, calibrated))
    if rows_of_test := _test_rows(pooled.test):
        table = results_table(rows_of_test, title="the data's own test split (looked at once)", note="the bundle")
        parts.append(as_text(table))
    parts += [
        f"{printable(fold.title)} alone shows {', '.join(map(printable, fold.unlearned))}: there they count as wrong\n"
        for fold in runs.folds
        if fold.unlearned
    ]
    parts += left_out(plan)
    mistakes = as_text(pairs_table(pooled.chosen.pooled, limit=5))
    parts.append(f"most frequent mistakes of {CHOSEN} on all held-out images\n{mistakes}")
    return "\n".join(parts)


def _row(result: PooledResult, pooled: PooledResults) -> ResultRow:
    shipped = result is pooled.chosen or len(pooled.members) == 1
    return ResultRow(result.name, result.kind, result.overall, result.seconds, result.parameters, shipped)


def _fold_rows(pooled: PooledResults) -> list[ResultRow]:
    several = len(pooled.members) > 1
    return [
        ResultRow(
            f"{fold.title}: {pooled.documents[fold.name]['chosen']}" if several else fold.title,
            "member",
            pooled.chosen.scores[fold.name],
        )
        for fold in pooled.runs.folds
    ]


def _test_rows(test: Mapping[str, Predictions]) -> list[ResultRow]:
    return [
        ResultRow(name, "ensemble" if name == FOLD_MEAN else "member", score(said), chosen=name == FOLD_MEAN)
        for name, said in test.items()
        if said.known.any()
    ]


def _told_calibration(pooled: PooledResults, calibrated: CalibrationResult | None) -> str:
    if calibrated is not None:
        return calibrated.to_text(FOLD_MEAN)
    if pooled.validation is None:
        return _UNCALIBRATED
    return "The bundle is not calibrated, though images were kept for it: none was asked for, or too few were kept.\n"


def _told_bundle(pooled: PooledResults) -> str:
    """Return what the bundle is, and what its own measure would be."""
    assert isinstance(pooled.bundle.combiner, FoldMean)
    count = len(pooled.bundle.members)
    told = f"The bundle is the mean of the answers of {len(pooled.runs.folds)} folds, {count} networks."
    if pooled.test:
        return f"{told} No fold saw the test split.\n"
    every = "Every image" if pooled.validation is None else "Every image but those kept for calibrating"
    return f"{told}\n{every} trained some of them, so only others can measure it;\nthe scores above are of its parts.\n"
