"""Bars: one setting against another, subjects, classes, an ensemble against its members, and leaderboards."""

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
from tercet.plots.style import GREY, PALETTE, colour, label, labels, legend_above, plain, rows_height

_MOST, _LOWEST, _HIGHEST = 60, 30, 10
_BOARD = 40
_SPREAD = 0.15
"""Where values differ by less than this share of the largest, bars from zero would all look alike."""


@dataclass(frozen=True)
class Bar:
    """One value with a name."""

    name: str
    """What was measured; bars of one name stand together."""
    value: float
    """How much."""
    low: float | None = None
    """Lower end of its interval, if it has one."""
    high: float | None = None
    """Upper end of it."""
    group: str = ""
    """Setting or kind: bars of one group have one colour."""


def bars_height(bars: Sequence[Bar]) -> float:
    """Return the inches that a figure of these bars needs."""
    return rows_height(min(len(bars), _LOWEST + _HIGHEST + 1) if len(bars) > _MOST else len(bars))


def bars(axes: Axes, bars: Sequence[Bar], *, xlabel: str, baseline: float | None = None) -> Axes:
    """Draw horizontal bars with their intervals, in the order given, coloured by group.

    Where the values lie close together, points on a shorter axis take the place of bars: a bar that does not begin at
    zero misleads. Of more than 60 bars, the 30 lowest and the 10 highest are shown, and how many are between.

    Args:
        axes: Where to draw; `bars_height` says how high.
        bars: What to draw.
        xlabel: What the values are.
        baseline: A value to compare with, drawn as a line.

    Raises:
        DataError: There is no bar, or one without a finite value.
    """
    if not bars or not all(math.isfinite(bar.value) for bar in bars):
        raise DataError("bars need values, at least one, and all of them finite")
    shown, left_out = _few(bars)
    groups = list(dict.fromkeys(bar.group for bar in bars))
    places = _places(shown, left_out)
    points, digits = _close(shown, baseline), _digits([bar.value for bar in shown])
    for bar, place, height in places:
        shade = colour(groups.index(bar.group))
        _mark(axes, bar.value, place, shade, height=0.86 * height, points=points)
        if bar.low is not None and bar.high is not None:
            _interval(axes, (bar.low, bar.high), place, shade if points else "black", halo=not points)
        _value(axes, f"{bar.value:.{digits}f}", place)
    _names(axes, places, left_out)
    if baseline is not None:
        axes.axvline(baseline, color=GREY, linewidth=1, linestyle="--", zorder=1)
    axes.set_xlabel(xlabel, loc="right")  # under long names there is room to the left
    if points:
        axes.margins(x=0.06)
    elif any(bar.value < 0 for bar in shown):
        axes.axvline(0, color="black", linewidth=0.8, zorder=6)
    if len(groups) > 1:
        handles = [
            Line2D([], [], color=colour(index), marker="o", linestyle="") if points else Patch(color=colour(index))
            for index in range(len(groups))
        ]
        legend_above(axes, handles, [label(group) for group in groups])
    return plain(axes, grid="x")


def leaderboard_height(rows: Sequence[tuple[str, float]], own: Mapping[str, float]) -> float:
    """Return the inches that a leaderboard of these scores needs."""
    kept = _around_own([mine for *_, mine in _ranking(rows, own)])
    return rows_height(len(kept) + sum(after > before + 1 for before, after in pairwise(kept)) + 1)


def leaderboard(axes: Axes, rows: Sequence[tuple[str, float]], own: Mapping[str, float]) -> Axes:
    """Draw scores of others and one's own in one ranking, best first, one's own in another colour.

    Of very many, the best ten and those around one's own are shown.

    Args:
        axes: Where to draw; `leaderboard_height` says how high.
        rows: Names and scores of others, higher is better.
        own: One's own scores by name.

    Raises:
        DataError: There is no score.
    """
    ranked = _ranking(rows, own)
    if not ranked:
        raise DataError("the leaderboard has no score")
    kept = _around_own([mine for *_, mine in ranked])
    values = [ranked[index][1] for index in kept]
    points, digits = _close([Bar("", value) for value in values], None), max(_digits(values), _apart(values))
    ticks, names, place = [], [], 0
    previous = -1
    for index in [*kept, len(ranked)]:
        if index > previous + 1:
            ticks.append(place)
            names.append(f"… {index - previous - 1} others …")
            place += 1
        previous = index
        if index == len(ranked):
            break
        name, score, mine = ranked[index]
        shade = PALETTE[3] if mine else PALETTE[5]
        _mark(axes, score, place, shade, height=0.75, points=points)
        _value(axes, f"{score:.{digits}f}", place, bold=mine)
        ticks.append(place)
        names.append(f"{index + 1}. {label(name)}")
        place += 1
    axes.set_yticks(ticks, labels=names, fontsize="small")
    axes.set_ylim(place - 0.4, -0.6)
    axes.set_xlabel("score", loc="right")
    if own and rows:
        handles = [
            Line2D([], [], color=shade, marker="o", linestyle="") if points else Patch(color=shade)
            for shade in (PALETTE[3], PALETTE[5])
        ]
        legend_above(axes, handles, ["own", "others"])
    return plain(axes, grid="x")


