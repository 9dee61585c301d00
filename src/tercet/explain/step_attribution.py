"""What each step of a scan contributed to a logit: integrated gradients (Sundararajan et al., ICML 2017).

The recurrent part reads a feature map, or an image row by row. On the straight way from nothing (zeros in every cell)
to what it read, the logit's gradient is integrated; times what was read it says what every cell contributed. Cells of
one step add up to the step, and all steps to the difference between the logit and that of nothing (completeness), up to
the error of the numerical integral, which is told. A cell that holds zeros contributes nothing.

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
from tercet.models.recurrent import RecurrentModule, RecurrentStack, scan_sequence

_POINTS = 16
_SHORTEST = 1 / 64
_TOLERANCE, _LEAST = 0.01, 0.001


@dataclass(frozen=True)
class StepContributions:
    """What the steps of a scan contributed to a class's logit."""

    scan: str
    """pixel rows, rows, columns, cells or snake."""
    directions: int
    """1, or 2 where the sequence is read backwards too."""
    contributions: Tensor
    """T, in the order of the scan; they sum to `logit` - `baseline`."""
    cells: Tensor
    """h w, the same by cell of the feature map, or by pixel."""
    logit: float
    """The class's logit."""
    baseline: float
    """That of a sequence of zeros."""
    points: int
    """Points of the numerical integral."""

    def place(self, step: int) -> tuple[int, int]:
        """Return the row and column of the cell that a step of `cells` or `snake` reads, all counted from 0."""
        rows, columns = self.cells.shape
        places = torch.arange(rows * columns).reshape(1, rows, columns, 1)
        return divmod(int(scan_sequence(places, "snake" if self.scan == "snake" else "cells")[0, step, 0]), columns)

    @property
    def error(self) -> float:
        """Return by how much the contributions miss the difference."""
        return float(self.contributions.sum()) - (self.logit - self.baseline)


def step_contributions(classifier: Classifier, image: Tensor, target: int) -> StepContributions:
    """Return what each step of a classifier's scan contributed.

    The way is halved where the integral misses what the logit gains there, until it misses at most 1 % of the whole
    difference (or 0.001): saturated recurrent networks have steep places.

    Args:
        classifier: A row classifier, or a backbone with a recurrent module.
        image: 1 C H W in [0, 1].
        target: The class, below K.

    Raises:
        NotOffered: The network has no scan, or one of a single step.
    """
    scan = _scan_of(classifier)
    require_logit(classifier)
    with eval_mode(classifier):
        with torch.no_grad():
            read: Tensor = classifier.features(classifier.preprocess(image))  # 1 h w D, or 1 H (W C)

        def logits(sequence: Tensor) -> Tensor:
            return cast("Tensor", classifier.head(classifier.recurrent(sequence)))

        with torch.no_grad():
            nothing, something = (float(logits(each)[0, target]) for each in (torch.zeros_like(read), read))
        contributed, points = _integrate(logits, read, target, max(_LEAST, _TOLERANCE * abs(something - nothing)))
    if contributed.ndim == 3:
        contributed = contributed.reshape(*contributed.shape[:2], -1, classifier.spec.channels)  # 1 H W C
    cells = contributed.sum(3)
    return StepContributions(
        scan=scan,
        directions=2 if _stack(classifier).kernel.bidirectional else 1,
        contributions=_by_step(cells, scan)[0],
        cells=cells[0],
        logit=something,
        baseline=nothing,
        points=points,
    )


def _integrate(logits: Callable[[Tensor], Tensor], read: Tensor, target: int, allowed: float) -> tuple[Tensor, int]:
    """Return the integrated gradients on the way from zeros to what was read, and the points they were taken at.

    Every part of the way has a completeness of its own, so that only parts that miss it are divided.
    """
    method = captum_attr.IntegratedGradients(logits)
    total, points = torch.zeros_like(read), 0
    waiting = [(0.0, 1.0)]
    while waiting:
        begin, end = waiting.pop()
        ends = (begin * read, end * read)
        part = method.attribute(ends[1].clone().requires_grad_(), ends[0], target=target, n_steps=_POINTS).detach()
        points += _POINTS
        with torch.no_grad():
            before, after = (float(logits(each)[0, target]) for each in ends)
        if abs(float(part.sum()) - (after - before)) > allowed * (end - begin) and end - begin > _SHORTEST:
            waiting += [(begin, (begin + end) / 2), ((begin + end) / 2, end)]
        else:
            total += part
    return total, points


def _scan_of(classifier: Classifier) -> str:
    recurrent = classifier.recurrent
    if isinstance(recurrent, RecurrentStack):
        return "pixel rows"
    if not isinstance(recurrent, RecurrentModule):
        raise UnsupportedExplanation(
            f"'{classifier.network}' reads no sequence with a recurrent part of ours: it has no steps"
        )
    if recurrent.scan == "pooled":
        raise UnsupportedExplanation(
            "scan 'pooled' is a single step, the pooled vector: there is nothing to divide among steps"
        )
    return recurrent.scan


def _stack(classifier: Classifier) -> RecurrentStack:
    recurrent = classifier.recurrent
    return recurrent.stack if isinstance(recurrent, RecurrentModule) else cast("RecurrentStack", recurrent)


def _by_step(cells: Tensor, scan: str) -> Tensor:
    """Return the sums of 1 h w over the cells of each step, 1 T."""
    if scan in ("rows", "pixel rows"):
        return cells.sum(2)
    if scan == "columns":
        return cells.sum(1)
    return scan_sequence(cells.unsqueeze(3), "snake" if scan == "snake" else "cells")[..., 0]
