"""The calibration of what a run ships: fitted on validation rows, honest about which, and measured on the test split.

A temperature is scored by cross-fitting, so it may learn from every validation row. Threshold and prediction sets
promise something, and are fitted on rows of their own: where they are asked for, half of the validation rows fit the
temperature and lead the search for the threshold, and the other half decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tercet.config.run import CalibrationConfig
from tercet.core.calibration import Calibration
from tercet.core.errors import DataError
from tercet.core.predictions import Ints, Predictions, concatenate
from tercet.ensemble.calibrate import (
    calibrate_probabilities,
    check_coverage,
    conformal,
    cross_fitted_temperature,
    reject_threshold,
    split_half,
    with_temperature,
)
from tercet.metrics.classification import score

_TAKEN = (
    "no threshold and no prediction sets: {method} was fitted on all validation rows, and none is left that nothing "
    "was fitted on; fuse again without it, as tercet ensemble RUN --ensemble-methods average,pruned,vote does"
)
_NO_RISK = "no reject threshold: no threshold keeps errors at {risk:g} with {sure:.0%} confidence on {rows} rows"
_NO_COVERAGE = "no prediction sets: {rows} rows are too few for a coverage of {coverage:g}"
_GROUPED = "validation rows come in groups: threshold and sets are proved for images of these groups, not of new ones"


@dataclass(frozen=True)
class CalibrationResult:
    """What was fitted, and what it does."""

    calibration: Calibration
    """What the bundle keeps."""
    used: bool
    """Whether the temperature lowered the cross-fitted log loss."""
    validation: Predictions
    """The labelled validation rows, each by a temperature that never saw it."""
    test: Mapping[str, Any] | None
    """Scores on the test split before and after; None where it has no labels."""
    notes: tuple[str, ...] = ()
    """What could not be had and why, and what limits a promise."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = {**self.calibration.to_dict(), "used": self.used, "notes": list(self.notes)}
        return {**values, "test": None if self.test is None else dict(self.test)}

    def to_text(self, name: str) -> str:
        """Return what stands in a report."""
        one, reject, sets = self.calibration, self.calibration.reject, self.calibration.conformal
        lines = []
        if one.rows and self.used:
            lines.append(f"temperature {one.temperature:.3f}, fitted on {one.rows} validation images; cross-fitted")
            lines[-1] += f" there: ECE {_change(one.ece_before, one.ece_after)}"
            lines[-1] += f", log loss {_change(one.log_loss_before, one.log_loss_after)}"
        elif one.rows:
            lines.append(f"no temperature lowers the cross-fitted log loss of {one.rows} validation images: 1 is kept")
        test = self.test
        if test is not None and self.used:
            lines.append(f"calibrated, on test: ECE {_change(test['ece_before'], test['ece_after'])}")
            lines[-1] += f", log loss {_change(test['log_loss_before'], test['log_loss_after'])}"
        if reject is not None:
            where = f"rejected below {reject.threshold:.4f}" if reject.threshold else "nothing need be rejected"
            lines.append(f"{where}: of what is answered at most {reject.risk:g} is wrong")
            lines[-1] += f", with {reject.confidence:.0%} confidence ({reject.rows} validation images of its own: "
            lines[-1] += f"{reject.accepted:.1%} answered, {reject.errors:.2%} of them wrong)"
            if test is not None:
                lines.append(f"  on test {test['answered']:.1%} answered")
                wrong = test["errors_answered"]
                lines[-1] += "" if wrong is None else f", {wrong:.2%} of them wrong"
        if sets is not None:
            lines.append(f"prediction sets hold the true class for {sets.coverage:g} of the images")
            lines[-1] += f" (quantile {sets.quantile:.4f} of {sets.rows} validation images of their own)"
            if test is not None:
                lines.append(f"  on test {test['set_coverage']:.4f}, {test['set_size']:.2f} classes a set")
        lines += self.notes
        return "".join([f"calibration of {name}\n", *(f"  {line}\n" for line in lines)])


