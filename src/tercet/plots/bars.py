"""Bar charts with intervals, and leaderboards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tercet.core.errors import DataError
from tercet.plots.style import GREY, PALETTE, colour, despine, label, labels, legend_above, rows_height

_MAX_BARS, _LOWEST, _HIGHEST = 60, 30, 10
_MAX_RANKS = 40
_SPREAD = 0.15
"""Below this spread relative to the largest value, points are drawn: bars from zero would all look alike."""


@dataclass(frozen=True)
class Bar:
    """A named value with an optional interval."""

    name: str
    """Bars with the same name are drawn next to each other."""
    value: float
    low: float | None = None
    """Lower bound of the interval."""
    high: float | None = None
    """Upper bound of the interval."""
    group: str = ""
    """Bars of one group have the same colour."""


def bars_height(bars: Sequence[Bar]) -> float:
    """Return the figure height in inches for these bars."""
    return rows_height(min(len(bars), _LOWEST + _HIGHEST + 1) if len(bars) > _MAX_BARS else len(bars))


def bars(axes: Axes, bars: Sequence[Bar], *, xlabel: str, baseline: float | None = None) -> Axes:
    """Draw horizontal bars with intervals, coloured by group.

    If the values are close together, points on a shorter axis replace the bars, because bars that do not start at zero
    are misleading. Of more than 60 bars, only the 30 lowest and the 10 highest are drawn.

    Args:
        axes: Axes of a figure with the height `bars_height`.
        bars: Bars from top to bottom.
        xlabel: Label of the values.
        baseline: Reference value, drawn as a line.

    Raises:
        DataError: There are no bars, or a value is not finite.
    """
    if not bars or not all(math.isfinite(bar.value) for bar in bars):
        raise DataError("a bar chart needs at least one bar, and finite values")
    drawn, num_hidden = _select_bars(bars)
    groups = list(dict.fromkeys(bar.group for bar in bars))
    positions = _positions(drawn, num_hidden)
    points, decimals = _use_points(drawn, baseline), _num_decimals([bar.value for bar in drawn])
    for bar, y, height in positions:
        bar_colour = colour(groups.index(bar.group))
        _draw_value(axes, bar.value, y, bar_colour, height=0.86 * height, points=points)
        if bar.low is not None and bar.high is not None:
            _draw_interval(axes, (bar.low, bar.high), y, bar_colour if points else "black", outlined=not points)
        _annotate_value(axes, f"{bar.value:.{decimals}f}", y)
    _set_names(axes, positions, num_hidden)
    if baseline is not None:
        axes.axvline(baseline, color=GREY, linewidth=1, linestyle="--", zorder=1)
    axes.set_xlabel(xlabel, loc="right")  # on the right, because long names are on the left
    if points:
        axes.margins(x=0.06)
    elif any(bar.value < 0 for bar in drawn):
        axes.axvline(0, color="black", linewidth=0.8, zorder=6)
    if len(groups) > 1:
        handles = [
            Line2D([], [], color=colour(index), marker="o", linestyle="") if points else Patch(color=colour(index))
            for index in range(len(groups))
        ]
        legend_above(axes, handles, [label(group) for group in groups])
    return despine(axes, grid="x")


def leaderboard_height(others: Sequence[tuple[str, float]], ours: Mapping[str, float]) -> float:
    """Return the figure height in inches for a leaderboard of these scores."""
    ranks = _visible_ranks([is_ours for *_, is_ours in _ranking(others, ours)])
    return rows_height(len(ranks) + sum(after > before + 1 for before, after in pairwise(ranks)) + 1)


def leaderboard(axes: Axes, others: Sequence[tuple[str, float]], ours: Mapping[str, float]) -> Axes:
    """Draw scores of others and our scores in one ranking, best first, in two colours.

    Long rankings are reduced to the best ten and the ranks around our scores.

    Args:
        axes: Axes of a figure with the height `leaderboard_height`.
        others: Names and scores of others, higher is better.
        ours: Our scores by name.

    Raises:
        DataError: There are no scores.
    """
    ranked = _ranking(others, ours)
    if not ranked:
        raise DataError("the leaderboard has no scores")
    ranks = _visible_ranks([is_ours for *_, is_ours in ranked])
    values = [ranked[rank][1] for rank in ranks]
    points = _use_points([Bar("", value) for value in values], None)
    decimals = max(_num_decimals(values), _distinguishing_decimals(values))
    ticks, names, y = [], [], 0
    previous = -1
    for rank in [*ranks, len(ranked)]:
        if rank > previous + 1:
            ticks.append(y)
            names.append(f"… {rank - previous - 1} others …")
            y += 1
        previous = rank
        if rank == len(ranked):
            break
        name, score, is_ours = ranked[rank]
        _draw_value(axes, score, y, PALETTE[3] if is_ours else PALETTE[5], height=0.75, points=points)
        _annotate_value(axes, f"{score:.{decimals}f}", y, bold=is_ours)
        ticks.append(y)
        names.append(f"{rank + 1}. {label(name)}")
        y += 1
    axes.set_yticks(ticks, labels=names, fontsize="small")
    axes.set_ylim(y - 0.4, -0.6)
    axes.set_xlabel("score", loc="right")
    if ours and others:
        handles = [
            Line2D([], [], color=value, marker="o", linestyle="") if points else Patch(color=value)
            for value in (PALETTE[3], PALETTE[5])
        ]
        legend_above(axes, handles, ["ours", "others"])
    return despine(axes, grid="x")


def _select_bars(bars: Sequence[Bar]) -> tuple[list[Bar], int]:
    """Return the bars to draw, and the number of hidden bars between the lowest and the highest."""
    if len(bars) <= _MAX_BARS:
        return list(bars), 0
    order = sorted(bars, key=lambda bar: bar.value)
    return order[:_LOWEST] + order[-_HIGHEST:], len(bars) - _LOWEST - _HIGHEST


def _positions(bars: Sequence[Bar], num_hidden: int) -> list[tuple[Bar, float, float]]:
    """Return each bar with its y position and height; the bars of a name share one unit."""
    if num_hidden:
        return [(bar, index + (index >= _LOWEST), 1.0) for index, bar in enumerate(bars)]
    by_name: dict[str, list[Bar]] = {}
    for bar in bars:
        by_name.setdefault(bar.name, []).append(bar)
    positions = []
    for index, same_name in enumerate(by_name.values()):
        height = 0.9 / len(same_name)
        positions += [(bar, index - 0.45 + (rank + 0.5) * height, height) for rank, bar in enumerate(same_name)]
    return positions


def _set_names(axes: Axes, positions: Sequence[tuple[Bar, float, float]], num_hidden: int) -> None:
    if num_hidden:
        ticks = [y for _, y, _ in positions]
        names = labels([bar.name for bar, *_ in positions])
        ticks.insert(_LOWEST, _LOWEST)
        names.insert(_LOWEST, f"… {num_hidden} between them …")
    else:
        by_name: dict[str, list[float]] = {}
        for bar, y, _ in positions:
            by_name.setdefault(bar.name, []).append(y)
        ticks = [float(np.mean(values)) for values in by_name.values()]
        names = labels(list(by_name))
    axes.set_yticks(ticks, labels=names, fontsize="small")
    axes.set_ylim(max(y for _, y, _ in positions) + 0.7, -0.7)


def _use_points(bars: Sequence[Bar], baseline: float | None) -> bool:
    """Return whether the values are so close together that bars from zero would hide their differences."""
    values = [value for bar in bars for value in (bar.value, bar.low, bar.high) if value is not None]
    values += [] if baseline is None else [baseline]
    return min(values) > 0 and max(values) - min(values) < _SPREAD * max(values)


def _num_decimals(values: Sequence[float]) -> int:
    """Return the number of decimals with which the largest value has four digits."""
    largest = max(abs(value) for value in values)
    return max(0, min(4, 3 - math.floor(math.log10(largest)))) if largest else 0


def _distinguishing_decimals(values: Sequence[float]) -> int:
    """Return the number of decimals, at most six, with which different values have different texts."""
    gaps = [larger - smaller for larger, smaller in pairwise(sorted(values, reverse=True)) if larger > smaller]
    return min(6, max(0, math.ceil(-math.log10(min(gaps))))) if gaps else 0


def _draw_value(axes: Axes, value: float, y: float, bar_colour: str, *, height: float, points: bool) -> None:
    if points:
        axes.plot(value, y, "o", color=bar_colour, markersize=5, zorder=3)
    else:
        axes.barh(y, value, height=height, color=bar_colour, zorder=2)


def _draw_interval(axes: Axes, ends: tuple[float, float], y: float, line_colour: str, *, outlined: bool) -> None:
    if outlined:  # so that a black line is visible on a dark bar
        axes.plot(ends, [y, y], color="white", linewidth=3, solid_capstyle="butt", zorder=4)
    axes.plot(ends, [y, y], color=line_colour, linewidth=1.4, solid_capstyle="butt", zorder=5)


def _annotate_value(axes: Axes, text: str, y: float, *, bold: bool = False) -> None:
    """Write a value at the right margin, where it does not overlap anything."""
    axes.annotate(
        text,
        (1.0, y),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize="x-small",
        fontweight="bold" if bold else "normal",
        annotation_clip=False,
    )


def _ranking(others: Sequence[tuple[str, float]], ours: Mapping[str, float]) -> list[tuple[str, float, bool]]:
    rows = [(name, score, False) for name, score in others] + [(name, score, True) for name, score in ours.items()]
    return sorted(rows, key=lambda row: (-row[1], not row[2], row[0]))


def _visible_ranks(is_ours: Sequence[bool]) -> list[int]:
    if len(is_ours) <= _MAX_RANKS:
        return list(range(len(is_ours)))
    near = [rank + step for rank, value in enumerate(is_ours) if value for step in (-2, -1, 0, 1, 2)]
    return sorted({rank for rank in (*range(10), *near) if 0 <= rank < len(is_ours)})[:_MAX_RANKS]
