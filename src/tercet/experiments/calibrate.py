"""Calibration of the chosen model: fitted on validation rows, measured on the test split.

The temperature is scored by cross-fitting, so it is fitted on all validation rows. Rejection threshold and prediction
sets come with guarantees and need rows that nothing else was fitted on: if they are requested, half of the validation
rows fit the temperature and guide the search for the threshold, and the other half fits threshold and sets.
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
    MIN_ROWS,
    calibrate_probabilities,
    check_coverage,
    conformal,
    cross_fitted_temperature,
    reject_threshold,
    split_half,
    with_temperature,
)
from tercet.metrics.classification import score

_NO_ROWS = (
    "no rejection threshold and no prediction sets: {method} was fitted on all validation images, so none are left to "
    "calibrate on; use another method, as in tercet ensemble RUN --ensemble-methods average,pruned,vote"
)
_NO_RISK = (
    "no rejection threshold: no threshold keeps the error rate at {risk:g} with {confidence:.0%} confidence (n={rows})"
)
_NO_COVERAGE = "no prediction sets: {rows} images are too few for a coverage of {coverage:g}"
_FEW_ROWS = "{rows} rows: no temperature (needs {least})"
_GROUPED = "the guarantees of threshold and sets hold for images of the validation groups, not for new groups"


@dataclass(frozen=True)
class CalibrationResult:
    """A fitted calibration and its effect."""

    calibration: Calibration
    """For the bundle."""
    used: bool
    """Whether the temperature lowered the cross-fitted log loss."""
    validation: Predictions
    """The labelled validation rows, each scaled by a temperature that was fitted without it."""
    test: Mapping[str, Any] | None
    """Scores on the test split before and after; None without labels."""
    notes: tuple[str, ...] = ()
    """Missing parts with the reason, and limits of the guarantees."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = {**self.calibration.to_dict(), "used": self.used, "notes": list(self.notes)}
        return {**values, "test": None if self.test is None else dict(self.test)}

    def to_text(self, name: str) -> str:
        """Return the section of the report."""
        lines = [*self._temperature_lines(), *self._guarantee_lines(), *self.notes]
        return "".join([f"calibration of {name}\n", *(f"  {line}\n" for line in lines)])

    def _temperature_lines(self) -> list[str]:
        calibration, test = self.calibration, self.test
        if calibration.rows and not self.used:
            n = calibration.rows
            return [f"temperature scaling does not improve the cross-fitted log loss (validation, n={n}): T = 1"]
        lines = []
        if calibration.rows:
            lines += [
                f"temperature {calibration.temperature:.3f}, fitted on {calibration.rows} validation images",
                f"  cross-fitted: ECE {_change(calibration.ece_before, calibration.ece_after)}, "
                f"log loss {_change(calibration.log_loss_before, calibration.log_loss_after)}",
            ]
        if test is not None and self.used:
            lines.append(
                f"  test:         ECE {_change(test['ece_before'], test['ece_after'])}, "
                f"log loss {_change(test['log_loss_before'], test['log_loss_after'])}"
            )
        return lines

    def _guarantee_lines(self) -> list[str]:
        lines, test = [], self.test
        if (reject := self.calibration.reject) is not None:
            threshold = f"reject below {reject.threshold:.4f}" if reject.threshold else "no rejection threshold needed"
            lines += [
                f"{threshold}: error rate of accepted images at most {reject.risk:g} "
                f"with {reject.confidence:.0%} confidence",
                f"  validation (n={reject.rows}): {reject.accepted:.1%} accepted, {reject.errors:.2%} of them wrong",
            ]
            if test is not None:
                errors = test["errors_accepted"]
                wrong = "" if errors is None else f", {errors:.2%} of them wrong"
                lines.append(f"  test: {test['accepted']:.1%} accepted{wrong}")
        if (sets := self.calibration.conformal) is not None:
            lines.append(
                f"prediction sets contain the true class with probability {sets.coverage:g} "
                f"(quantile {sets.quantile:.4f}, n={sets.rows})"
            )
            if test is not None:
                lines.append(f"  test: coverage {test['set_coverage']:.4f}, {test['set_size']:.2f} classes per set")
        return lines


