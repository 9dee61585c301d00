"""Heads that compare features by cosine similarity: class means, and nearest training images.

Features are centred on the mean of the training images, then scaled to norm 1, as in SimpleShot (Wang et al.,
arXiv:1911.04623). Shapes: N images, F features, K classes, k neighbours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tercet.core.errors import ConfigError
from tercet.models.layers import UnitNorm
from tercet.models.nearest_neighbors import SMALLEST_SHARE, neighbor_votes
from tercet.training.fitted_heads import (
    ABSENT,
    TEMPERATURES,
    FittedHead,
    Floats,
    Ints,
    Setting,
    TrainingFeatures,
    choose_setting,
)

DEFAULT_TEMPERATURE = 0.125
NEIGHBORS = (1, 3, 5, 10, 20, 50)
"""Values of k to choose from."""
NEIGHBOR_TEMPERATURES = (0.02, 0.05, 0.1, 0.2)
SMOOTHING = (0.01, 0.1, 1.0)
"""Weights of the class frequencies, relative to all votes together."""
DEFAULT_KNN = (1, 0.1, 0.1)
"""k, temperature and smoothing without cross-validation."""
_LOWEST = -3.0  # of |x|² - |x - mean|² with norms of at most 1
MAX_ROWS = 10_000
"""Largest number of training images that a k-nearest-neighbours head keeps."""


def fit_prototype(data: TrainingFeatures) -> FittedHead:
    """Take the mean of each class: logits are negative squared distances, plus logarithms of class frequencies.

    The temperature of the distances is chosen by cross-validation.
    """

    def trial(fitted: TrainingFeatures, held_out: Floats) -> Iterator[tuple[Setting, Floats]]:
        center, weight, bias = _prototypes(fitted)
        values = _unit(held_out, center).numpy() @ weight.T + bias
        for temperature in TEMPERATURES:
            yield (temperature,), values / np.float32(temperature) + _log_prior(fitted)

    (temperature,), losses = choose_setting(data, trial, (DEFAULT_TEMPERATURE,))
    center, weight, bias = _prototypes(data)
    tensors = {
        "normalize.center": center,
        "classes.weight": weight / np.float32(temperature),
        "classes.bias": bias / np.float32(temperature) + _log_prior(data),
    }
    return FittedHead(tensors, {"temperature": temperature}, losses, f"class means, temperature {temperature:g}")


def _prototypes(data: TrainingFeatures) -> tuple[Floats, Floats, Floats]:
    """Return the centre F, and weight K F and bias K, whose values are |x|² - |x - mean|² for each class."""
    center = _mean(data.features, data.weights)
    unit = _unit(data.features, center).numpy()
    means = np.zeros((data.num_classes, unit.shape[1]), dtype=np.float32)
    bias = np.full(data.num_classes, _LOWEST, dtype=np.float32)
    for label in np.unique(data.labels):
        rows = data.labels == label
        means[label] = _mean(unit[rows], None if data.weights is None else data.weights[rows])
        bias[label] = -(means[label] ** 2).sum()
    return center, 2 * means, bias


def fit_knn(data: TrainingFeatures) -> FittedHead:
    """Keep the features of the training images, at most `MAX_ROWS`, for a classifier of k nearest neighbours.

    k, the temperature of the similarities and the smoothing are chosen together, by cross-validation. If there are more
    images, a random part of each class is kept.

    Raises:
        ConfigError: Images of one class have different weights.
    """

    def trial(fitted: TrainingFeatures, held_out: Floats) -> Iterator[tuple[Setting, Floats]]:
        center = fitted.features.mean(axis=0)
        sizes = [k for k in NEIGHBORS if k < len(fitted.labels)]
        similarities = _unit(held_out, center) @ _unit(fitted.features, center).T
        values, positions = similarities.topk(sizes[-1] + 1, dim=1)
        labels = torch.from_numpy(fitted.labels)[positions]
        for k, temperature in itertools.product(sizes, NEIGHBOR_TEMPERATURES):
            scale = torch.full((k + 1,), 1 / temperature)
            votes = neighbor_votes(values[:, : k + 1], labels[:, : k + 1], scale, fitted.num_classes).numpy()
            for smoothing in SMOOTHING:
                yield (k, temperature, smoothing), np.log(votes + _smallest(fitted, smoothing)) + _log_weights(fitted)

    images = len(data.labels)
    if data.weights is not None and any(
        np.ptp(data.weights[data.labels == label]) for label in set(data.labels.tolist())
    ):
        raise ConfigError("the head knn cannot weight single images: remove data.weight_column, or use another head")
    data = data.take(_stratified_part(data.labels, MAX_ROWS, seed=data.seed))
    (k, temperature, smoothing), losses = choose_setting(data, trial, DEFAULT_KNN)
    center = data.features.mean(axis=0)
    tensors = {
        "normalize.center": center,
        "rows": _unit(data.features, center).numpy(),
        "labels": data.labels,
        "scale": np.full(int(k) + 1, 1 / temperature, dtype=np.float32),
        "smallest": _smallest(data, smoothing),
        "bias": _log_weights(data),
    }
    setting = {"k": k, "temperature": temperature, "smoothing": smoothing}
    note = f"nearest neighbours, k {k:g}, temperature {temperature:g}, smoothing {smoothing:g}"
    if len(data.labels) < images:
        note += f"; {len(data.labels):,} of {images:,} training images are kept"
    return FittedHead(tensors, setting, losses, note)


def _mean(rows: Floats, weights: Floats | None) -> Floats:
    mean: Floats = np.average(rows, axis=0, weights=weights).astype(np.float32)
    return mean


def _unit(features: Floats, center: Floats) -> Tensor:
    layer = UnitNorm(len(center))
    layer.center = torch.from_numpy(center)
    unit: Tensor = layer(torch.from_numpy(features))
    return unit


def _log_prior(data: TrainingFeatures) -> Floats:
    """Return the logarithms of the weighted class frequencies (K)."""
    logs: Floats = np.log(np.maximum(data.shares, np.float32(math.exp(ABSENT))))
    return logs


def _smallest(data: TrainingFeatures, smoothing: float) -> Floats:
    shares: Floats = np.maximum(np.float32(smoothing) * data.frequencies, np.float32(SMALLEST_SHARE))
    return shares


def _log_weights(data: TrainingFeatures) -> Floats:
    """Return the logarithms of the class weights (K), up to a constant; 0 for classes without rows."""
    present = data.frequencies > 0
    ratios = np.divide(data.shares, data.frequencies, out=np.ones(data.num_classes, np.float32), where=present)
    logs: Floats = np.log(ratios)
    return logs


def _stratified_part(labels: Ints, count: int, *, seed: int) -> Ints:
    """Return `count` rows in order, with at least one of each class if there are not more classes; or all rows."""
    if len(labels) <= count:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    shares = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        shares[members] = np.arange(len(members)) / len(members)
    return np.sort(np.argsort(shares, kind="stable")[:count])
