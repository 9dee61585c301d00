"""Finish a cross-validation: pool held-out predictions, score and calibrate, make metrics, report and bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tercet.core.output import printable
from tercet.core.predictions import Predictions
from tercet.core.runtime import describe_environment
from tercet.data.copies import torn_copies, torn_folds
from tercet.data.data_module import held_out_digest
from tercet.data.run_reader import CHOSEN
from tercet.ensemble.combiners import FOLD_MEAN
from tercet.experiments.calibrate import CalibrationResult, fit_calibration
from tercet.experiments.copy_scores import copy_scores, copy_warnings
from tercet.experiments.crossval_pooled import PooledResult, PooledResults, pool
from tercet.experiments.finalize import data_notes
from tercet.experiments.fit_ensemble import groups_of
from tercet.experiments.fold_runs import FoldRuns
from tercet.metrics.classification import score
from tercet.metrics.metric import fold_spread
from tercet.metrics.significance import Comparison, compare
from tercet.metrics.tables import ResultRow, comparison_text, mistakes_text, results_table, spread_table

_ON_TEST = (
    "WARNING: epochs and ensembles were selected on the held-out folds themselves (monitor_split: test), as in some\n"
    "papers and competitions. The fold scores below are optimistic.\n"
)
_UNCALIBRATED = (
    "The bundle is not calibrated: averaging lowers confidence, so its temperature must be fitted on images that no\n"
    "fold used. Set some aside with --calibration-fraction.\n"
)


def finalize_folds(runs: FoldRuns) -> tuple[dict[str, Any], str]:
    """Combine the finished folds; write predictions and bundle, and return metrics and report."""
    pooled = pool(runs)
    for result in (*pooled.members, *pooled.ensembles, pooled.chosen):
        result.pooled.save(runs.root.predictions(result.name, "pooled"))
    candidates = {"validation": pooled.validation, "test": pooled.test.get(FOLD_MEAN)}
    fold_mean = {split: predictions for split, predictions in candidates.items() if predictions is not None}
    for split, predictions in fold_mean.items():
        predictions.save(runs.root.predictions(FOLD_MEAN, split))
    labelled = {split: predictions for split, predictions in fold_mean.items() if predictions.known.any()}
    calibrated = _calibrate(pooled, labelled)
    comparison = compare(pooled.chosen.pooled, pooled.best.pooled) if pooled.ensembles else None
    copies = _copies(pooled, labelled)
    metrics = {**_metrics(pooled, comparison, calibrated), "copies": copies}
    report = "\n".join([*copy_warnings(copies), ""]) + _report(pooled, comparison, calibrated)
    if calibrated is not None:  # the card holds the scores of the bundle's own, calibrated predictions
        labelled = {split: calibrated.calibration.apply(predictions) for split, predictions in labelled.items()}
        labelled["validation"] = calibrated.validation
    scores = {"pooled": pooled.chosen.overall}
    scores |= {split: score(predictions) for split, predictions in labelled.items()}
    card = {
        "data": {**runs.plan.data_card(pooled.data.table), "held_out": metrics["data"]["held_out"]},
        "metrics": {name: values.card() for name, values in scores.items()},
        "versions": metrics["versions"],
    }
    calibration = None if calibrated is None else calibrated.calibration
    replace(pooled.bundle, card=card, calibration=calibration).save(runs.root.bundle)
    return metrics, report


def _copies(pooled: PooledResults, labelled: Mapping[str, Predictions]) -> dict[str, Any]:
    """Return the scores without images that have copies in other folds, or in another split."""
    folds, table = torn_folds(pooled.data.table), pooled.data.table
    torn = {**({} if folds is None else {"pooled": folds}), **torn_copies(table)}
    predictions = {"pooled": pooled.chosen.pooled, **labelled}
    return copy_scores(torn, {part: [values] for part, values in predictions.items()})


def _calibrate(pooled: PooledResults, fold_mean: Mapping[str, Predictions]) -> CalibrationResult | None:
    """Calibrate the average; it is less confident than the folds, so their temperatures do not apply."""
    if "validation" not in fold_mean:
        return None
    plan = pooled.runs.plan
    return fit_calibration(
        fold_mean,
        pooled.runs.calibration,
        method=FOLD_MEAN,
        fitted_on_validation=False,
        folds=plan.fusion.folds,
        seed=plan.run.seed,
        groups=groups_of(fold_mean["validation"], pooled.data),
    )


def _metrics(
    pooled: PooledResults, comparison: Comparison | None, calibrated: CalibrationResult | None
) -> dict[str, Any]:
    runs, plan = pooled.runs, pooled.runs.plan
    test = {name: score(values) for name, values in pooled.test.items() if values.known.any()}
    return {
        "run": str(runs.root.path),
        "bundle": str(runs.root.bundle),
        "data": {**plan.data_card(), "held_out": held_out_digest(pooled.data.table)},
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
                "chosen": pooled.fold_metrics[fold.name]["chosen"],
                "best_member": pooled.fold_metrics[fold.name]["best_member"],
                "unlearned": list(fold.unlearned),
                **pooled.chosen.scores[fold.name],
            }
            for fold in runs.folds
        ],
        "pooled": pooled.chosen.overall,
        **fold_spread(list(pooled.chosen.scores.values())),
        "members": [result.to_dict() for result in pooled.members],
        "ensembles": [result.to_dict() for result in pooled.ensembles],
        "comparison": {"of": CHOSEN, "against": pooled.best.name, **comparison.to_dict()} if comparison else None,
        "test": test.pop(FOLD_MEAN, None),
        "test_by_fold": test,
        "calibration": calibrated.to_dict() if calibrated else None,
        "features": pooled.features,
        "versions": describe_environment()["packages"],
    }


def _report(pooled: PooledResults, comparison: Comparison | None, calibrated: CalibrationResult | None) -> str:
    runs, plan = pooled.runs, pooled.runs.plan
    chosen = [pooled.chosen] if len(pooled.members) > 1 else []
    models = [*pooled.members, *pooled.ensembles, *chosen]
    sections = [_ON_TEST] if plan.monitor_split == "test" else []
    title = f"{plan.data}: {len(runs.folds)} folds ({runs.how}), all held-out images"
    split = "the held-out fold itself (OPTIMISTIC)" if plan.monitor_split == "test" else plan.monitor_split
    note = f"each fold's model, chosen on {split}"
    sections.append(results_table([_row(result, pooled) for result in models], title=title, note=note).to_text())
    sections.append(results_table(_fold_rows(pooled), title=f"{CHOSEN} by held-out fold").to_text())
    rows = [result.to_dict() for result in models]
    sections.append(spread_table(rows, title="mean ± standard deviation over folds").to_text())
    if comparison is not None:
        sections.append(comparison_text(comparison, CHOSEN, f"each fold's {pooled.best.name}") + "\n")
    sections.append(_bundle_section(pooled))
    sections.append(_calibration_section(pooled, calibrated))
    if rows_of_test := _test_rows(pooled.test):
        table = results_table(rows_of_test, title="test split (not used in any fold)", note="the bundle")
        sections.append(table.to_text())
    sections += [f"{printable(fold.unlearned_note())}\n" for fold in runs.folds if fold.unlearned]
    sections += data_notes(plan)
    sections.append(mistakes_text(pooled.chosen.pooled, model=f"{CHOSEN} on all held-out images"))
    return "\n".join(sections)


def _row(result: PooledResult, pooled: PooledResults) -> ResultRow:
    is_chosen = result is pooled.chosen or len(pooled.members) == 1
    return ResultRow(result.name, result.kind, result.overall, result.seconds, result.parameters, is_chosen)


def _fold_rows(pooled: PooledResults) -> list[ResultRow]:
    has_choice = len(pooled.members) > 1
    return [
        ResultRow(
            f"{fold.title}: {pooled.fold_metrics[fold.name]['chosen']}" if has_choice else fold.title,
            "member",
            pooled.chosen.scores[fold.name],
        )
        for fold in pooled.runs.folds
    ]


def _test_rows(test: Mapping[str, Predictions]) -> list[ResultRow]:
    return [
        ResultRow(name, "ensemble" if name == FOLD_MEAN else "member", score(predictions), chosen=name == FOLD_MEAN)
        for name, predictions in test.items()
        if predictions.known.any()
    ]


def _calibration_section(pooled: PooledResults, calibrated: CalibrationResult | None) -> str:
    if calibrated is not None:
        return calibrated.to_text(FOLD_MEAN)
    if pooled.validation is None:
        return _UNCALIBRATED
    return "The bundle is not calibrated: no calibration was requested, or too few images were set aside for it.\n"


def _bundle_section(pooled: PooledResults) -> str:
    """Describe the bundle, and the images on which it can be evaluated."""
    folds, networks = len(pooled.runs.folds), len(pooled.bundle.members)
    description = f"The bundle averages the predictions of {folds} folds ({networks} networks)."
    if pooled.test:
        return f"{description} No fold used the test split.\n"
    images = "all images" if pooled.validation is None else "all images except those set aside for calibration"
    return (
        f"{description}\nIt was trained on {images}: evaluate it on new data.\n"
        "The scores above are those of the fold models.\n"
    )
