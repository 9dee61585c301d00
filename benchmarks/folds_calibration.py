r"""Calibration of the mean of folds by temperatures from held-out images and from test images.

    tercet crossval fashion-mnist --data-dir ../shared/data --folds 5 --data.limit 2000 --members small-cnn,row-lstm \
        --epochs 12 --lr 2e-3 --ensemble-methods average --output CV
    tercet crossval digits --folds 5 --data.test-fraction 0.4 --members small-cnn,row-lstm --epochs 20 --lr 2e-3 \
        --ensemble-methods average --output CV
    python benchmarks/folds_calibration.py CV [CV ...]

CV is a finished cross-validation with a test split outside all folds. For every member and for the models chosen by the
folds it reports the scores of all held-out images, and those of the mean of the folds on the test split: uncalibrated,
as the mean of calibrated folds, with one temperature from all held-out images, and with one from the test split itself,
cross-fitted. Results are written to benchmarks/results/.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from stored_results import run_benchmark, store_text
from tercet.core.predictions import Predictions, concatenate
from tercet.core.run_folder import RunFolder
from tercet.data.run_reader import CHOSEN
from tercet.ensemble.calibrate import (
    calibrate_probabilities,
    cross_fitted_temperature,
    fit_temperature,
    with_temperature,
)
from tercet.ensemble.combine import average
from tercet.experiments.crossval_pooled import PooledResults, pool
from tercet.experiments.fold_runs import FoldRuns
from tercet.metrics.classification import score

_HEADER = f"{'':44}{'n':>7}{'accuracy':>10}{'confidence':>12}{'ECE':>8}{'log loss':>10}{'Brier':>8}\n"


def line(name: str, predictions: Predictions) -> str:
    """Return the scores of predictions as a line of the table."""
    scores, confidence = score(predictions), predictions.probabilities.max(axis=1).mean()
    cells = f"{scores.n:>7}{scores.accuracy:>10.4f}{confidence:>12.4f}{scores.ece:>8.4f}{scores.log_loss:>10.4f}"
    return f"{name:<44}{cells}{scores.brier:>8.4f}\n"


def predict_test_split(pooled: PooledResults) -> dict[str, list[Predictions]]:
    """Return the test predictions of each fold, by member, and for the models chosen by the folds."""
    rows = pooled.data.rows("test")
    predictions = pooled.bundle.predict_member_batches(pooled.data.loader(rows, pooled.bundle.specs))
    by_name = {CHOSEN: [pooled.test[fold.title] for fold in pooled.runs.folds]}
    for member, member_predictions in zip(pooled.bundle.members, predictions, strict=True):
        by_name.setdefault(member.name.partition("/")[2], []).append(member_predictions)
    return {name: parts for name, parts in by_name.items() if len(parts) == len(pooled.runs.folds)}


def measure(folder: Path) -> str:
    """Return the table of one cross-validation."""
    runs = FoldRuns.load(RunFolder(folder))
    assert runs is not None, f"{folder} is not a cross-validation"
    pooled = pool(runs)
    lines = [f"{runs.plan.data}: {len(runs.folds)} folds\n{_HEADER}"]
    for name, parts in predict_test_split(pooled).items():
        names = {fold.name: pooled.fold_metrics[fold.name]["chosen"] if name == CHOSEN else name for fold in runs.folds}
        fitted = [Predictions.load(fold.run.predictions(names[fold.name], "validation")) for fold in runs.folds]
        held = [Predictions.load(fold.run.predictions(names[fold.name], "test")) for fold in runs.folds]
        fold_temperatures = [calibrate_probabilities(predictions).temperature for predictions in fitted]
        held_out, mean = concatenate(held), average(parts)
        pool_temperature, test_temperature = fit_temperature(held_out), fit_temperature(mean)
        calibrated_held, calibrated_parts = (
            [with_temperature(item, value) for item, value in zip(items, fold_temperatures, strict=True)]
            for items in (held, parts)
        )
        lines += [
            f"\n{name}: temperatures of the folds {', '.join(f'{T:.3f}' for T in np.sort(fold_temperatures))}\n",
            line("held-out images", held_out),
            line("held-out images, each fold calibrated", concatenate(calibrated_held)),
            line("test, mean of the folds", mean),
            line("test, mean of calibrated folds", average(calibrated_parts)),
            line(f"test, mean, T {pool_temperature:.3f} of held-out images", with_temperature(mean, pool_temperature)),
            line(f"test, mean, T {test_temperature:.3f} of test, cross-fitted", cross_fitted_temperature(mean)),
        ]
    return "".join(lines)


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit("give the folders of finished cross-validations")
    store_text("folds_calibration.txt", "\n".join(measure(Path(folder)) for folder in sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
