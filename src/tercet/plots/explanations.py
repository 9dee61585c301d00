"""What a network saw: maps over the picture, contributions of steps, answers, filters and feature maps.

Pictures are drawn in their own pixels, whatever the resolution at hand, so that maps and bars stand where they belong.
Shapes: H x W pixels of the picture, h x w of what is drawn of it, T steps, N tiles of k x k pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from tercet.plots.style import GREY, PALETTE, label, new_figure, plain

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
FOR, AGAINST = PALETTE[0], PALETTE[3]
"""Colours of what speaks for a class and of what speaks against it."""
_HEAT, _SIGNED = "viridis", "RdBu"
_LONGEST = 480
_SLIMMEST = 1 / 12
_PALEST = 90
_LINE = 34
_TILE = 14
_TICKS, _ROUND = 3, (1, 2, 5, 10)
_GROUND = np.array([0.84, 0.91, 0.97])


def downscaled(image: Pixels) -> Pixels:
    """Return a picture H W C as h w C, fit to be drawn small."""
    height, width = image.shape[:2]
    ratio = _LONGEST / max(height, width)
    if ratio >= 1:
        return image
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    plane = image[..., 0] if image.shape[2] == 1 else image
    small = np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size, Image.Resampling.LANCZOS))
    return small.reshape(size[1], size[0], -1)


def show_image(axes: Axes, image: Pixels, size: tuple[int, int], window: tuple[float, float, float, float]) -> Axes:
    """Draw a picture, with a frame around the part of it that a network was shown.

    Args:
        axes: Where to draw.
        image: h w C, the picture or a reduced copy.
        size: H and W.
        window: Top, left, height and width of what was shown, in pixels of the picture.
    """
    _show(axes, image, size)
    if (times := _stretch(size)) != 1:
        which, times = ("height", times) if times > 1 else ("width", 1 / times)
        axes.set_xlabel(f"{which} drawn {times:,.3g} times as large", fontsize="x-small", color=GREY)
    top, left = max(0.0, window[0]), max(0.0, window[1])
    bottom, right = min(size[0], window[0] + window[2]), min(size[1], window[1] + window[3])
    if (bottom - top) * (right - left) < 0.999 * size[0] * size[1]:
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=AGAINST, linewidth=1.2))
    return axes


def heat_map(axes: Axes, image: Pixels, size: tuple[int, int], values: Floats) -> Axes:
    """Draw values that are not negative over a grey picture: nothing where there is none, bright where there is most.

    Args:
        axes: Where to draw.
        image: h w C.
        size: H and W.
        values: h w; NaN where the network was shown nothing.
    """
    return _over_grey(axes, image, size, values, cmap=_HEAT, low=0.0, alpha=lambda share: 0.15 + 0.6 * share)


def signed_map(axes: Axes, image: Pixels, size: tuple[int, int], values: Floats) -> Axes:
    """Draw contributions over a grey picture: blue for the class, red against it, clear where there is none.

    Args:
        axes: Where to draw.
        image: h w C.
        size: H and W.
        values: h w; NaN where the network was shown nothing.
    """
    return _over_grey(
        axes, image, size, values, cmap=_SIGNED, low=-1.0, alpha=lambda share: 0.85 * np.sqrt(np.abs(share))
    )


def steps(
    axes: Axes,
    contributions: Sequence[float],
    *,
    along: Literal["height", "width", "order"],
    place: tuple[float, float] = (0.0, 0.0),
    side: float = 0.0,
) -> Axes:
    """Draw what each step of a scan contributed, beside the rows or under the columns of the picture that it read.

    Args:
        axes: Where to draw.
        contributions: T values in the order of the scan.
        along: Steps are rows of the picture, columns of it, or only follow one another.
        place: height, width: where the first step begins in the picture, and how many pixels all of them have.
        side: height, width: pixels of the picture.
    """
    values = np.asarray(contributions, dtype=np.float64)
    count = len(values)
    begin, extent = (0.5, float(count)) if along == "order" else place
    thick = extent / count
    centres = begin + thick * (np.arange(count) + 0.5)
    shades = [FOR if value >= 0 else AGAINST for value in values]
    if along == "height":
        axes.barh(centres, values, height=0.9 * thick, color=shades)
        axes.axvline(0, color=GREY, linewidth=0.6)
        axes.set_ylim(side, 0)
        axes.set_ylabel("row of the picture / pixels", fontsize="x-small")
        axes.set_xlabel("contribution to the logit", fontsize="x-small")
        axes.xaxis.set_major_locator(MaxNLocator(_TICKS, steps=_ROUND))  # wide numbers under a narrow panel
        axes.yaxis.set_major_locator(MaxNLocator("auto", steps=_ROUND, integer=True))
    else:
        axes.bar(centres, values, width=0.9 * thick, color=shades)
        axes.axhline(0, color=GREY, linewidth=0.6)
        axes.set_xlim(*((0, side) if along == "width" else (0.5, count + 0.5)))
        axes.set_xlabel("step" if along == "order" else "column of the picture / pixels", fontsize="x-small")
        axes.set_ylabel("contribution to the logit", fontsize="x-small")
        axes.xaxis.set_major_locator(MaxNLocator(_TICKS, steps=_ROUND, integer=True))
    if not values.any():
        ground = {"facecolor": "white", "edgecolor": "none"}  # the line at zero stays behind
        told = axes.text(0.5, 0.5, "nothing contributed", fontsize="small", color=GREY, bbox=ground)
        told.set(ha="center", transform=axes.transAxes)
    axes.tick_params(labelsize="x-small")
    return plain(axes)


def prediction_text(axes: Axes, rows: Sequence[tuple[str, float]], *, explained: str, xlabel: str) -> Axes:
    """Draw the most probable classes with their probabilities, the explained one in colour.

    Args:
        axes: Where to draw.
        rows: Names and probabilities, best first.
        explained: The class that the maps beside it are of.
        xlabel: What the numbers are.
    """
    places = np.arange(len(rows))
    shades = [FOR if name == explained else "#BDBDBD" for name, _ in rows]
    axes.barh(places, [share for _, share in rows], color=shades, height=0.36)
    for place, (name, share) in zip(places, rows, strict=True):
        axes.text(0, place - 0.25, f"{label(name, 30)}  {share:.3f}", fontsize="x-small", va="bottom")
    axes.set_ylim(len(rows) - 0.5, -0.8)
    axes.set_xlim(0, 1)
    axes.set_yticks([])
    axes.set_xlabel(xlabel, fontsize="x-small")
    axes.tick_params(labelsize="x-small")
    plain(axes).spines["left"].set_visible(False)
    return axes


def title(axes: Axes, *lines: str | tuple[str, str]) -> Axes:
    """Write short lines over a panel; names in them are plain text.

    Args:
        axes: The panel.
        lines: Two parts that together are too long for one line are written on two.
    """
    parts: list[str] = []
    for line in lines:
        halves = (line,) if isinstance(line, str) else line
        whole = " ".join(halves)
        parts += [whole] if len(whole) <= _LINE else halves
    axes.set_title("\n".join(label(part, _LINE) for part in parts), fontsize="small")
    return axes


def note(axes: Axes, text: str) -> Axes:
    """Write a line of small text under a panel without axes."""
    axes.text(0.5, -0.02, label(text, 90), ha="center", va="top", fontsize="x-small", transform=axes.transAxes)
    return axes


def row_name(axes: Axes, *lines: str) -> Axes:
    """Write at the left of a row whose it is; the panel shows a picture or nothing."""
    axes.set_ylabel("\n".join(label(line, 26) for line in lines), fontsize="small")
    return axes


def empty_axes(axes: Axes, reason: str = "") -> Axes:
    """Leave a panel empty, or say in it why."""
    axes.set_axis_off()
    if reason:
        axes.text(0.5, 0.5, reason, ha="center", va="center", fontsize="small", color=GREY, transform=axes.transAxes)
    return axes


def tiles_figure(count: int, columns: int, shape: tuple[int, ...]) -> tuple[Figure, Axes]:
    """Return a figure of the right height for so many tiles of a height and width, and its axes."""
    rows = math.ceil(count / columns)
    figure, (axes,) = new_figure(5.0, max(1.2, 5.0 * rows * shape[0] / (min(count, columns) * shape[1])) + 0.7)
    return figure, axes


def tiles(axes: Axes, images: Floats, *, columns: int) -> Axes:
    """Draw small images in rows on a pale ground: N k k in grey, or N k k 3 in colours.

    Args:
        axes: Where to draw.
        images: Values in [0, 1].
        columns: Images a row.
    """
    larger = max(1, round(_TILE / max(images.shape[1:3])))  # so that lines between tiles are thin
    images = images.repeat(larger, axis=1).repeat(larger, axis=2)
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    count, height, width = images.shape[:3]
    gap = max(1, round(max(height, width) / 14))
    columns = min(columns, count)
    shape = (math.ceil(count / columns) * (height + gap) + gap, columns * (width + gap) + gap, 3)
    board = np.ones(shape) * _GROUND
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap) + gap, index % columns * (width + gap) + gap
        board[top : top + height, left : left + width] = image
    axes.imshow(board, interpolation="nearest")
    axes.set_axis_off()
    return axes


def _show(axes: Axes, image: Pixels, size: tuple[int, int], *, grey: bool = False) -> None:
    plane: NDArray[Any] = image[..., 0] if image.shape[2] == 1 else image
    if grey and plane.ndim == 3:
        plane = plane @ np.array([0.299, 0.587, 0.114])
    if grey:
        plane = _PALEST + (1 - _PALEST / 255) * plane  # light, so that colours show on dark pictures too
    options: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255} if plane.ndim == 2 else {}
    few = max(size) < 100
    axes.imshow(plane, interpolation="nearest" if few else "antialiased", **_frame(size), **options)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _over_grey(
    axes: Axes,
    image: Pixels,
    size: tuple[int, int],
    values: Floats,
    *,
    cmap: str,
    low: float,
    alpha: Callable[[Floats], Floats],
) -> Axes:
    """Draw values, as shares of the largest, over a grey picture; what the network was not shown is whitened."""
    _show(axes, image, size, grey=True)
    hidden = np.isnan(values)
    known = np.nan_to_num(values)
    share = known / max(float(np.abs(known).max()), 1e-12)
    seen = np.where(hidden, 0.0, np.clip(alpha(share), 0, 1))
    axes.imshow(share, cmap=cmap, vmin=low, vmax=1, alpha=seen, interpolation="nearest", **_frame(size))
    if hidden.any():
        veil = np.ones((*values.shape, 4))
        veil[..., 3] = 0.75 * hidden
        axes.imshow(veil, interpolation="nearest", **_frame(size))
    return axes


def _frame(size: tuple[int, int]) -> dict[str, Any]:
    """Return where a picture lies in its panel, and how much taller than wide its pixels are drawn."""
    return {"extent": (0, size[1], size[0], 0), "aspect": _stretch(size)}


def _stretch(size: tuple[int, int]) -> float:
    """Return 1, or what makes a strip of a picture wide enough to be seen: its height, or width, times so many."""
    slim = size[0] / size[1]
    return max(1.0, _SLIMMEST / slim) * min(1.0, 1 / (_SLIMMEST * slim))