def fit_calibration(
    predictions: Mapping[str, Predictions],
    config: CalibrationConfig,
    *,
    method: str,
    fitted_on_validation: bool,
    folds: int = 5,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> CalibrationResult | None:
    """Calibrate the chosen model; None if nothing was requested or the data are insufficient.

    Args:
        predictions: Its uncalibrated predictions by split; cross-fitted on validation if it was fitted there.
        config: Requested calibration.
        method: Its name.
        fitted_on_validation: Whether it was itself fitted on the validation rows.
        folds: Number of folds for cross-fitting.
        seed: Seed of folds and halves.
        groups: Groups of the validation rows, which are not split.
    """
    validation = predictions["validation"]
    rows = np.flatnonzero(validation.known)
    requested = config.guarantees or config.temperature == "auto"
    if not requested or len(rows) < 2 or len(validation.classes) < 2:
        return None
    guaranteed = config.guarantees and not fitted_on_validation
    notes: list[str] = []
    least = 2 * MIN_ROWS if guaranteed else MIN_ROWS
    if config.temperature == "auto" and len(rows) < least:
        config = replace(config, temperature="none")
        notes.append(_FEW_ROWS.format(rows=len(rows), least=least))
    split = guaranteed and (config.temperature == "auto" or config.reject_risk is not None)
    try:
        fit_rows, guarantee_rows = split_half(validation, seed=seed, groups=groups) if split else (rows, rows)
    except DataError:
        return None
    cross = {"folds": folds, "seed": seed, "groups": None if groups is None else [groups[row] for row in fit_rows]}
    other_rows = guarantee_rows if split else rows[:0]
    calibration, scored = _fit_temperature(validation, config, fit_rows, other_rows, **cross)
    notes += [_NO_ROWS.format(method=method)] if config.guarantees and fitted_on_validation else []
    if guaranteed:
        guide, unseen = (
            with_temperature(validation.take(part), calibration.temperature) for part in (fit_rows, guarantee_rows)
        )
        calibration, reasons = _fit_guarantees(calibration, config, guide, unseen)
        notes += reasons
        notes += [_GROUPED] if groups is not None and len(set(groups)) > 1 else []
    test = predictions.get("test")
    test_scores = _score_test(test, calibration) if test is not None and test.known.any() else None
    return CalibrationResult(calibration, calibration.temperature != 1, scored, test_scores, tuple(notes))


def _fit_temperature(
    validation: Predictions, config: CalibrationConfig, fit_rows: Ints, other_rows: Ints, **cross: Any
) -> tuple[Calibration, Predictions]:
    """Return the temperature fitted on some rows, and all rows scaled by temperatures fitted without them."""
    fitted, others = validation.take(fit_rows), validation.take(other_rows)
    if config.temperature == "none" or len(fitted) < 2:
        return Calibration(), concatenate([fitted, others])
    calibration = calibrate_probabilities(fitted, **cross)
    if calibration.temperature == 1:
        return calibration, concatenate([fitted, others])
    scaled = with_temperature(others, calibration.temperature)
    return calibration, concatenate([cross_fitted_temperature(fitted, **cross), scaled])


def _fit_guarantees(
    calibration: Calibration, config: CalibrationConfig, guide: Predictions, unseen: Predictions
) -> tuple[Calibration, list[str]]:
    """Add threshold and sets; return the reasons if one of them cannot be guaranteed."""
    reasons = []
    if (risk := config.reject_risk) is not None:
        calibration = replace(calibration, reject=reject_threshold(unseen, risk, guide=guide))
        if calibration.reject is None:
            reasons.append(_NO_RISK.format(risk=risk, confidence=0.95, rows=len(unseen)))
    if (coverage := config.coverage) is not None:
        calibration = replace(calibration, conformal=conformal(unseen, coverage))
        if calibration.conformal is None:
            reasons.append(_NO_COVERAGE.format(rows=len(unseen), coverage=coverage))
    return calibration, reasons


def _score_test(test: Predictions, calibration: Calibration) -> dict[str, Any]:
    """Return the effect of the calibration on the test split, which nothing was fitted on."""
    labelled = test.take(test.known)
    calibrated = calibration.apply(labelled)
    values: dict[str, Any] = {"n": len(labelled)}
    for suffix, scores in (("before", score(labelled)), ("after", score(calibrated))):
        values |= {f"{key}_{suffix}": scores[key] for key in ("ece", "log_loss", "brier")}
    return {**values, **check_coverage(calibrated, calibration)}


def _change(before: float | None, after: float | None) -> str:
    return f"{before or 0:.4f} -> {after or 0:.4f}"
