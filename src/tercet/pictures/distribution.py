"""How many of what there is: images a class, and values of anything."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from tercet.ground.errors import DataError
from tercet.pictures.style import PALETTE, colour, label, plain, rows_height

_NAMED = 60


def counts_height(counts: Mapping[str, int]) -> float:
    """Return the inches that a figure of these classes needs."""
    return rows_height(len(counts)) if len(counts) <= _NAMED else 4.0


def class_counts(axes: Axes, counts: Mapping[str, int], splits: Mapping[str, Mapping[str, int]] | None = None) -> Axes:
    """Draw how many images each class has, the largest first; beyond 60 classes as one falling curve.

    Args:
        axes: Where to draw; `counts_height` says how high.
        counts: Images of each class.
        splits: The same by split, drawn one after the other in each bar.

    Raises:
        DataError: There is no class.
    """
    if not counts:
        raise DataError("there is no class to count")
    order = sorted(counts, key=lambda name: -counts[name])
    parts = splits or {"": counts}
    many = len(order) > _NAMED
    places = np.arange(len(order))
    before = np.zeros(len(order))
    for index, part in enumerate(parts.values()):
        here = np.array([part.get(name, 0) for name in order], dtype=np.float64)
        if many:
            axes.fill_between(places, before, before + here, step="mid", color=colour(index), linewidth=0)
        else:
            axes.barh(places, here, left=before, height=0.75, color=colour(index))
        before += here
    if many:
        axes.set_xlabel(f"{len(order)} classes, largest first")
        axes.set_ylabel("images")
        axes.set_xlim(-0.5, len(order) - 0.5)
        axes.set_ylim(bottom=0)
        for rank, what in ((0, "largest"), (len(order) // 2, "middle"), (len(order) - 1, "smallest")):
            _name_class(axes, rank, counts[order[rank]], f"{what}: {label(order[rank], 20)} {counts[order[rank]]}")
    else:
        axes.set_yticks(places, labels=[label(name) for name in order], fontsize="small")
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_xlabel("images")
        for place, name in zip(places, order, strict=True):
            text = f"{counts[name]}"
            axes.annotate(text, (before[place], place), (3, 0), textcoords="offset points", va="center", fontsize=7)
        axes.margins(x=0.1)
    if splits:
        axes.legend(
            [Patch(color=colour(index)) for index in range(len(splits))],
            [label(name) for name in splits],
            fontsize="small",
            frameon=False,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=4,
            borderaxespad=0.2,
        )
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
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return plain(axes, grid="y")


def _name_class(axes: Axes, place: int, count: int, text: str) -> None:
    axes.annotate(text, (place, count), (0, 4), textcoords="offset points", fontsize="x-small", ha="left", va="bottom")
