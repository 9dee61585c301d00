"""Linear heads for label sets, fitted on features: one logistic or ridge regression per label.

All labels share the setting that cross-validation chooses by the log loss, summed over labels. A label that all or none
of the training images have gets a constant logit. Shapes: N images, F features, K labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from tercet.core.errors import DataError
from tercet.data.splits import stratified_folds
from tercet.training.fitted_heads import NUM_FOLDS, FittedHead, Fitter, Floats, Ints, TrainingFeatures
from tercet.training.linear_heads import ITERATIONS, Weights, logistic_head, ridge_head, standardize


@dataclass(frozen=True, eq=False)
class TrainingLabelSets(TrainingFeatures):
    """Features and label sets of training images; `labels` are N K, 0 and 1.

    Raises:
        DataError: All images have the same labels.
    """

    def __post_init__(self) -> None:
        if not self.fitted_labels.any():
            raise DataError("a fitted head needs images with a label and images without it")

    @property
    def fitted_labels(self) -> NDArray[np.bool_]:
        """Whether some images have a label and others do not (K)."""
        return np.asarray(self.labels.any(axis=0) & ~self.labels.all(axis=0))

    @property
    def log_odds(self) -> Floats:
        """Logarithm of the odds of each label (K), each count increased by a half."""
        positive = self.labels.sum(axis=0) + 0.5
        return np.asarray(np.log(positive / (len(self.labels) + 1 - positive)), dtype=np.float32)

    def folds(self) -> list[Ints]:
        """Return the held-out rows of each fold, stratified by the rarest label of an image."""
        counts = np.append(self.labels.sum(axis=0), len(self.labels) + 1)  # the last is that of images without labels
        present = np.column_stack([self.labels > 0, np.ones(len(self.labels), dtype=np.bool_)])
        rarest = np.where(present, counts, counts[-1] + 1).argmin(axis=1)
        return stratified_folds(rarest, NUM_FOLDS, seed=self.seed, groups=self.groups)

    def row_losses(self, logits: Floats, rows: Ints) -> Floats:
        """Return the binary cross-entropy of some rows, summed over labels."""
        values, labels = logits.astype(np.float64), self.labels[rows]
        return np.asarray(np.logaddexp(0, np.where(labels > 0, -values, values)).sum(axis=1))

    def correct(self, logits: Floats) -> NDArray[np.bool_]:
        """Return whether logits of all rows are positive for exactly the labels of an image (N)."""
        return np.asarray(((logits > 0) == (self.labels > 0)).all(axis=1))


def fit_label_logistic(data: TrainingFeatures) -> FittedHead:
    """Fit a logistic regression with an L2 penalty to each label; the penalty is chosen by cross-validation."""
    return logistic_head(data, _logistic, "logistic regression of each label")


def fit_label_ridge(data: TrainingFeatures) -> FittedHead:
    """Fit a ridge regression of targets of -1 and 1 to each label; see `fit_ridge`."""
    return ridge_head(data, _ridge, "ridge regression of each label")


MULTILABEL_FITTERS: dict[str, Fitter] = {"logistic": fit_label_logistic, "ridge": fit_label_ridge}
"""Functions that fit a head to label sets, by its name."""


def _logistic(data: TrainingFeatures, penalties: Iterable[float]) -> Iterator[Weights]:
    """Yield the weights for each C; each fit starts from the one before it."""
    assert isinstance(data, TrainingLabelSets)
    standardized, mean, scale = standardize(data)
    labels = np.flatnonzero(data.fitted_labels)
    models = [LogisticRegression(max_iter=ITERATIONS, warm_start=True) for _ in labels]
    for penalty in penalties:
        slopes, offsets = np.zeros((data.num_classes, len(mean)), dtype=np.float32), data.log_odds
        for label, model in zip(labels, models, strict=True):
            model.set_params(C=penalty)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the weights of 300 iterations are good enough
                model.fit(standardized, data.labels[:, label], sample_weight=data.weights)
            slopes[label], offsets[label] = model.coef_[0], model.intercept_[0]
        weight: Floats = slopes / scale
        yield weight, np.asarray(offsets - weight @ mean, dtype=np.float32)


def _ridge(data: TrainingFeatures, penalties: Iterable[float]) -> Iterator[Weights]:
    """Yield the weights for each penalty; those of labels that all or no images have are zero."""
    standardized, mean, scale = standardize(data)
    targets = 2.0 * data.labels - 1.0
    for penalty in penalties:
        model = Ridge(penalty).fit(standardized, targets, sample_weight=data.weights)
        weight = (np.reshape(model.coef_, targets.shape[1:] + mean.shape) / scale).astype(np.float32)
        yield weight, (np.reshape(model.intercept_, targets.shape[1:]) - weight @ mean).astype(np.float32)
