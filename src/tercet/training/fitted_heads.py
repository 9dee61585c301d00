"""Heads that are fitted on features instead of by gradient steps: what they are fitted on, and the choice of settings.

Shapes: N images, F features, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from tercet.core.errors import DataError
from tercet.data.splits import stratified_folds

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Setting = tuple[float, ...]
"""Values of what is chosen by cross-validation, such as C, or penalty and temperature."""
ABSENT = -30.0
"""Logit of classes without training rows: probability 1e-13."""
TEMPERATURES = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625)
"""Divisors of scores that are not logarithms of probabilities."""
NUM_FOLDS = 3
"""Folds of the cross-validation."""


@dataclass(frozen=True, eq=False)
class TrainingFeatures:
    """Features and labels of training images.

    Raises:
        DataError: Fewer than two classes have rows.
    """

    features: Floats
    """N F."""
    labels: Ints
    """N class indices; see `TrainingLabelSets` for sets of labels."""
    num_classes: int
    """K; classes without rows get a logit that makes them impossible."""
    groups: Sequence[str] | None = None
    """N group names; folds keep groups together."""
    weights: Floats | None = None
    """N weights of the rows (default: 1); a row of weight 2 equals two rows."""
    seed: int = 0
    """Seed of the folds."""

    def __post_init__(self) -> None:
        if len(np.unique(self.labels)) < 2:
            raise DataError("a fitted head needs images of at least two classes")

    @property
    def frequencies(self) -> Floats:
        """Frequency of each class (K)."""
        counts = np.bincount(self.labels, minlength=self.num_classes)
        return np.asarray(counts / len(self.labels), dtype=np.float32)

    @property
    def shares(self) -> Floats:
        """Share of each class in the weights of all rows (K)."""
        totals = np.bincount(self.labels, self.weights, minlength=self.num_classes)
        return np.asarray(totals / totals.sum(), dtype=np.float32)

    def folds(self) -> list[Ints]:
        """Return the held-out rows of each fold of a cross-validation.

        Raises:
            DataError: The rows cannot be divided into folds.
        """
        smallest = int(np.bincount(self.labels)[np.unique(self.labels)].min())
        count = min(NUM_FOLDS, smallest if self.groups is None else len(set(self.groups)))
        return stratified_folds(self.labels, count, seed=self.seed, groups=self.groups)

    def row_losses(self, logits: Floats, rows: Ints) -> Floats:
        """Return the log loss of some rows from their logits."""
        logs = log_softmax(logits.astype(np.float64), axis=1)
        return np.asarray(-logs[np.arange(len(rows)), self.labels[rows]])

    def correct(self, logits: Floats) -> NDArray[np.bool_]:
        """Return whether logits of all rows are right (N)."""
        return np.asarray(logits.argmax(axis=1) == self.labels)

    def take(self, rows: Ints) -> TrainingFeatures:
        """Return some rows."""
        groups = None if self.groups is None else [self.groups[row] for row in rows]
        weights = None if self.weights is None else self.weights[rows]
        return replace(self, features=self.features[rows], labels=self.labels[rows], groups=groups, weights=weights)


@dataclass(frozen=True, eq=False)
class FittedHead:
    """The tensors of a head of `tercet.models.heads`, and how they were chosen."""

    tensors: dict[str, NDArray[Any]]
    """By their names in the head's `state_dict`."""
    setting: Mapping[str, float]
    """The chosen values by name."""
    losses: Mapping[Setting, float]
    """Cross-validated log loss by setting; empty if there are too few images to choose."""
    note: str
    """The head in words, for logs."""


Fitter = Callable[[TrainingFeatures], FittedHead]
Trial = Callable[[TrainingFeatures, Floats], Iterable[tuple[Setting, Floats]]]
"""Fits on training rows and yields, for each setting, the logits of other rows."""


def choose_setting(data: TrainingFeatures, trial: Trial, default: Setting) -> tuple[Setting, dict[Setting, float]]:
    """Return the setting with the lowest cross-validated log loss, and all losses.

    If the rows cannot be divided into folds, as with one image in a class, it is the default.
    """
    losses = _cross_validate(data, trial)
    return (min(losses, key=lambda setting: losses[setting]) if losses else default), losses


def _cross_validate(data: TrainingFeatures, trial: Trial) -> dict[Setting, float]:
    """Return the log loss of held-out rows by setting; empty if the rows cannot be divided into folds."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class that a fold lacks only makes its loss higher
            folds = data.folds()
        parts = [data.take(np.setdiff1d(np.arange(len(data.labels)), held_out)) for held_out in folds]
    except DataError:
        return {}
    weights = np.ones(len(data.labels)) if data.weights is None else data.weights.astype(np.float64)
    weights /= weights.sum()
    totals: dict[Setting, float] = {}
    for held_out, part in zip(folds, parts, strict=True):
        for setting, logits in trial(part, data.features[held_out]):
            loss = float(data.row_losses(logits, held_out) @ weights[held_out])
            totals[setting] = totals.get(setting, 0.0) + loss
    return totals
