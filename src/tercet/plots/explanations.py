"""Panels of an explanation: maps over the image, contributions of RNN steps, predictions, filters, feature maps.

Images are drawn in pixel coordinates of the original, whatever the resolution, so that maps and bars are aligned.
Shapes: H x W pixels of the image, h x w of a reduced copy or map, T steps, N tiles of k x k pixels.
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

from tercet.plots.style import GREY, PALETTE, despine, label, new_figure

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
FOR, AGAINST = PALETTE[0], PALETTE[3]
"""Colours of positive and negative contributions to a class."""
_HEAT, _SIGNED = "viridis", "RdBu"
_MAX_SIDE = 480  # pixels
_MIN_ASPECT = 1 / 12
_MIN_GREY = 90
_MAX_LINE = 34  # characters
_MIN_TILE = 14  # pixels
_NARROW = 16  # columns of tiles
_MAX_TICKS, _TICK_STEPS = 3, (1, 2, 5, 10)
_BACKGROUND = np.array([0.84, 0.91, 0.97])


def downscaled(image: Pixels) -> Pixels:
    """Return an image H W C as h w C with sides of at most 480 pixels."""
    height, width = image.shape[:2]
    ratio = _MAX_SIDE / max(height, width)
    if ratio >= 1:
        return image
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    plane = image[..., 0] if image.shape[2] == 1 else image
    small = np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size, Image.Resampling.LANCZOS))
    return small.reshape(size[1], size[0], -1)


def show_image(axes: Axes, image: Pixels, size: tuple[int, int], window: tuple[float, float, float, float]) -> Axes:
    """Draw an image, with a frame around the crop that is the input of the network.

    Args:
        axes: Axes to draw on.
        image: h w C, the image or a reduced copy.
        size: H and W.
        window: Top, left, height and width of the crop, in pixels of the image.
    """
    _draw_image(axes, image, size)
    if (factor := _stretch(size)) != 1:
        side, factor = ("height", factor) if factor > 1 else ("width", 1 / factor)
        axes.set_xlabel(f"{side} drawn {factor:,.3g} times as large", fontsize="x-small", color=GREY)
    top, left = max(0.0, window[0]), max(0.0, window[1])
    bottom, right = min(size[0], window[0] + window[2]), min(size[1], window[1] + window[3])
    if (bottom - top) * (right - left) < 0.999 * size[0] * size[1]:
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=AGAINST, linewidth=1.2))
    return axes


def heat_map(axes: Axes, image: Pixels, size: tuple[int, int], values: Floats) -> Axes:
    """Draw non-negative values over a grey image: transparent if zero, bright if large.

    Args:
        axes: Axes to draw on.
        image: h w C.
        size: H and W.
        values: h w; NaN outside the crop of the network.
    """
    return _draw_over_grey(axes, image, size, values, cmap=_HEAT, low=0.0, alpha=lambda scaled: 0.15 + 0.6 * scaled)


def signed_map(axes: Axes, image: Pixels, size: tuple[int, int], values: Floats) -> Axes:
    """Draw contributions over a grey image: blue if positive, red if negative, transparent if zero.

    Args:
        axes: Axes to draw on.
        image: h w C.
        size: H and W.
        values: h w; NaN outside the crop of the network.
    """
    return _draw_over_grey(
        axes, image, size, values, cmap=_SIGNED, low=-1.0, alpha=lambda scaled: 0.85 * np.sqrt(np.abs(scaled))
    )


def steps(
    axes: Axes,
    contributions: Sequence[float],
    *,
    along: Literal["height", "width", "order"],
    place: tuple[float, float] = (0.0, 0.0),
    side: float = 0.0,
) -> Axes:
    """Draw the contribution of each RNN step, aligned with the rows or columns of the image.

    Args:
        axes: Axes to draw on.
        contributions: T values in the order of the scan.
        along: Steps are rows of the image (height), columns (width), or not aligned with the image (order).
        place: height, width: offset of the first step and extent of all steps, in pixels of the image.
        side: height, width: side of the image in pixels.
    """
    values = np.asarray(contributions, dtype=np.float64)
    count = len(values)
    start, extent = (0.5, float(count)) if along == "order" else place
    thickness = extent / count
    centres = start + thickness * (np.arange(count) + 0.5)
    colours = [FOR if value >= 0 else AGAINST for value in values]
    if along == "height":
        axes.barh(centres, values, height=0.9 * thickness, color=colours)
        axes.axvline(0, color=GREY, linewidth=0.6)
        axes.set_ylim(side, 0)
        axes.set_ylabel("row of the image / pixels", fontsize="x-small")
        axes.set_xlabel("contribution to the logit", fontsize="x-small")
        axes.xaxis.set_major_locator(MaxNLocator(_MAX_TICKS, steps=_TICK_STEPS))  # the panel is narrow
        axes.yaxis.set_major_locator(MaxNLocator("auto", steps=_TICK_STEPS, integer=True))
    else:
        axes.bar(centres, values, width=0.9 * thickness, color=colours)
        axes.axhline(0, color=GREY, linewidth=0.6)
        axes.set_xlim(*((0, side) if along == "width" else (0.5, count + 0.5)))
        axes.set_xlabel("step" if along == "order" else "column of the image / pixels", fontsize="x-small")
        axes.set_ylabel("contribution to the logit", fontsize="x-small")
        axes.xaxis.set_major_locator(MaxNLocator(_MAX_TICKS, steps=_TICK_STEPS, integer=True))
    if not values.any():
        background = {"facecolor": "white", "edgecolor": "none"}  # hides the line at zero
        text = axes.text(0.5, 0.5, "all contributions are zero", fontsize="small", color=GREY, bbox=background)
        text.set(ha="center", transform=axes.transAxes)
    axes.tick_params(labelsize="x-small")
    return despine(axes)


def prediction_text(axes: Axes, rows: Sequence[tuple[str, float]], *, explained: str, xlabel: str) -> Axes:
    """Draw the most probable classes with their probabilities, with the explained class in colour.

    Args:
        axes: Axes to draw on.
        rows: Names and probabilities, best first.
        explained: The class of the maps.
        xlabel: Label of the probabilities or scores.
    """
    positions = np.arange(len(rows))
    colours = [FOR if name == explained else "#BDBDBD" for name, _ in rows]
    axes.barh(positions, [probability for _, probability in rows], color=colours, height=0.36)
    for position, (name, probability) in zip(positions, rows, strict=True):
        axes.text(0, position - 0.25, f"{label(name, 30)}  {probability:.3f}", fontsize="x-small", va="bottom")
    axes.set_ylim(len(rows) - 0.5, -0.8)
    axes.set_xlim(0, 1)
    axes.set_yticks([])
    axes.set_xlabel(xlabel, fontsize="x-small")
    axes.tick_params(labelsize="x-small")
    despine(axes).spines["left"].set_visible(False)
    return axes


def title(axes: Axes, *lines: str | tuple[str, str]) -> Axes:
    """Set the title of a panel, as plain text.

    Args:
        axes: The panel.
        lines: Lines; a pair is written as one line, or as two if it is too long.
    """
    parts: list[str] = []
    for line in lines:
        pair = (line,) if isinstance(line, str) else line
        joined = " ".join(pair)
        parts += [joined] if len(joined) <= _MAX_LINE else pair
    axes.set_title("\n".join(label(part, _MAX_LINE) for part in parts), fontsize="small")
    return axes


def note(axes: Axes, text: str) -> Axes:
    """Write a line of small text below a panel without axes."""
    axes.text(0.5, -0.02, label(text, 90), ha="center", va="top", fontsize="x-small", transform=axes.transAxes)
    return axes


def row_name(axes: Axes, *lines: str) -> Axes:
    """Write the name of a row at the left of its first panel."""
    axes.set_ylabel("\n".join(label(line, 26) for line in lines), fontsize="small")
    return axes


def empty_axes(axes: Axes, reason: str = "") -> Axes:
    """Leave a panel empty, optionally with the reason as text."""
    axes.set_axis_off()
    if reason:
        axes.text(0.5, 0.5, reason, ha="center", va="center", fontsize="small", color=GREY, transform=axes.transAxes)
    return axes


def tiles_figure(count: int, columns: int, shape: tuple[int, ...]) -> tuple[Figure, Axes]:
    """Return a figure for `count` tiles of `shape` (height, width, ...), and its axes."""
    rows, width = math.ceil(count / columns), 5.0 if columns <= _NARROW else 11.0
    figure, (axes,) = new_figure(width, max(1.2, width * rows * shape[0] / (min(count, columns) * shape[1])) + 0.7)
    return figure, axes


def tiles(axes: Axes, images: Floats, *, columns: int) -> Axes:
    """Draw small images in rows on a light background: N k k in grey, or N k k 3 in colour.

    Args:
        axes: Axes to draw on.
        images: Values in [0, 1].
        columns: Images per row.
    """
    factor = max(1, round(_MIN_TILE / max(images.shape[1:3])))  # so that the gaps between tiles are thin
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    count, height, width = images.shape[:3]
    gap = max(1, round(max(height, width) / 14))
    columns = min(columns, count)
    shape = (math.ceil(count / columns) * (height + gap) + gap, columns * (width + gap) + gap, 3)
    canvas = np.ones(shape) * _BACKGROUND
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap) + gap, index % columns * (width + gap) + gap
        canvas[top : top + height, left : left + width] = image
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    return axes


def arrow_from_left(axes: Axes, text: str) -> Axes:
    """Draw an arrow from the panel at the left, with the name of the operation below it."""
    axes.annotate(
        "", (0.0, 0.5), (-0.16, 0.5), xycoords="axes fraction", arrowprops={"arrowstyle": "->", "color": GREY}
    )
    axes.text(0.5, -0.04, label(text, 24), ha="center", va="top", fontsize="x-small", transform=axes.transAxes)
    return axes


def _draw_image(axes: Axes, image: Pixels, size: tuple[int, int], *, grey: bool = False) -> None:
    plane: NDArray[Any] = image[..., 0] if image.shape[2] == 1 else image
    if grey and plane.ndim == 3:
        plane = plane @ np.array([0.299, 0.587, 0.114])
    if grey:
        plane = _MIN_GREY + (1 - _MIN_GREY / 255) * plane  # light, so that colours are visible on dark images
    options: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255} if plane.ndim == 2 else {}
    small = max(size) < 100
    axes.imshow(plane, interpolation="nearest" if small else "antialiased", **_frame(size), **options)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_over_grey(
    axes: Axes,
    image: Pixels,
    size: tuple[int, int],
    values: Floats,
    *,
    cmap: str,
    low: float,
    alpha: Callable[[Floats], Floats],
) -> Axes:
    """Draw values, divided by the largest magnitude, over a grey image; regions outside the crop are whitened."""
    _draw_image(axes, image, size, grey=True)
    hidden = np.isnan(values)
    finite = np.nan_to_num(values)
    scaled = finite / max(float(np.abs(finite).max()), 1e-12)
    opacity = np.where(hidden, 0.0, np.clip(alpha(scaled), 0, 1))
    axes.imshow(scaled, cmap=cmap, vmin=low, vmax=1, alpha=opacity, interpolation="nearest", **_frame(size))
    if hidden.any():
        veil = np.ones((*values.shape, 4))
        veil[..., 3] = 0.75 * hidden
        axes.imshow(veil, interpolation="nearest", **_frame(size))
    return axes


def _frame(size: tuple[int, int]) -> dict[str, Any]:
    """Return extent and aspect of an image for `imshow`."""
    return {"extent": (0, size[1], size[0], 0), "aspect": _stretch(size)}


def _stretch(size: tuple[int, int]) -> float:
    """Return the factor of the drawn height that makes very narrow images wide enough to be visible; usually 1."""
    aspect = size[0] / size[1]
    return max(1.0, _MIN_ASPECT / aspect) * min(1.0, 1 / (_MIN_ASPECT * aspect))
