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
from tercet.plots.style import GREY, PALETTE, SEQUENTIAL, despine, labels, legend

_MAX_WITH_NUMBERS = 20
_MAX_WITH_NAMES = 60
_MAX_CELLS = 250
"""Number of classes above which neighbouring classes are merged into blocks."""
_MAX_PAIRS = 20


def confusion(axes: Axes, matrix: ArrayLike, classes: Sequence[str], *, rates: bool) -> Axes:
    """Draw a confusion matrix: rows are true classes, columns predicted classes.

    Up to 20 classes have numbers in their cells, and up to 60 have names on the axes; more classes are numbered, and
    above 250 neighbouring classes are merged into blocks.

    Args:
        axes: Axes to draw on.
        matrix: K K counts.
        classes: K names.
        rates: Draw shares of the true class instead of counts.

    Raises:
        DataError: The matrix is not K K.
    """
    counts = np.asarray(matrix)
    size = len(classes)
    if counts.shape != (size, size) or not size:
        raise DataError(f"the confusion matrix has shape {counts.shape}, expected ({size}, {size})")
    block = -(-size // _MAX_CELLS)
    cells = _merge_blocks(counts, block).astype(np.float64)
    if rates:
        totals = cells.sum(axis=1, keepdims=True)
        cells = np.divide(cells, totals, out=np.full_like(cells, np.nan), where=totals > 0)
    norm = PowerNorm(0.5, 0, 1) if rates else _count_norm(cells)
    image = axes.imshow(cells, cmap=SEQUENTIAL, norm=norm, interpolation="nearest")
    axes.set_facecolor("#F2F2F2")  # rows of classes without images
    if size <= _MAX_WITH_NUMBERS:
        _draw_numbers(axes, cells, norm, "percent" if rates else "count")
        axes.set_title("% of the true class" if rates else "images", fontsize="medium")
    else:
        bar_label = ("share of the true class" + ("es" if block > 1 else "")) if rates else "images"
        axes.figure.colorbar(image, ax=axes, label=bar_label, shrink=0.8)
    _label_axes(axes, classes, block)
    return axes


def confused_pairs(axes: Axes, pairs: Sequence[Mapping[str, Any]]) -> Axes:
    """Draw the 20 most frequent confusions as bars.

    Args:
        axes: Axes to draw on.
        pairs: Rows with `truth`, `predicted`, `n` and `share` (of the true class), most frequent first.
    """
    top = list(pairs[:_MAX_PAIRS])
    positions = np.arange(len(top))
    axes.barh(positions, [pair["n"] for pair in top], color=PALETTE[0], height=0.7)
    classes = labels([pair[key] for pair in top for key in ("truth", "predicted")], 24)
    names = [f"{truth} → {predicted}" for truth, predicted in zip(classes[::2], classes[1::2], strict=True)]
    axes.set_yticks(positions, labels=names, fontsize="small")
    for position, pair in enumerate(top):
        text = f"{pair['n']} ({_percent(100 * pair['share'])} %)"
        axes.annotate(text, (pair["n"], position), (3, 0), textcoords="offset points", va="center", fontsize="small")
    if not top:
        axes.text(0.5, 0.5, "no mistakes", transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_xlabel("images (share of the true class)", loc="right")
    axes.invert_yaxis()
    axes.margins(x=0.18)
    return despine(axes)


def agreement(axes: Axes, matrix: ArrayLike, names: Sequence[str]) -> Axes:
    """Draw how often each pair of members predicts the same class.

    Args:
        axes: Axes to draw on.
        matrix: M M shares of images with equal predictions.
        names: M member names.

    Raises:
        DataError: The matrix is not M M.
    """
    shares = np.asarray(matrix, dtype=np.float64)
    size = len(names)
    if shares.shape != (size, size) or not size:
        raise DataError(f"the agreement of {size} members has shape {shares.shape}, expected ({size}, {size})")
    norm = Normalize(min(float(shares.min()), 0.999), 1.0)
    image = axes.imshow(shares, cmap=SEQUENTIAL, norm=norm, interpolation="nearest")
    if size <= _MAX_WITH_NUMBERS:
        _draw_numbers(axes, shares, norm, "share")
        axes.set_title("share of images with the same prediction", fontsize="medium")
    else:
        axes.figure.colorbar(image, ax=axes, label="share of images with the same prediction", shrink=0.8)
    _label_axes(axes, names, 1)
    axes.set_xlabel("")
    axes.set_ylabel("")
    return axes


def _merge_blocks(counts: NDArray[Any], block: int) -> NDArray[Any]:
    if block == 1:
        return counts
    side = -(-len(counts) // block) * block
    padded = np.zeros((side, side), dtype=counts.dtype)
    padded[: len(counts), : len(counts)] = counts
    sums: NDArray[Any] = padded.reshape(side // block, block, side // block, block).sum(axis=(1, 3))
    return sums


def _count_norm(cells: NDArray[np.float64]) -> Normalize:
    maximum = float(cells.max(initial=1.0))
    return PowerNorm(0.5, 0, maximum) if len(cells) <= _MAX_WITH_NUMBERS or maximum < 2 else LogNorm(0.5, maximum)


def _draw_numbers(axes: Axes, cells: NDArray[np.float64], norm: Normalize, kind: str) -> None:
    size = len(cells)
    font = 9 if size <= 6 else 7.5 if size <= 12 else 5.5
    for row, column in np.ndindex(cells.shape):
        value = float(cells[row, column])
        if not np.isfinite(value):
            continue
        text = (
            f"{value:.0f}"
            if kind == "count"
            else f"{value:.2f}"
            if kind == "share"
            else _percent(100 * value, precise=size <= 12)
        )
        text_colour = "white" if norm(value) > 0.55 else "black" if value else "#B0B0B0"
        axes.text(column, row, text, ha="center", va="center", fontsize=font, color=text_colour)


def _percent(value: float, *, precise: bool = False) -> str:
    """Return a percentage, if `precise` with one decimal; only exact values are shown as 0 or 100."""
    if value in (0, 100):
        return f"{value:.0f}"
    if precise or not 10 <= value < 99:
        return f"{min(max(value, 0.1), 99.9):.1f}"
    return f"{value:.0f}"


def _label_axes(axes: Axes, names: Sequence[str], block: int) -> None:
    size = len(names)
    axes.set_ylabel("true class")
    axes.set_xlabel("predicted class")
    if size <= _MAX_WITH_NAMES:
        font = 8 if size <= 12 else 6.5 if size <= 30 else 4.5
        texts = labels(names, 20)
        short = size <= 6 and max(map(len, texts)) * size <= 40
        rotation: dict[str, Any] = {} if short else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(size), labels=texts, fontsize=font, **rotation)
        axes.set_yticks(range(size), labels=texts, fontsize=font)
        return
    step = next(step for step in (10, 20, 25, 50, 100, 200, 250, 500, 1000, 5000, 10**9) if size / step <= 12)
    numbers = range(0, size, step)
    positions = [number / block for number in numbers]
    axes.set_xticks(positions, labels=[str(number) for number in numbers], fontsize=8)
    axes.set_yticks(positions, labels=[str(number) for number in numbers], fontsize=8)
    note = f"; each cell is {block} by {block} classes" if block > 1 else ""
    axes.set_title(f"{size} classes{note}", fontsize="medium")
    axes.set_xlabel("predicted class, by number")
    axes.set_ylabel("true class, by number")


def reliability(axes: Axes, predictions: Predictions, bins: int = 15) -> Axes:
    """Draw a reliability diagram: accuracy per bin of the predicted probability.

    Bars are the accuracy, horizontal lines the mean probability; a line above its bar means overconfidence. The number
    above each bar is the number of images.

    Args:
        axes: Axes to draw on.
        predictions: Predictions, at least one with a label.
        bins: Number of bins of equal width.

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
        top = max(row["accuracy"], row["confidence"]) + 0.005  # half the line width
        axes.annotate(
            f"{row['n']:.0f}",
            (middle, top),
            (0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            rotation=90 if bins > 8 else 0,
            fontsize="x-small",
            color=GREY,
        )
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.16)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_xlabel("probability of the predicted class")
    axes.set_ylabel("accuracy")
    axes.set_title(f"expected calibration error {calibration_error(predictions, bins=bins):.3f}", fontsize="medium")
    handles = [Patch(color=PALETTE[5]), Line2D([], [], color=PALETTE[3], linewidth=2)]
    legend(axes, handles, ["accuracy", "mean predicted probability"])
    return despine(axes)
