"""How many of what there is: images a class, and values of anything."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import ArrayLike

from tercet.core.errors import DataError
from tercet.plots.style import PALETTE, colour, label, labels, legend_above, plain, rows_height

_NAMED = 60
_WIDE = 30
"""Ratio of the largest class to the smallest from which a linear scale would hide the small ones."""


def counts_height(counts: Mapping[str, int]) -> float:
    """Return the inches that a figure of these classes needs."""
    return rows_height(len(counts)) if len(counts) <= _NAMED else 4.0


def class_counts(axes: Axes, counts: Mapping[str, int], splits: Mapping[str, Mapping[str, int]] | None = None) -> Axes:
    """Draw how many images each class has, the largest first; beyond 60 classes as falling curves.

    Args:
        axes: Where to draw; `counts_height` says how high.
        counts: Images of each class.
        splits: The same by split: parts of each bar, or curves.

    Raises:
        DataError: There is no class.
    """
    if not counts:
        raise DataError("there is no class to count")
    ranked = dict(sorted(counts.items(), key=lambda item: -item[1]))
    many = len(ranked) > _NAMED
    (_curve if many else _counted)(axes, ranked, splits or {"": counts})
    if splits:
        handles = [Patch(color=colour(index)) for index in range(len(splits))]
        legend_above(axes, handles, [label(name) for name in splits])
    return plain(axes, grid="y" if many else "x")


def histogram(axes: Axes, values: ArrayLike, *, xlabel: str, ylabel: str = "images", bins: int = 40) -> Axes:
    """Draw how often values occur.

    Args:
        axes: Where to draw.
        values: Any numbers; those that are not finite are left out.
        xlabel: What they are.
        ylabel: What is counted.
        bins: Bars at most; whole numbers of a small range get one each.

    Raises:
        DataError: None of them is finite.
    """
    found = np.asarray(values, dtype=np.float64).ravel()
    found = found[np.isfinite(found)]
    if not found.size:
        raise DataError(f"there is no value of '{xlabel}' to draw")
    low, high = float(found.min()), float(found.max())
    whole = bool((found == np.round(found)).all()) and high - low < bins
    edges = np.arange(low - 0.5, high + 1) if whole else np.linspace(low, high, bins + 1)
    axes.hist(found, bins=list(edges), color=PALETTE[0], rwidth=0.92)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(low - 1.5, high + 1.5)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return plain(axes, grid="y")


def _counted(axes: Axes, ranked: Mapping[str, int], parts: Mapping[str, Mapping[str, int]]) -> None:
    """Draw a bar a class, made of its parts."""
    places = np.arange(len(ranked))
    before = np.zeros(len(ranked))
    for index, part in enumerate(parts.values()):
        here = np.array([part.get(name, 0) for name in ranked])
        axes.barh(places, here, left=before, height=0.75, color=colour(index))
        before += here
    for place, count in enumerate(ranked.values()):
        end = (float(before[place]), place)
        axes.annotate(f"{count}", end, (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(places, labels=labels(list(ranked)), fontsize="small")
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_xlabel("images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.1)


def _curve(axes: Axes, ranked: Mapping[str, int], parts: Mapping[str, Mapping[str, int]]) -> None:
    """Draw a line a part over all classes, and name the largest class, the middle one and the smallest."""
    places = np.arange(len(ranked))
    for index, part in enumerate(parts.values()):
        here = [part.get(name, 0) for name in ranked]
        axes.step(places, here, where="mid", color=colour(index), linewidth=1.2)
    names, counts = list(ranked), list(ranked.values())
    if counts[0] > _WIDE * max(1, counts[-1]):
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.set_xlabel(f"{len(ranked)} classes, the largest first")
    axes.set_ylabel("images")
    axes.set_xlim(-0.5, len(ranked) - 0.5)
    axes.set_ylim(0, counts[0] * (4 if axes.get_yscale() == "symlog" else 1.25) or 1)
    notes = ((0, "left", "largest"), (len(names) // 2, "center", "middle"), (len(names) - 1, "right", "smallest"))
    short = labels([names[rank] for rank, *_ in notes], 20)
    for step, (name, (rank, side, what)) in enumerate(zip(short, notes, strict=True)):
        text = f"{what}: {name} ({counts[rank]})"
        over = max(counts[rank], max(part.get(names[rank], 0) for part in parts.values()))
        place = (rank, over)
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
        beside = (4 * (not rank), 7 + 13 * step)  # each higher than the one before: all may be equally large
        axes.annotate(text, place, beside, textcoords="offset points", fontsize="x-small", ha=side, bbox=box)
        axes.plot(*place, ".", color="black", markersize=4)
