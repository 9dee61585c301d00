"""Calibrate the published Fashion-MNIST predictions of the E2E-3M paper: a temperature, prediction sets, rejecting.

    python benchmarks/calibration.py [FOLDER] [--seeds N]

FOLDER holds the `.npy` files of https://github.com/leonlha/e2e-3m; see published_predictions.py. Each seed draws the
10,000 images into quarters, stratified: one fits the temperature, one the quantiles and thresholds, and the other two
are the images that everything is measured on. Told are mean ± standard deviation over the seeds. Figures go to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from published_predictions import FOLDER, LABELS, MEMBERS, PREFIX
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


def quarters(said: Predictions, seed: int) -> tuple[Predictions, Predictions, Predictions]:
    """Return a quarter that fits, one that decides, and the half that is measured."""
    known, fresh = split_half(said, seed=seed)
    fitted, own = (said.take(known[rows]) for rows in split_half(said.take(known), seed=seed))
    return fitted, own, said.take(fresh)


def measure(said: Predictions, seed: int) -> dict[str, float | None]:
    """Return what one draw of the quarters gives."""
    fitted, own, fresh = quarters(said, seed)
    temperature = fit_temperature(fitted)
    before, after = score(fresh), score(with_temperature(fresh, temperature))
    found: dict[str, float | None] = {
        "temperature": temperature,
        "used": float(calibrate_probabilities(fitted).temperature != 1),
    }
    for key in ("ece", "log_loss", "brier"):
        found |= {f"{key} before": getattr(before, key), f"{key} after": getattr(after, key)}
    fitted, own, fresh = (with_temperature(part, temperature) for part in (fitted, own, fresh))
    right = fresh.predicted == fresh.labels
    for coverage in COVERAGES:
        rule = conformal(own, coverage)
        assert rule is not None
        sets = prediction_sets(fresh.probabilities, rule.quantile)
        found[f"held at {coverage:g}"] = float(sets[np.arange(len(fresh)), fresh.labels].mean())
        found[f"classes at {coverage:g}"] = float(sets.sum(axis=1).mean())
    for risk in RISKS:
        threshold = reject_threshold(own, risk, guide=fitted)
        kept = None if threshold is None else ~threshold.rejected(fresh.probabilities)
        found[f"answered at {risk:g}"] = None if kept is None else float(kept.mean())
        found[f"wrong at {risk:g}"] = None if kept is None else float(1 - right[kept].mean())
    return found


def told(values: list[float | None]) -> str:
    """Return mean ± standard deviation, and how often there was nothing."""
    there = [value for value in values if value is not None]
    if not there:
        return "never"
    spread = f" ± {np.std(there, ddof=1):.4f}" if len(there) > 1 else ""
    missing = len(values) - len(there)
    return f"{np.mean(there):.4f}{spread}" + (f" ({missing} of {len(values)}: none)" if missing else "")


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
    fused = {"average": average(members), "pruned": pruned(members), "vote": vote(members)}
    lines = [f"Fashion-MNIST test, published predictions; {arguments.seeds} seeds, 2,500 images fit the temperature,"]
    lines.append("2,500 the quantiles and thresholds, 5,000 are measured")
    kept: dict[str, Any] = {"seeds": arguments.seeds, "rows": {"fit": 2500, "own": 2500, "measured": 5000}}
    for name, said in {**dict(zip(MEMBERS, members, strict=True)), **fused}.items():
        draws = [measure(said, seed) for seed in range(arguments.seeds)]
        kept[name] = {key: [one[key] for one in draws] for key in draws[0]}
        lines += ["", f"{name}, accuracy {score(said).accuracy:.4f}"]
        lines += [f"  {key:<16} {told([one[key] for one in draws])}" for key in draws[0]]
    text = "\n".join(lines) + "\n"
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "calibration.json").write_text(json.dumps(kept, indent=1) + "\n")
    (results / "calibration.txt").write_text(text, "utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