def _few(bars: Sequence[Bar]) -> tuple[list[Bar], int]:
    """Return the bars to draw, and how many are left out after the lowest of them."""
    if len(bars) <= _MOST:
        return list(bars), 0
    order = sorted(bars, key=lambda bar: bar.value)
    return order[:_LOWEST] + order[-_HIGHEST:], len(bars) - _LOWEST - _HIGHEST


def _places(bars: Sequence[Bar], left_out: int) -> list[tuple[Bar, float, float]]:
    """Return each bar with its place and height; one unit a name, and the bars of a name share it."""
    if left_out:
        return [(bar, index + (index >= _LOWEST), 1.0) for index, bar in enumerate(bars)]
    members: dict[str, list[Bar]] = {}
    for bar in bars:
        members.setdefault(bar.name, []).append(bar)
    found = []
    for index, together in enumerate(members.values()):
        height = 0.9 / len(together)
        found += [(bar, index - 0.45 + (rank + 0.5) * height, height) for rank, bar in enumerate(together)]
    return found


def _names(axes: Axes, places: Sequence[tuple[Bar, float, float]], left_out: int) -> None:
    middles: dict[str, list[float]] = {}
    if left_out:
        ticks = [place for _, place, _ in places]
        names = labels([bar.name for bar, *_ in places])
        ticks.insert(_LOWEST, _LOWEST)
        names.insert(_LOWEST, f"… {left_out} between them …")
    else:
        for bar, place, _ in places:
            middles.setdefault(bar.name, []).append(place)
        ticks = [float(np.mean(together)) for together in middles.values()]
        names = labels(list(middles))
    axes.set_yticks(ticks, labels=names, fontsize="small")
    axes.set_ylim(max(place for _, place, _ in places) + 0.7, -0.7)


def _close(bars: Sequence[Bar], baseline: float | None) -> bool:
    """Return whether the values lie so close together that bars from zero would hide their differences."""
    values = [value for bar in bars for value in (bar.value, bar.low, bar.high) if value is not None]
    values += [] if baseline is None else [baseline]
    return min(values) > 0 and max(values) - min(values) < _SPREAD * max(values)


def _digits(values: Sequence[float]) -> int:
    """Return the decimals with which the largest value has four digits."""
    most = max(abs(value) for value in values)
    return max(0, min(4, 3 - math.floor(math.log10(most)))) if most else 0


def _mark(axes: Axes, value: float, place: float, shade: str, *, height: float, points: bool) -> None:
    if points:
        axes.plot(value, place, "o", color=shade, markersize=5, zorder=3)
    else:
        axes.barh(place, value, height=height, color=shade, zorder=2)


def _interval(axes: Axes, ends: tuple[float, float], place: float, shade: str, *, halo: bool) -> None:
    if halo:  # a black line must be seen on a dark bar too
        axes.plot(ends, [place, place], color="white", linewidth=3, solid_capstyle="butt", zorder=4)
    axes.plot(ends, [place, place], color=shade, linewidth=1.4, solid_capstyle="butt", zorder=5)


def _value(axes: Axes, text: str, place: float, *, bold: bool = False) -> None:
    """Write a value at the right margin, where it covers nothing."""
    axes.annotate(
        text,
        (1.0, place),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize="x-small",
        fontweight="bold" if bold else "normal",
        annotation_clip=False,
    )


def _apart(values: Sequence[float]) -> int:
    """Return the decimals, six at most, that tell values which are not equal."""
    gaps = [one - other for one, other in pairwise(sorted(values, reverse=True)) if one > other]
    return min(6, max(0, math.ceil(-math.log10(min(gaps))))) if gaps else 0


def _ranking(rows: Sequence[tuple[str, float]], own: Mapping[str, float]) -> list[tuple[str, float, bool]]:
    return sorted([(name, score, False) for name, score in rows] + [(*item, True) for item in own.items()], key=_rank)


def _rank(row: tuple[str, float, bool]) -> tuple[float, bool, str]:
    name, score, mine = row
    return -score, not mine, name


def _around_own(mine: Sequence[bool]) -> list[int]:
    if len(mine) <= _BOARD:
        return list(range(len(mine)))
    near = [place + step for place, own in enumerate(mine) if own for step in (-2, -1, 0, 1, 2)]
    return sorted({place for place in (*range(10), *near) if 0 <= place < len(mine)})[:_BOARD]
