"""Calibration of the published Fashion-MNIST predictions of the E2E-3M paper: temperature, prediction sets, rejection.

    python benchmarks/calibration.py [FOLDER] [--seeds N]

FOLDER contains the `.npy` files of https://github.com/leonlha/e2e-3m; see published_predictions.py. Each seed splits
the 10,000 images into stratified quarters: one for the temperature, one for the quantiles and thresholds, and two for
evaluation. Reports mean ± standard deviation over the seeds; results are written to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from published_predictions import FOLDER, LABELS, MEMBERS, PREFIX
from stored_results import run_benchmark
from tercet.core.calibration import prediction_sets
from tercet.core.errors import DataError
from tercet.core.prediction_files import read_predictions
from tercet.core.predictions import Predictions
from tercet.ensemble.calibrate import (
    calibrate_probabilities,
    conformal,
    fit_temperature,
    reject_threshold,
    split_half,
    with_temperature,
)
from tercet.ensemble.combine import average, pruned, vote
from tercet.metrics.classification import score

COVERAGES, RISKS = (0.9, 0.95, 0.99), (0.01, 0.02)


def split_rows(predictions: Predictions, seed: int) -> tuple[Predictions, Predictions, Predictions]:
    """Return a quarter for the temperature, one for thresholds, and the half for evaluation."""
    fit_rows, test_rows = split_half(predictions, seed=seed)
    quarters = split_half(predictions.take(fit_rows), seed=seed)
    fitted, threshold_part = (predictions.take(fit_rows[rows]) for rows in quarters)
    return fitted, threshold_part, predictions.take(test_rows)


def measure(predictions: Predictions, seed: int) -> dict[str, float | None]:
    """Return the results of one random split."""
    fitted, threshold_part, test_part = split_rows(predictions, seed)
    temperature = fit_temperature(fitted)
    before, after = score(test_part), score(with_temperature(test_part, temperature))
    results: dict[str, float | None] = {
        "temperature": temperature,
        "used": float(calibrate_probabilities(fitted).temperature != 1),
    }
    for key in ("ece", "log_loss", "brier"):
        results |= {f"{key} before": getattr(before, key), f"{key} after": getattr(after, key)}
    fitted, threshold_part, test_part = (
        with_temperature(part, temperature) for part in (fitted, threshold_part, test_part)
    )
    right = test_part.predicted == test_part.labels
    for coverage in COVERAGES:
        rule = conformal(threshold_part, coverage)
        assert rule is not None
        sets = prediction_sets(test_part.probabilities, rule.quantile)
        results[f"held at {coverage:g}"] = float(sets[np.arange(len(test_part)), test_part.labels].mean())
        results[f"classes at {coverage:g}"] = float(sets.sum(axis=1).mean())
    for risk in RISKS:
        threshold = reject_threshold(threshold_part, risk, guide=fitted)
        accepted = None if threshold is None else ~threshold.rejected(test_part.probabilities)
        results[f"answered at {risk:g}"] = None if accepted is None else float(accepted.mean())
        results[f"wrong at {risk:g}"] = None if accepted is None else float(1 - right[accepted].mean())
    return results


def spread_text(values: list[float | None]) -> str:
    """Return mean ± standard deviation, and the number of missing values."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "never"
    spread = f" ± {np.std(numbers, ddof=1):.4f}" if len(numbers) > 1 else ""
    missing = len(values) - len(numbers)
    return f"{np.mean(numbers):.4f}{spread}" + (f" ({missing} of {len(values)}: none)" if missing else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=str(FOLDER))
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    try:
        files = [Path(arguments.folder) / f"{PREFIX}{name}.npy" for name in MEMBERS]
        members = [read_predictions(file, labels=LABELS) for file in files]
    except DataError as error:
        print(f"{error}; give the folder with the files of https://github.com/leonlha/e2e-3m", file=sys.stderr)
        return error.exit_code
    ensembles = {"average": average(members), "pruned": pruned(members), "vote": vote(members)}
    lines = [f"Fashion-MNIST test, published predictions; {arguments.seeds} seeds; 2,500 images for the temperature,"]
    lines.append("2,500 for quantiles and thresholds, 5,000 for evaluation")
    document: dict[str, Any] = {"seeds": arguments.seeds, "rows": {"fit": 2500, "own": 2500, "measured": 5000}}
    for name, predictions in {**dict(zip(MEMBERS, members, strict=True)), **ensembles}.items():
        splits = [measure(predictions, seed) for seed in range(arguments.seeds)]
        document[name] = {key: [split[key] for split in splits] for key in splits[0]}
        lines += ["", f"{name}, accuracy {score(predictions).accuracy:.4f}"]
        lines += [f"  {key:<16} {spread_text([split[key] for split in splits])}" for key in splits[0]]
    text = "\n".join(lines) + "\n"
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "calibration.json").write_text(json.dumps(document, indent=1) + "\n")
    (results / "calibration.txt").write_text(text, "utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(main))
