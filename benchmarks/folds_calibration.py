r"""How well the mean of folds is calibrated by what its parts could tell, and by images that no fold saw.

    tercet crossval fashion-mnist --data-dir ../shared/data --folds 5 --data.limit 2000 --members small-cnn,row-lstm \
        --epochs 12 --lr 2e-3 --ensemble-methods average --output CV
    tercet crossval digits --folds 5 --data.test-fraction 0.4 --members small-cnn,row-lstm --epochs 20 --lr 2e-3 \
        --ensemble-methods average --output CV
    python benchmarks/folds_calibration.py CV [CV ...]

CV is a finished cross-validation with a test split, which no fold saw. Told, for every member and for what the folds
chose, are the scores of all held-out images, each predicted by the fold that held it out, and those of the folds' mean
on the test split: as it is, as the mean of folds that are calibrated each, with one temperature from all held-out
images, and with one from the test split itself, cross-fitted. Figures go to benchmarks/results/.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tercet.core.files import write_text
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


def line(name: str, said: Predictions) -> str:
    """Return the scores of some predictions."""
    found, sure = score(said), said.probabilities.max(axis=1).mean()
    told = f"{found.n:>7}{found.accuracy:>10.4f}{sure:>12.4f}{found.ece:>8.4f}{found.log_loss:>10.4f}"
    return f"{name:<44}{told}{found.brier:>8.4f}\n"


def test_answers(pooled: PooledResults) -> dict[str, list[Predictions]]:
    """Return what each fold says of the test split, by member, and by its choice."""
    rows = pooled.data.rows("test")
    said = pooled.bundle.predict_member_batches(pooled.data.loader(rows, pooled.bundle.specs))
    found = {CHOSEN: [pooled.test[fold.title] for fold in pooled.runs.folds]}
    for member, one in zip(pooled.bundle.members, said, strict=True):
        found.setdefault(member.name.partition("/")[2], []).append(one)
    return {name: parts for name, parts in found.items() if len(parts) == len(pooled.runs.folds)}


def measure(folder: Path) -> str:
    """Return the lines about one cross-validation."""
    runs = FoldRuns.load(RunFolder(folder))
    assert runs is not None, f"{folder} is no cross-validation"
    pooled = pool(runs)
    lines = [f"{runs.plan.data}: {len(runs.folds)} folds\n{_HEADER}"]
    for name, parts in test_answers(pooled).items():
        own = {fold.name: pooled.fold_metrics[fold.name]["chosen"] if name == CHOSEN else name for fold in runs.folds}
        fitted = [Predictions.load(fold.run.predictions(own[fold.name], "validation")) for fold in runs.folds]
        held = [Predictions.load(fold.run.predictions(own[fold.name], "test")) for fold in runs.folds]
        of_parts = [calibrate_probabilities(said).temperature for said in fitted]
        whole, mean = concatenate(held), average(parts)
        of_pool, of_test = fit_temperature(whole), fit_temperature(mean)
        each = [with_temperature(said, one) for said, one in zip(held, of_parts, strict=True)]
        lines += [
            f"\n{name}: temperatures of the folds {', '.join(f'{one:.3f}' for one in np.sort(of_parts))}\n",
            line("held-out images", whole),
            line("held-out images, each fold calibrated", concatenate(each)),
            line("test, mean of the folds", mean),
            line(
                "test, mean of calibrated folds",
                average([with_temperature(said, one) for said, one in zip(parts, of_parts, strict=True)]),
            ),
            line(f"test, mean, T {of_pool:.3f} of held-out images", with_temperature(mean, of_pool)),
            line(f"test, mean, T {of_test:.3f} of test, cross-fitted", cross_fitted_temperature(mean)),
        ]
    return "".join(lines)


if __name__ == "__main__":
    told = "\n".join(measure(Path(place)) for place in sys.argv[1:])
    print(told, end="")
    write_text(Path(__file__).parent / "results" / "folds_calibration.txt", told)
