"""What accuracy costs: operations, time, and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from tercet.evaluation.report import short_count
from tercet.ground.errors import DataError
from tercet.pictures.style import PALETTE, label, legend, plain

_LARGEST = 700.0
"""Area of the largest dot, in square points."""


@dataclass(frozen=True)
class Cost:
    """One network: how good it is, and what it costs."""

    name: str
    """Its name."""
    accuracy: float
    """How good it is."""
    low: float | None
    """Lower end of the interval of that, if known."""
    high: float | None
    """Upper end of it."""
    cost: float
    """What an image costs, such as operations or seconds; positive."""
    parameters: int
    """Learnable numbers."""


def accuracy_against_cost(axes: Axes, points: Sequence[Cost], *, xlabel: str) -> Axes:
    """Draw accuracy over cost, a dot a network, its area in proportion to the number of parameters.

    Args:
        axes: Where to draw.
        points: The networks.
        xlabel: What the cost is.

    Raises:
        DataError: There is no network with a positive cost.
    """
    drawn = [point for point in points if point.cost > 0]
    if not drawn:
        raise DataError("no network has a positive cost to draw its accuracy against")
    most = max(1, *(point.parameters for point in drawn))
    areas = [_LARGEST * point.parameters / most for point in drawn]
    costs = [point.cost for point in drawn]
    axes.set_xscale("log")
    for point in drawn:
        if point.low is not None and point.high is not None:
            axes.plot([point.cost] * 2, [point.low, point.high], color=PALETTE[0], linewidth=1, zorder=2)
    axes.scatter(
        costs, [point.accuracy for point in drawn], s=areas, color=PALETTE[0], alpha=0.45, edgecolors="none", zorder=3
    )
    axes.scatter(costs, [point.accuracy for point in drawn], s=6, color=PALETTE[0], zorder=4)
    low, high = min(costs), max(costs)
    axes.set_xlim(low / 1.6, high * 1.6 if high > low else high * 2)
    axes.margins(y=0.15)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("accuracy")
    for point in drawn:
        axes.annotate(label(point.name), (point.cost, point.accuracy), (5, 5), textcoords="offset points", fontsize=7)
    sizes = sorted({10 ** int(np.log10(most)), most})
    handles = [
        axes.scatter([], [], s=_LARGEST * size / most, color=PALETTE[0], alpha=0.45, edgecolors="none")
        for size in sizes
    ]
    legend(axes, handles, [short_count(size) for size in sizes], title="parameters", outside=True)
    return plain(axes, grid="y")
