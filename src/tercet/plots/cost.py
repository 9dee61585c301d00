"""What accuracy costs: operations, time, and parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from tercet.core.errors import DataError
from tercet.metrics.tables import short_count
from tercet.plots.style import GREY, PALETTE, drawing, label, plain

_LARGEST = 700.0
"""Area of the largest dot, in square points."""
_DOT: dict[str, Any] = {"color": PALETTE[0], "alpha": 0.45, "edgecolors": "none"}


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

    Names stand where they cover neither dots nor one another, as far as there is room: draw all else of the figure,
    and fix its size, before.

    Args:
        axes: Where to draw.
        points: The networks; those whose cost is not positive are left out.
        xlabel: What the cost is.

    Raises:
        DataError: There is no network with a positive cost.
    """
    drawn = [point for point in points if point.cost > 0]
    if not drawn:
        raise DataError("no network has a positive cost to draw its accuracy against")
    most = max(1, *(point.parameters for point in drawn))
    areas = [_LARGEST * point.parameters / most for point in drawn]
    costs, accuracies = [point.cost for point in drawn], [point.accuracy for point in drawn]
    for point in drawn:
        if point.low is not None and point.high is not None:
            axes.plot([point.cost] * 2, [point.low, point.high], color=GREY, linewidth=1, zorder=2)
    axes.scatter(costs, accuracies, s=areas, zorder=3, **_DOT)
    axes.scatter(costs, accuracies, s=6, color=PALETTE[0], zorder=4)
    axes.set_xscale("log")
    room = max(1.6, (max(costs) / min(costs)) ** 0.12)
    axes.set_xlim(min(costs) / room, max(costs) * room)
    axes.margins(y=0.15)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("accuracy")
    if max(costs) < 20 * min(costs):
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep="") if min(costs) >= 1e3 else FuncFormatter(_few_digits))
        axes.xaxis.set_minor_formatter(NullFormatter())
    _sizes(axes, most)
    plain(axes, grid="y")
    with drawing():
        _name_all(axes, drawn, areas)
    return axes


def _few_digits(value: float, place: int | None = None) -> str:
    return f"{value:.3g}"


def _sizes(axes: Axes, most: int) -> None:
    """Say what the areas mean, by two round numbers."""
    power = 10 ** math.floor(math.log10(most))
    large = max(step * power for step in (1, 2, 5) if step * power <= most)
    sizes = [size for size in (large // 10, large) if size]
    handles = [axes.scatter([], [], s=_LARGEST * size / most, **_DOT) for size in sizes]
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


def _name_all(axes: Axes, points: Sequence[Cost], areas: Sequence[float]) -> None:
    """Put each name beside its dot, one after the other, at the first place that is free, else at the least covered."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # where things are is known after the layout only
    unit = figure.dpi / 72  # pixels a point
    frame = axes.get_window_extent()
    centres = [axes.transData.transform((point.cost, point.accuracy)) for point in points]
    radii = [unit * max(3.0, math.sqrt(area / math.pi)) for area in areas]
    taken = [Bbox.from_extents(x - r, y - r, x + r, y + r) for (x, y), r in zip(centres, radii, strict=True)]
    for point, (x, y), radius in sorted(zip(points, centres, radii, strict=True), key=lambda one: -one[1][1]):
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
        best = min(
            _offsets(size.width, size.height, radius, unit), key=lambda at: _covered(at, x, y, size, taken, frame)
        )
        # Anchored on the dot's side: at another resolution the name has another width, and grows away from the dot.
        if best[0] + size.width <= 0:
            share = 1.0
            text.set_horizontalalignment("right")
        elif best[0] >= 0:
            share = 0.0
            text.set_horizontalalignment("left")
        else:
            share = 0.5
            text.set_horizontalalignment("center")
        text.set_position(((best[0] + share * size.width) / unit, best[1] / unit))
        text.set_anncoords("offset points")
        if best[2]:
            assert text.arrow_patch is not None
            text.arrow_patch.set_visible(False)
        taken.append(_box(best, x, y, size))


def _offsets(width: float, height: float, radius: float, unit: float) -> list[tuple[float, float, bool]]:
    """Return where a name may begin, from its dot, the best places first; True where it is beside the dot."""
    found = []
    for step in range(6):
        away = radius + unit * (2 + 9 * step)
        right, left, up, down = away, -away - width, away, -away - height
        middle, centre = -height / 2, -width / 2
        corner = 0.75 * away
        spots = [(right, middle), (left, middle), (centre, up), (centre, down), (corner, corner)]
        spots += [(-corner - width, corner), (corner, -corner - height), (-corner - width, -corner - height)]
        found += [(*spot, not step) for spot in spots]
    return found


def _box(at: tuple[float, float, bool], x: float, y: float, size: Bbox) -> Bbox:
    return Bbox.from_bounds(x + at[0], y + at[1], size.width, size.height)


def _covered(
    at: tuple[float, float, bool], x: float, y: float, size: Bbox, taken: Sequence[Bbox], frame: Bbox
) -> float:
    """Return how much a name there would cover or lose, in square pixels."""
    box = _box(at, x, y, size)
    lost = box.width * box.height - _shared(box, frame)
    return 3 * lost + sum(_shared(box, other) for other in taken)


def _shared(one: Bbox, other: Bbox) -> float:
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else common.width * common.height
