"""Confusion matrices and reliability diagrams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from tercet.core.errors import DataError
from tercet.core.predictions import Predictions
from tercet.metrics.classification import calibration_error
from tercet.metrics.classification import reliability as reliability_rows
from tercet.plots.style import GREY, PALETTE, SEQUENTIAL, labels, legend, plain

_WITH_NUMBERS = 20
_WITH_NAMES = 60
_SIDE = 250
"""Cells a side that a picture can show; more classes are drawn in blocks."""
_PAIRS = 20


def confusion(axes: Axes, matrix: ArrayLike, classes: Sequence[str], *, rates: bool) -> Axes:
    """Draw a confusion matrix: a row is a true class, a column what was said.

    Up to 20 classes have numbers in their cells, up to 60 their names beside them; more are numbered, and very many
    are drawn in blocks of neighbours.

    Args:
        axes: Where to draw.
        matrix: K K counts.
        classes: K names.
        rates: Show shares of the true class instead of counts.

    Raises:
        DataError: The matrix is not K K.
    """
    counts = np.asarray(matrix)
    size = len(classes)
    if counts.shape != (size, size) or not size:
        raise DataError(f"the confusion matrix has shape {counts.shape}, expected ({size}, {size})")
    block = -(-size // _SIDE)
    shown = _in_blocks(counts, block).astype(np.float64)
    if rates:
        totals = shown.sum(axis=1, keepdims=True)
        shown = np.divide(shown, totals, out=np.full_like(shown, np.nan), where=totals > 0)
    norm = PowerNorm(0.5, 0, 1) if rates else _count_norm(shown)
    image = axes.imshow(shown, cmap=SEQUENTIAL, norm=norm, interpolation="nearest")
    axes.set_facecolor("#F2F2F2")  # rows without an image
    if size <= _WITH_NUMBERS:
        _numbers(axes, shown, norm, "percent" if rates else "count")
        axes.set_title("% of the true class" if rates else "images", fontsize="medium")
    else:
        what = ("share of the true class" + ("es" if block > 1 else "")) if rates else "images"
        axes.figure.colorbar(image, ax=axes, label=what, shrink=0.8)
    _sides(axes, classes, block)
    return axes


def confused_pairs(axes: Axes, pairs: Sequence[Mapping[str, Any]]) -> Axes:
    """Draw the commonest mistakes as bars, at most 20: a true class, and what was said instead.

    Args:
        axes: Where to draw.
        pairs: Rows with `truth`, `predicted`, `n` and `share` (of the true class), commonest first.
    """
    top = list(pairs[:_PAIRS])
    places = np.arange(len(top))
    axes.barh(places, [pair["n"] for pair in top], color=PALETTE[0], height=0.7)
    sides = labels([pair[side] for pair in top for side in ("truth", "predicted")], 24)
    names = [f"{truth} → {said}" for truth, said in zip(sides[::2], sides[1::2], strict=True)]
    axes.set_yticks(places, labels=names, fontsize="small")
    for place, pair in enumerate(top):
        text = f"{pair['n']} ({_percent(100 * pair['share'])} %)"
        axes.annotate(text, (pair["n"], place), (3, 0), textcoords="offset points", va="center", fontsize="small")
    if not top:
        axes.text(0.5, 0.5, "no mistakes", transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_xlabel("images (share of the true class)", loc="right")
    axes.invert_yaxis()
    axes.margins(x=0.18)
    return plain(axes)


def agreement(axes: Axes, matrix: ArrayLike, names: Sequence[str]) -> Axes:
    """Draw how often each two members say the same.

    Args:
        axes: Where to draw.
        matrix: M M shares of the images.
        names: M members.

    Raises:
        DataError: The matrix is not M M.
    """
    shares = np.asarray(matrix, dtype=np.float64)
    size = len(names)
    if shares.shape != (size, size) or not size:
        raise DataError(f"the agreement of {size} members has shape {shares.shape}, expected ({size}, {size})")
    norm = Normalize(min(float(shares.min()), 0.999), 1.0)
    image = axes.imshow(shares, cmap=SEQUENTIAL, norm=norm, interpolation="nearest")
    if size <= _WITH_NUMBERS:
        _numbers(axes, shares, norm, "share")
        axes.set_title("share of images with the same answer", fontsize="medium")
    else:
        axes.figure.colorbar(image, ax=axes, label="share of images with the same answer", shrink=0.8)
    _sides(axes, names, 1)
    axes.set_xlabel("")
    axes.set_ylabel("")
    return axes


def _in_blocks(counts: NDArray[Any], block: int) -> NDArray[Any]:
    if block == 1:
        return counts
    side = -(-len(counts) // block) * block
    padded = np.zeros((side, side), dtype=counts.dtype)
    padded[: len(counts), : len(counts)] = counts
    sums: NDArray[Any] = padded.reshape(side // block, block, side // block, block).sum(axis=(1, 3))
    return sums


def _count_norm(shown: NDArray[np.float64]) -> Normalize:
    most = float(shown.max(initial=1.0))
    return PowerNorm(0.5, 0, most) if len(shown) <= _WITH_NUMBERS or most < 2 else LogNorm(0.5, most)


def _numbers(axes: Axes, shown: NDArray[np.float64], norm: Normalize, kind: str) -> None:
    size = len(shown)
    font = 9 if size <= 6 else 7.5 if size <= 12 else 5.5
    for row, column in np.ndindex(shown.shape):
        value = float(shown[row, column])
        if not np.isfinite(value):
            continue
        text = (
            f"{value:.0f}"
            if kind == "count"
            else f"{value:.2f}"
            if kind == "share"
            else _percent(100 * value, fine=size <= 12)
        )
        shade = "white" if norm(value) > 0.55 else "black" if value else "#B0B0B0"
        axes.text(column, row, text, ha="center", va="center", fontsize=font, color=shade)


def _percent(value: float, *, fine: bool = False) -> str:
    """Return a percentage, `fine` to a tenth; only what is nothing is shown as 0, and only what is all as 100."""
    if value in (0, 100):
        return f"{value:.0f}"
    if fine or not 10 <= value < 99:
        return f"{min(max(value, 0.1), 99.9):.1f}"
    return f"{value:.0f}"


def _sides(axes: Axes, names: Sequence[str], block: int) -> None:
    size = len(names)
    axes.set_ylabel("true class")
    axes.set_xlabel("predicted class")
    if size <= _WITH_NAMES:
        font = 8 if size <= 12 else 6.5 if size <= 30 else 4.5
        shown = labels(names, 20)
        short = size <= 6 and max(map(len, shown)) * size <= 40
        turned: dict[str, Any] = {} if short else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(size), labels=shown, fontsize=font, **turned)
        axes.set_yticks(range(size), labels=shown, fontsize=font)
        return
    step = next(one for one in (10, 20, 25, 50, 100, 200, 250, 500, 1000, 5000, 10**9) if size / one <= 12)
    numbers = range(0, size, step)
    places = [number / block for number in numbers]
    axes.set_xticks(places, labels=[str(number) for number in numbers], fontsize=8)
    axes.set_yticks(places, labels=[str(number) for number in numbers], fontsize=8)
    note = f"; a cell is {block} by {block} classes" if block > 1 else ""
    axes.set_title(f"{size} classes{note}", fontsize="medium")
    axes.set_xlabel("predicted class, by number")
    axes.set_ylabel("true class, by number")


def reliability(axes: Axes, predictions: Predictions, bins: int = 15) -> Axes:
    """Draw the share right against the probability that was claimed, in bins of the latter.

    A bar ends at the share right of its bin, a stroke is at the mean probability claimed there: above the bar is
    overconfidence. Over each bar stands the number of images.

    Args:
        axes: Where to draw.
        predictions: Samples, some of them with labels.
        bins: Bins of equal width.

    Raises:
        DataError: No sample has a label, or there is only one class.
    """
    rows = reliability_rows(predictions, bins=bins)
    width = 1 / bins
    middles = [(row["low"] + row["high"]) / 2 for row in rows]
    axes.bar(middles, [row["accuracy"] for row in rows], width=0.92 * width, color=PALETTE[5])
    for middle, row in zip(middles, rows, strict=True):
        ends = (middle - 0.46 * width, middle + 0.46 * width)
        axes.plot(ends, [row["confidence"]] * 2, color=PALETTE[3], linewidth=2)
        place = max(row["accuracy"], row["confidence"]) + 0.005  # half a stroke
        turned = 90 if bins > 8 else 0
        axes.annotate(
            f"{row['n']:.0f}",
            (middle, place),
            (0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            rotation=turned,
            fontsize="x-small",
            color=GREY,
        )
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.16)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_xlabel("probability of the predicted class")
    axes.set_ylabel("share right")
    axes.set_title(f"expected calibration error {calibration_error(predictions, bins=bins):.3f}", fontsize="medium")
    handles = [Patch(color=PALETTE[5]), Line2D([], [], color=PALETTE[3], linewidth=2)]
    legend(axes, handles, ["share right", "mean probability claimed"])
    return plain(axes)
