"""Contribution of each step of a scan to a logit: integrated gradients (Sundararajan et al., ICML 2017).

The recurrent module reads a feature map, or an image row by row. The logit's gradient is integrated on the straight
line from the baseline (zeros in every cell) to the actual input, and multiplied by the input: the contribution of each
cell. The cells of a step sum to the step, and all steps to the difference between the logit and the baseline's
(completeness), up to the error of the numerical integral, which is reported. A cell of zeros contributes nothing.

Shapes: B images (1 here), h x w cells, T steps, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from tercet.explain.grad_cam import require_logit
from tercet.explain.hooks import UnsupportedExplanation, captum_attr, eval_mode
from tercet.models.classifier import Classifier
from tercet.models.recurrent import PixelSequence, RecurrentModule, RecurrentStack, scan_sequence

BY_ROW, BY_COLUMN = ("rows", "pixel rows"), ("columns", "pixel columns")
"""Scans whose steps are rows or columns of the image."""
_POINTS = 16  # per interval of the integral
_MIN_INTERVAL = 1 / 64
_RELATIVE_TOLERANCE, _ABSOLUTE_TOLERANCE = 0.01, 0.001


@dataclass(frozen=True)
class StepContributions:
    """Contributions of a scan's steps to the logit of a class."""

    scan: str
    """rows, columns, cells or snake of a feature map, or pixel rows, pixel columns or pixels of the image."""
    directions: int
    """2 if the sequence is also read backwards, else 1."""
    contributions: Tensor
    """T, in the order of the scan; they sum to `logit` - `baseline`."""
    cells: Tensor
    """h w, the same per cell of the feature map, or per pixel."""
    logit: float
    """Logit of the class."""
    baseline: float
    """Logit of the class for a sequence of zeros."""
    points: int
    """Number of points of the numerical integral."""

    def cell_of(self, step: int) -> tuple[int, int]:
        """Return row and column of the cell that a step of `cells` or `snake` reads, all counted from 0."""
        rows, columns = self.cells.shape
        indices = torch.arange(rows * columns).reshape(1, rows, columns, 1)
        return divmod(int(scan_sequence(indices, "snake" if self.scan == "snake" else "cells")[0, step, 0]), columns)

    @property
    def error(self) -> float:
        """Sum of the contributions minus the difference of the logits."""
        return float(self.contributions.sum()) - (self.logit - self.baseline)


def step_contributions(classifier: Classifier, image: Tensor, target: int) -> StepContributions:
    """Return the contribution of each step of a classifier's scan.

    Saturated recurrent networks have steep intervals: an interval is halved while its integral misses the gain of the
    logit, until the total error is at most 1 % of the difference (or 0.001).

    Args:
        classifier: A row classifier, or a backbone with a recurrent module.
        image: 1 C H W in [0, 1].
        target: Index of the class.

    Raises:
        UnsupportedExplanation: The network has no scan, or one of a single step.
    """
    scan = _scan_of(classifier)
    require_logit(classifier)
    with eval_mode(classifier):
        with torch.no_grad():
            features: Tensor = classifier.features(classifier.preprocess(image))  # 1 h w D, or 1 T D of pixels

        def logits(sequence: Tensor) -> Tensor:
            return cast("Tensor", classifier.head(classifier.recurrent(sequence)))

        with torch.no_grad():
            baseline, logit = (float(logits(values)[0, target]) for values in (torch.zeros_like(features), features))
        tolerance = max(_ABSOLUTE_TOLERANCE, _RELATIVE_TOLERANCE * abs(logit - baseline))
        attributions, points = _integrate(logits, features, target, tolerance)
    if isinstance(classifier.features, PixelSequence):
        attributions = classifier.features.to_pixels(attributions, classifier.spec.size)  # 1 H W C
    cells = attributions.sum(3)
    return StepContributions(
        scan=scan,
        directions=2 if _stack(classifier).kernel.bidirectional else 1,
        contributions=_by_step(cells, scan)[0],
        cells=cells[0],
        logit=logit,
        baseline=baseline,
        points=points,
    )


def _integrate(
    logits: Callable[[Tensor], Tensor], features: Tensor, target: int, tolerance: float
) -> tuple[Tensor, int]:
    """Return the integrated gradients from zeros to the features, and the number of points used.

    Completeness holds per interval, so only intervals that violate it are divided.
    """
    method = captum_attr.IntegratedGradients(logits)
    total, points = torch.zeros_like(features), 0
    intervals = [(0.0, 1.0)]
    while intervals:
        begin, end = intervals.pop()
        ends = (begin * features, end * features)
        part = method.attribute(ends[1].clone().requires_grad_(), ends[0], target=target, n_steps=_POINTS).detach()
        points += _POINTS
        with torch.no_grad():
            before, after = (float(logits(values)[0, target]) for values in ends)
        if abs(float(part.sum()) - (after - before)) > tolerance * (end - begin) and end - begin > _MIN_INTERVAL:
            intervals += [(begin, (begin + end) / 2), ((begin + end) / 2, end)]
        else:
            total += part
    return total, points


def _scan_of(classifier: Classifier) -> str:
    recurrent = classifier.recurrent
    if isinstance(classifier.features, PixelSequence):
        scan = classifier.features.scan
        return scan if scan == "pixels" else f"pixel {scan}"
    if not isinstance(recurrent, RecurrentModule):
        raise UnsupportedExplanation(
            f"'{classifier.network}' has no recurrent module that scans the image, so step contributions do not apply"
        )
    if recurrent.scan == "pooled":
        raise UnsupportedExplanation("scan 'pooled' has a single step, so step contributions do not apply")
    return recurrent.scan


def _stack(classifier: Classifier) -> RecurrentStack:
    recurrent = classifier.recurrent
    return recurrent.stack if isinstance(recurrent, RecurrentModule) else cast("RecurrentStack", recurrent)


def _by_step(cells: Tensor, scan: str) -> Tensor:
    """Return the sums of 1 h w over the cells of each step, 1 T."""
    if scan in BY_ROW:
        return cells.sum(2)
    if scan in BY_COLUMN:
        return cells.sum(1)
    return scan_sequence(cells.unsqueeze(3), "snake" if scan == "snake" else "cells")[..., 0]
