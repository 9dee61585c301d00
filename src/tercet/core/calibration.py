"""Calibration of ensemble probabilities: temperature scaling, reject threshold, and conformal prediction sets.

This module applies calibrations and needs only NumPy; `tercet.ensemble.calibrate` fits them. N samples, K classes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.core.errors import ModelError
from tercet.core.predictions import Floats, Predictions

MIN_PROBABILITY = 1e-12
"""Lower bound of probabilities before the logarithm; votes and pruning produce zeros."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Range of temperatures."""


def apply_temperature(probabilities: ArrayLike, temperature: float) -> Floats:
    """Return softmax(log p / T) of every row (N K); the most probable class never changes.

    Args:
        probabilities: N K, rows sum to 1; clipped at `MIN_PROBABILITY`.
        temperature: T; above 1 lowers the confidence, below 1 raises it.
    """
    original = np.asarray(probabilities, dtype=np.float64)
    if temperature == 1 or not original.size:
        return original
    logits = np.log(np.maximum(original, MIN_PROBABILITY)) / temperature
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaled: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
    # Rounding may make the two highest probabilities equal; argmax would then return the lower index.
    top = original.argmax(axis=1)
    for row in np.flatnonzero(scaled.argmax(axis=1) != top):
        scaled[row, top[row]] = np.nextafter(scaled[row].max(), 2.0)
    return scaled


def prediction_sets(probabilities: ArrayLike, quantile: float) -> NDArray[np.bool_]:
    """Return the prediction set of each row as a mask (N K): classes with 1 - p <= quantile, and the most probable one.

    Args:
        probabilities: N K, after temperature scaling.
        quantile: See `PredictionSets`.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    included: NDArray[np.bool_] = 1 - values <= quantile
    included[np.arange(len(values)), values.argmax(axis=1)] = True
    return included


@dataclass(frozen=True)
class Rejection:
    """Threshold on the top probability below which predictions are rejected."""

    threshold: float
    """Minimum top probability, after temperature scaling, of an accepted prediction."""
    risk: float
    """Requested upper bound of the error rate of accepted predictions."""
    confidence: float
    """Confidence level of the bound."""
    accepted: float
    """Fraction of accepted predictions on `rows`."""
    errors: float
    """Error rate of accepted predictions on `rows`."""
    rows: int
    """Number of images that the threshold was fitted on."""

    def __post_init__(self) -> None:
        _check_values("the reject threshold", self)

    def rejected(self, probabilities: ArrayLike) -> NDArray[np.bool_]:
        """Return whether each row (N K) is rejected (N)."""
        confidences = np.asarray(probabilities, dtype=np.float64).max(axis=1)
        rejected: NDArray[np.bool_] = confidences < self.threshold
        return rejected


@dataclass(frozen=True)
class PredictionSets:
    """Quantile of the conformal prediction sets."""

    quantile: float
    """Maximum 1 - p of a class in a set."""
    coverage: float
    """Requested fraction of images whose set contains the true class."""
    rows: int
    """Number of images that the quantile was computed on."""

    def __post_init__(self) -> None:
        _check_values("the quantile of the prediction sets", self)


@dataclass(frozen=True)
class Calibration:
    """Calibration of a bundle's ensemble probabilities, with scores before and after (cross-fitted)."""

    temperature: float = 1.0
    """1: no scaling."""
    rows: int = 0
    """Number of validation images that the temperature was fitted on."""
    ece_before: float | None = None
    """Expected calibration error."""
    ece_after: float | None = None
    log_loss_before: float | None = None
    log_loss_after: float | None = None
    brier_before: float | None = None
    brier_after: float | None = None
    reject: Rejection | None = None
    """Set if an error rate was requested and is achievable."""
    conformal: PredictionSets | None = None
    """Set if a coverage was requested and is achievable."""

    def __post_init__(self) -> None:
        if not (_is_number(self.temperature) and MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE):
            limits = f"[{MIN_TEMPERATURE}, {MAX_TEMPERATURE}]"
            raise ModelError(f"the calibration's temperature {self.temperature!r} does not lie in {limits}")
        for key in _SCORES:
            value = getattr(self, key)
            if value is not None and not (_is_number(value) and value >= 0):
                raise ModelError(f"the calibration's {key} {value!r} is not a score")
        _require_count("the calibration", self.rows)

    def apply(self, predictions: Predictions) -> Predictions:
        """Return the predictions with calibrated probabilities."""
        if self.temperature == 1:
            return predictions
        return replace(predictions, probabilities=apply_temperature(predictions.probabilities, self.temperature))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Calibration:
        """Rebuild from `to_dict`'s result.

        Raises:
            ModelError: The values are invalid.
        """
        try:
            reject, conformal = values["reject"], values["conformal"]
            return cls(
                **{key: values[key] for key in ("temperature", "rows", *_SCORES)},
                reject=None if reject is None else Rejection(**reject),
                conformal=None if conformal is None else PredictionSets(**conformal),
            )
        except (KeyError, TypeError) as error:
            raise ModelError(f"the calibration is damaged: {error}") from error


_SCORES = ("ece_before", "ece_after", "log_loss_before", "log_loss_after", "brier_before", "brier_after")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_values(what: str, values: Rejection | PredictionSets) -> None:
    """Raise ModelError unless `rows` is a number of images, and all other values are fractions."""
    _require_count(what, values.rows)
    for name, value in asdict(values).items():
        if name != "rows" and not (_is_number(value) and 0 <= value <= 1):
            raise ModelError(f"{what}: {name} {value!r} does not lie in [0, 1]")


def _require_count(what: str, rows: object) -> None:
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 0:
        raise ModelError(f"{what}: {rows!r} is not a number of images")
