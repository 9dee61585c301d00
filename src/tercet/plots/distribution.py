"""Number of images per class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from tercet.core.errors import DataError
from tercet.plots.style import colour, despine, label, labels, legend_above, rows_height

_MAX_BARS = 60
_LOG_RATIO = 30
"""Ratio of the largest to the smallest class above which the scale is logarithmic."""


def counts_height(counts: Mapping[str, int]) -> float:
    """Return the figure height in inches for these classes."""
    return rows_height(len(counts)) if len(counts) <= _MAX_BARS else 4.0


def class_counts(axes: Axes, counts: Mapping[str, int], splits: Mapping[str, Mapping[str, int]] | None = None) -> Axes:
    """Draw the number of images per class, largest first: bars, or curves for more than 60 classes.

    Args:
        axes: Axes of a figure with the height `counts_height`.
        counts: Number of images per class.
        splits: Number of images per class, by split; drawn as stacked bars, or as several curves.

    Raises:
        DataError: There are no classes.
    """
    if not counts:
        raise DataError("there are no classes to count")
    ranked = dict(sorted(counts.items(), key=lambda item: -item[1]))
    many = len(ranked) > _MAX_BARS
    (_draw_curves if many else _draw_bars)(axes, ranked, splits or {"": counts})
    if splits:
        handles = [Patch(color=colour(index)) for index in range(len(splits))]
        legend_above(axes, handles, [label(name) for name in splits])
    return despine(axes, grid="y" if many else "x")


def _draw_bars(axes: Axes, ranked: Mapping[str, int], splits: Mapping[str, Mapping[str, int]]) -> None:
    """Draw one stacked bar per class."""
    positions = np.arange(len(ranked))
    totals = np.zeros(len(ranked))
    for index, counts in enumerate(splits.values()):
        widths = np.array([counts.get(name, 0) for name in ranked])
        axes.barh(positions, widths, left=totals, height=0.75, color=colour(index))
        totals += widths
    for position, count in enumerate(ranked.values()):
        end = (float(totals[position]), position)
        axes.annotate(f"{count}", end, (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(positions, labels=labels(list(ranked)), fontsize="small")
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_xlabel("images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.1)


def _draw_curves(axes: Axes, ranked: Mapping[str, int], splits: Mapping[str, Mapping[str, int]]) -> None:
    """Draw one line per split over all classes, and name the largest, the median and the smallest class."""
    positions = np.arange(len(ranked))
    for index, values in enumerate(splits.values()):
        axes.step(positions, [values.get(name, 0) for name in ranked], where="mid", color=colour(index), linewidth=1.2)
    names, counts = list(ranked), list(ranked.values())
    if counts[0] > _LOG_RATIO * max(1, counts[-1]):
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.set_xlabel(f"{len(ranked)} classes, the largest first")
    axes.set_ylabel("images")
    axes.set_xlim(-0.5, len(ranked) - 0.5)
    axes.set_ylim(0, counts[0] * (4 if axes.get_yscale() == "symlog" else 1.25) or 1)
    notes = ((0, "left", "largest"), (len(names) // 2, "center", "middle"), (len(names) - 1, "right", "smallest"))
    short = labels([names[rank] for rank, *_ in notes], 20)
    for step, (name, (rank, alignment, what)) in enumerate(zip(short, notes, strict=True)):
        text = f"{what}: {name} ({counts[rank]})"
        height = max(counts[rank], max(values.get(names[rank], 0) for values in splits.values()))
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
        offset = (4 * (not rank), 7 + 13 * step)  # increasing, because all counts may be equal
        axes.annotate(
            text, (rank, height), offset, textcoords="offset points", fontsize="x-small", ha=alignment, bbox=box
        )
        axes.plot(rank, height, ".", color="black", markersize=4)
