"""Accuracy against cost: operations, time, parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from tercet.core.errors import DataError
from tercet.metrics.table import short_count
from tercet.plots.style import GREY, PALETTE, despine, drawing, label

_MAX_AREA = 700.0
"""Area of the largest dot, in square points."""
_DOT: dict[str, Any] = {"color": PALETTE[0], "alpha": 0.45, "edgecolors": "none"}


@dataclass(frozen=True)
class Cost:
    """Accuracy and cost of a network."""

    name: str
    accuracy: float
    low: float | None
    """Lower bound of the accuracy's interval."""
    high: float | None
    """Upper bound of the accuracy's interval."""
    cost: float
    """Cost per image, such as operations or seconds."""
    parameters: int
    """Number of parameters."""


def accuracy_against_cost(axes: Axes, points: Sequence[Cost], *, xlabel: str) -> Axes:
    """Draw accuracy over cost as dots whose area is proportional to the number of parameters.

    Names are placed so that they overlap neither dots nor each other, as far as possible. Draw everything else of the
    figure first and do not change its size afterwards.

    Args:
        axes: Axes to draw on.
        points: The networks; those without a positive cost are skipped.
        xlabel: Label of the cost.

    Raises:
        DataError: No network has a positive cost.
    """
    drawn = [point for point in points if point.cost > 0]
    if not drawn:
        raise DataError("no network has a positive cost")
    max_parameters = max(1, *(point.parameters for point in drawn))
    areas = [_MAX_AREA * point.parameters / max_parameters for point in drawn]
    costs, accuracies = [point.cost for point in drawn], [point.accuracy for point in drawn]
    for point in drawn:
        if point.low is not None and point.high is not None:
            axes.plot([point.cost] * 2, [point.low, point.high], color=GREY, linewidth=1, zorder=2)
    axes.scatter(costs, accuracies, s=areas, zorder=3, **_DOT)
    axes.scatter(costs, accuracies, s=6, color=PALETTE[0], zorder=4)
    axes.set_xscale("log")
    margin = max(1.6, (max(costs) / min(costs)) ** 0.12)
    axes.set_xlim(min(costs) / margin, max(costs) * margin)
    axes.margins(y=0.15)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("accuracy")
    if max(costs) < 20 * min(costs):
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep="") if min(costs) >= 1e3 else FuncFormatter(_three_digits))
        axes.xaxis.set_minor_formatter(NullFormatter())
    _draw_size_legend(axes, max_parameters)
    despine(axes, grid="y")
    with drawing():
        _draw_names(axes, drawn, areas)
    return axes


def _three_digits(value: float, position: int | None = None) -> str:
    return f"{value:.3g}"


def _draw_size_legend(axes: Axes, max_parameters: int) -> None:
    """Draw a legend of the areas of two round numbers of parameters."""
    power = 10 ** math.floor(math.log10(max_parameters))
    large = max(step * power for step in (1, 2, 5) if step * power <= max_parameters)
    sizes = [size for size in (large // 10, large) if size]
    handles = [axes.scatter([], [], s=_MAX_AREA * size / max_parameters, **_DOT) for size in sizes]
    axes.legend(
        handles,
        [short_count(size).replace(".0", "") for size in sizes],
        title="parameters",
        fontsize="small",
        title_fontsize="small",
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        labelspacing=2.0,
        borderpad=1.0,
        handletextpad=1.2,
    )


def _draw_names(axes: Axes, points: Sequence[Cost], areas: Sequence[float]) -> None:
    """Put each name next to its dot, one after the other, at the first free position or the least covered one."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # positions are known after the layout only
    pixels_per_point = figure.dpi / 72
    frame = axes.get_window_extent()
    centres = [axes.transData.transform((point.cost, point.accuracy)) for point in points]
    radii = [pixels_per_point * max(3.0, math.sqrt(area / math.pi)) for area in areas]
    occupied = [Bbox.from_extents(x - r, y - r, x + r, y + r) for (x, y), r in zip(centres, radii, strict=True)]
    for point, (x, y), radius in sorted(zip(points, centres, radii, strict=True), key=lambda dot: -dot[1][1]):
        text = axes.annotate(
            label(point.name),
            (point.cost, point.accuracy),
            textcoords="offset pixels",
            xytext=(0, 0),
            fontsize=7,
            zorder=5,
            bbox={"facecolor": "white", "alpha": 0.6, "edgecolor": "none", "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": "black", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0},
        )
        text.set_in_layout(False)
        size = text.get_window_extent()
        dx, dy, adjacent = min(
            _offsets(size.width, size.height, radius, pixels_per_point),
            key=lambda offset: _overlap(_box(offset, x, y, size), occupied, frame),
        )
        # The anchor faces the dot: at another resolution, where the text has another width, it grows away from the dot.
        if dx + size.width <= 0:
            anchor = 1.0
            text.set_horizontalalignment("right")
        elif dx >= 0:
            anchor = 0.0
            text.set_horizontalalignment("left")
        else:
            anchor = 0.5
            text.set_horizontalalignment("center")
        text.set_position(((dx + anchor * size.width) / pixels_per_point, dy / pixels_per_point))
        text.set_anncoords("offset points")
        if adjacent:
            assert text.arrow_patch is not None
            text.arrow_patch.set_visible(False)
        occupied.append(_box((dx, dy, adjacent), x, y, size))


def _offsets(width: float, height: float, radius: float, pixels_per_point: float) -> list[tuple[float, float, bool]]:
    """Return candidate offsets of a name's lower left corner from its dot, best first; True if adjacent to the dot."""
    offsets = []
    for step in range(6):
        distance = radius + pixels_per_point * (2 + 9 * step)
        right, left, up, down = distance, -distance - width, distance, -distance - height
        middle, centre = -height / 2, -width / 2
        corner = 0.75 * distance
        candidates = [(right, middle), (left, middle), (centre, up), (centre, down), (corner, corner)]
        candidates += [(-corner - width, corner), (corner, -corner - height), (-corner - width, -corner - height)]
        offsets += [(*candidate, not step) for candidate in candidates]
    return offsets


def _box(offset: tuple[float, float, bool], x: float, y: float, size: Bbox) -> Bbox:
    return Bbox.from_bounds(x + offset[0], y + offset[1], size.width, size.height)


def _overlap(box: Bbox, occupied: Sequence[Bbox], frame: Bbox) -> float:
    """Return how much a name would overlap, plus three times how much of it is outside the frame, in square pixels."""
    outside = box.width * box.height - _intersection(box, frame)
    return 3 * outside + sum(_intersection(box, other) for other in occupied)


def _intersection(first: Bbox, second: Bbox) -> float:
    common = Bbox.intersection(first, second)
    return 0.0 if common is None else common.width * common.height