def fit_calibration(
    predictions: Mapping[str, Predictions],
    config: CalibrationConfig,
    *,
    method: str,
    taken: bool,
    folds: int = 5,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> CalibrationResult | None:
    """Calibrate what is shipped; None where nothing was asked for, or there is nothing to calibrate.

    Args:
        predictions: What it says by split, before; on validation fit to be scored.
        config: What is asked for.
        method: Its name.
        taken: Whether it was itself fitted on the validation rows.
        folds: Of the cross-fitting.
        seed: Of folds and halves.
        groups: Of the validation rows; they stay whole.
    """
    validation = predictions["validation"]
    rows = np.flatnonzero(validation.known)
    asked = config.guarantees or config.temperature == "auto"
    if not asked or len(rows) < 2 or len(validation.classes) < 2:
        return None
    split = config.guarantees and not taken and _wants_halves(config)
    try:
        fitted, own = split_half(validation, seed=seed, groups=groups) if split else (rows, rows)
    except DataError:
        return None
    cross = {"folds": folds, "seed": seed, "groups": None if groups is None else [groups[row] for row in fitted]}
    one, honest = _temperature(validation, config, fitted, own if split else rows[:0], **cross)
    notes: list[str] = [_TAKEN.format(method=method)] if config.guarantees and taken else []
    if config.guarantees and not taken:
        guide, clean = (with_temperature(validation.take(part), one.temperature) for part in (fitted, own))
        one, missing = _promises(one, config, guide, clean)
        notes += missing
        notes += [_GROUPED] if groups is not None and len(set(groups)) > 1 else []
    test = predictions.get("test")
    told = _on_test(test, one) if test is not None and test.known.any() else None
    return CalibrationResult(one, one.temperature != 1, honest, told, tuple(notes))


def _wants_halves(config: CalibrationConfig) -> bool:
    """Tell whether the rows that promise something must be other ones than those that fit."""
    return config.temperature == "auto" or config.reject_risk is not None


def _temperature(
    validation: Predictions, config: CalibrationConfig, fitted: Ints, others: Ints, **cross: Any
) -> tuple[Calibration, Predictions]:
    """Return the temperature of some rows, and all rows by temperatures that never saw them."""
    mine, rest = validation.take(fitted), validation.take(others)
    if config.temperature == "none" or len(mine) < 2:
        return Calibration(), concatenate([mine, rest])
    one = calibrate_probabilities(mine, **cross)
    if one.temperature == 1:
        return one, concatenate([mine, rest])
    return one, concatenate([cross_fitted_temperature(mine, **cross), with_temperature(rest, one.temperature)])


def _promises(
    one: Calibration, config: CalibrationConfig, guide: Predictions, clean: Predictions
) -> tuple[Calibration, list[str]]:
    notes = []
    if (risk := config.reject_risk) is not None:
        one = replace(one, reject=reject_threshold(clean, risk, guide=guide))
        if one.reject is None:
            notes.append(_NO_RISK.format(risk=risk, sure=0.95, rows=len(clean)))
    if (coverage := config.coverage) is not None:
        one = replace(one, conformal=conformal(clean, coverage))
        if one.conformal is None:
            notes.append(_NO_COVERAGE.format(rows=len(clean), coverage=coverage))
    return one, notes


def _on_test(test: Predictions, one: Calibration) -> dict[str, Any]:
    """Return what the calibration does to the test split, which no part of it was fitted on."""
    known = test.take(test.known)
    after = one.apply(known)
    values: dict[str, Any] = {"n": len(known)}
    for when, scores in (("before", score(known)), ("after", score(after))):
        values |= {f"{key}_{when}": getattr(scores, key) for key in ("ece", "log_loss", "brier")}
    return {**values, **check_coverage(after, one)}


def _change(before: float | None, after: float | None) -> str:
    return f"{before or 0:.4f} -> {after or 0:.4f}"
