"""What makes fused probabilities mean what they say: a temperature, a threshold below which nothing is answered, and
sets of classes that hold the true one as often as was asked.

Only numbers and NumPy: whoever predicts needs no more than this. Shapes: N samples, K classes.
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
"""Probabilities below are taken for this before their logarithm: what votes or pruning made zero stays finite."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""The temperatures that can be."""


def apply_temperature(probabilities: ArrayLike, temperature: float) -> Floats:
    """Return softmax(log p / T) of every row (N K); the most probable class stays the same, and T = 1 changes nothing.

    Args:
        probabilities: N K, rows sum to 1; below `SMALLEST` they count as that.
        temperature: T; above 1 probabilities move together, below 1 apart.
    """
    given = np.asarray(probabilities, dtype=np.float64)
    if temperature == 1 or not given.size:
        return given
    logits = np.log(np.maximum(given, MIN_PROBABILITY)) / temperature
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    changed: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
    # Two probabilities one rounding apart may become equal, and then the lower index would win.
    top = given.argmax(axis=1)
    for row in np.flatnonzero(changed.argmax(axis=1) != top):
        changed[row, top[row]] = np.nextafter(changed[row].max(), 2.0)
    return changed


def prediction_sets(probabilities: ArrayLike, quantile: float) -> NDArray[np.bool_]:
    """Return which classes belong to each row's set (N K): those with 1 - p <= quantile, and always the most probable.

    Args:
        probabilities: N K, after the temperature.
        quantile: What `PredictionSets` holds.
    """
    given = np.asarray(probabilities, dtype=np.float64)
    inside: NDArray[np.bool_] = 1 - given <= quantile
    inside[np.arange(len(given)), given.argmax(axis=1)] = True
    return inside


@dataclass(frozen=True)
class Rejection:
    """A threshold on the top probability; below it no answer is given."""

    threshold: float
    """The top probability, after the temperature, from which on an image is answered."""
    risk: float
    """Error rate of the answers that was asked for, as an upper bound."""
    confidence: float
    """How sure the bound is."""
    answered: float
    """Share of `rows` that is answered."""
    errors: float
    """Error rate of those answers."""
    rows: int
    """Images that the threshold was tested on."""

    def __post_init__(self) -> None:
        _require_shares("the reject threshold", asdict(self), "threshold", "risk", "confidence", "answered", "errors")
        _require_count("the reject threshold", self.rows)

    def rejected(self, probabilities: ArrayLike) -> NDArray[np.bool_]:
        """Tell of each row (N K) whether it is too unsure to be answered."""
        given = np.asarray(probabilities, dtype=np.float64)
        unsure: NDArray[np.bool_] = given.max(axis=1) < self.threshold
        return unsure


@dataclass(frozen=True)
class PredictionSets:
    """The quantile that makes prediction sets."""

    quantile: float
    """The largest 1 - p with which a class belongs to a set."""
    coverage: float
    """Share of images whose set is to hold the true class."""
    rows: int
    """Images that the quantile was read from."""

    def __post_init__(self) -> None:
        _require_shares("the quantile of the prediction sets", asdict(self), "quantile", "coverage")
        _require_count("the quantile of the prediction sets", self.rows)


@dataclass(frozen=True)
class Calibration:
    """What is done to a bundle's fused probabilities; scores are cross-fitted: T never saw the row that it changed."""

    temperature: float = 1.0
    """T; 1 where the probabilities are best left alone."""
    rows: int = 0
    """Validation images that T was fitted on; 0 where none was fitted."""
    ece_before: float | None = None
    """Expected calibration error of those images, as they were."""
    ece_after: float | None = None
    """With T, cross-fitted."""
    log_loss_before: float | None = None
    """Likewise of the log loss."""
    log_loss_after: float | None = None
    """Likewise."""
    brier_before: float | None = None
    """Likewise of the Brier score."""
    brier_after: float | None = None
    """Likewise."""
    reject: Rejection | None = None
    """The threshold, where a risk was asked for and can be kept."""
    conformal: PredictionSets | None = None
    """The quantile, where a coverage was asked for and can be kept."""

    def __post_init__(self) -> None:
        if not (_is_number(self.temperature) and MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE):
            raise ModelError(
                f"a temperature of {self.temperature!r} cannot be: it lies in [{MIN_TEMPERATURE}, {MAX_TEMPERATURE}]"
            )
        for key in _SCORES:
            value = getattr(self, key)
            if value is not None and not (_is_number(value) and value >= 0):
                raise ModelError(f"the calibration's {key} {value!r} is no score")
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
            ModelError: The values describe no calibration.
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


def _require_shares(what: str, values: dict[str, Any], *names: str) -> None:
    for name in names:
        if not (_is_number(values[name]) and 0 <= values[name] <= 1):
            raise ModelError(f"{what}: {name} {values[name]!r} does not lie in [0, 1]")


def _require_count(what: str, rows: object) -> None:
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 0:
        raise ModelError(f"{what}: {rows!r} is no number of images")
