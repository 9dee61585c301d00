"""Common parts of all figures: canvas, colour-blind safe palette, plain-text labels, PNG and SVG files.

Neither pyplot nor global settings are used, so that figures can be drawn in any program, notebook or thread.
"""

from __future__ import annotations

import io
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from numpy.typing import NDArray

from tercet.core.files import write_bytes
from tercet.core.output import printable

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
"""The eight colours of Okabe and Ito, in descending contrast on white."""
GREY = "#767676"
"""Frames, notes and background."""
PALE = "#D9D9D9"
"""Grid lines."""
SEQUENTIAL = "Blues"
"""Colour map of shares and counts: one hue, darker is more."""
LONGEST = 32
"""Maximum length of names."""
DPI = 150
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_LEFT_TO_RIGHT = "\u200e"
_SCRIPTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Hiragino Sans"),
    *("Microsoft YaHei", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Bengali", "Noto Emoji", "Symbola"),
)


def new_figure(width: float = 6.4, height: float = 4.0, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure with constrained layout, and its axes row by row.

    Args:
        width: Inches.
        height: Inches.
        rows: Number of rows of axes.
        columns: Number of columns of axes.
    """
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.svg reproducibly, and return their paths.

    Raises:
        StorageError: A file cannot be written.
    """
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    write_bytes(png, png_bytes(figure))  # first, because it computes the layout
    write_bytes(svg, _svg(figure).encode("utf-8"))
    return [png, svg]


def png_bytes(figure: Figure, *, dpi: int = DPI) -> bytes:
    """Return a figure as a PNG file."""
    _compute_layout(figure)
    return _render(figure, "png", dpi=dpi, metadata={"Software": None})


def pixels(figure: Figure, *, dpi: int = DPI) -> NDArray[np.uint8]:
    """Return a figure as H W 3."""
    _compute_layout(figure)
    raw = np.frombuffer(_render(figure, "raw", dpi=dpi), dtype=np.uint8)
    return raw.reshape(int(figure.get_figheight() * dpi), int(figure.get_figwidth() * dpi), 4)[..., :3]


def label(text: str, max_length: int = LONGEST) -> str:
    """Return a name for matplotlib: one line, without mathtext, shortened in the middle.

    Args:
        text: Any name.
        max_length: Maximum number of characters.
    """
    result = printable(text)
    if len(result) > max_length:
        head = max_length // 2
        result = f"{result[:head]}…{result[len(result) - (max_length - head - 1) :]}"
    if any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in result):
        result = f"{_LEFT_TO_RIGHT}{result}{_LEFT_TO_RIGHT}"  # keeps the order of adjacent text
    return result.replace("$", r"\$")


def labels(names: Sequence[str], max_length: int = LONGEST) -> list[str]:
    """Return the `label` of each name; if shortening makes some equal, their common beginning and end are removed.

    Args:
        names: Any names.
        max_length: Maximum number of characters of each.
    """
    result = [label(name, max_length) for name in names]
    if len(set(result)) == len(set(names)):
        return result
    head, tail = _common_prefix(names), _common_prefix([name[::-1] for name in names])
    inner = [name[head : len(name) - tail] if len(name) > head + tail else "" for name in names]
    if len(set(inner)) < len(set(names)):  # the common beginning and end overlap
        return result
    return [label(f"{'…' if head else ''}{name}{'…' if tail else ''}", max_length) for name in inner]


def _common_prefix(names: Sequence[str]) -> int:
    """Return the length of the common prefix, without a partial word or number at its end."""
    columns = zip(*names, strict=False)
    length = next((index for index, column in enumerate(columns) if len(set(column)) > 1), min(map(len, names)))
    return max((index + 1 for index in range(length) if not names[0][index].isalnum()), default=0)


def colour(index: int) -> str:
    """Return a colour of the palette, cyclically."""
    return PALETTE[index % len(PALETTE)]


def despine(axes: Axes, *, grid: str = "") -> Axes:
    """Remove the top and right spines, and draw a grid along `x`, `y`, or none."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=PALE, linewidth=0.6)  # type: ignore[arg-type]
    return axes


def legend(
    axes: Axes, handles: Sequence[Any], labels: Sequence[str], *, title: str = "", outside: bool = False
) -> None:
    """Draw a legend inside the axes, or to the right of them."""
    position: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if outside else {"loc": "best"}
    axes.legend(
        handles, labels, title=title or None, fontsize="small", title_fontsize="small", frameon=not outside, **position
    )


def legend_above(axes: Axes, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Draw a legend above the axes, in as many columns as fit."""
    columns = max(1, min(len(labels), 60 // (6 + max(map(len, labels)))))
    axes.legend(
        handles,
        labels,
        fontsize="small",
        frameon=False,
        loc="lower right",  # may extend to the left over the tick labels, but is not cut off at the right
        bbox_to_anchor=(1, 1),
        ncols=columns,
        borderaxespad=0.2,
    )


def rows_height(count: int, *, per_row: float = 0.24, minimum: float = 2.2) -> float:
    """Return the figure height in inches for `count` rows."""
    return max(minimum, 1.1 + per_row * count)


def _compute_layout(figure: Figure) -> None:
    """Compute the layout twice, because long names may be cut off after the first pass."""
    with drawing():
        for _ in range(2):
            figure.draw_without_rendering()


def _svg(figure: Figure) -> str:
    empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    return _render(figure, "svg", metadata=empty).decode("utf-8")


def _render(figure: Figure, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    with drawing():
        figure.savefig(stream, format=kind, **options)
    return stream.getvalue()


@contextmanager
def drawing() -> Iterator[None]:
    """Apply settings while a figure is drawn."""
    settings = {
        "svg.fonttype": "path",
        "svg.hashsalt": "tercet",
        "font.sans-serif": ["DejaVu Sans", *_fallback_fonts()],
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # no font has all scripts
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # the figure is too small
        yield


@cache
def _fallback_fonts() -> list[str]:
    """Return installed fonts for scripts that the default font lacks."""
    installed = {font.name for font in fontManager.ttflist}
    return [name for name in _SCRIPTS if name in installed]
