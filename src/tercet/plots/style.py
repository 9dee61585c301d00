"""What all figures share: a canvas, colours that colour-blind people tell apart, names as plain text, and files.

No pyplot, no window, and no global setting that outlives a call: figures are drawn in any program, notebook or thread.
"""

from __future__ import annotations

import io
import re
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
from tercet.core.streams import printable

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito's eight colours, those with the most contrast on white first."""
GREY = "#767676"
"""Frames, notes, and what stands in the background."""
PALE = "#D9D9D9"
"""Lines that only guide the eye."""
SEQUENTIAL = "Blues"
"""Colour map of shares and counts: one hue, so that darker is more to everyone."""
LONGEST = 32
"""Characters of a name that are shown."""
DPI = 150
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_LEFT_TO_RIGHT = "\u200e"
_SCRIPTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Hiragino Sans"),
    *("Microsoft YaHei", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Bengali", "Noto Emoji", "Symbola"),
)
_ID = re.compile(r'(\bid="|href="#|url\(#)')


def new_figure(width: float = 6.4, height: float = 4.0, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure that lays itself out, and its axes row by row.

    Args:
        width: Inches.
        height: Inches.
        rows: Rows of axes.
        columns: Columns of axes.
    """
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.svg, the same bytes for the same figure, and return their paths.

    Raises:
        StorageError: They cannot be written.
    """
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    write_bytes(png, png_bytes(figure))  # first: it settles the layout
    write_bytes(svg, _svg(figure).encode("utf-8"))
    return [png, svg]


def png_bytes(figure: Figure, *, dpi: int = DPI) -> bytes:
    """Return a figure as a PNG file."""
    _settle(figure)
    return _render(figure, "png", dpi=dpi, metadata={"Software": None})


def pixels(figure: Figure, *, dpi: int = DPI) -> NDArray[np.uint8]:
    """Return a figure as H W 3."""
    _settle(figure)
    raw = np.frombuffer(_render(figure, "raw", dpi=dpi), dtype=np.uint8)
    return raw.reshape(int(figure.get_figheight() * dpi), int(figure.get_figwidth() * dpi), 4)[..., :3]


def svg_text(figure: Figure, prefix: str = "") -> str:
    """Return a figure as one `<svg>` element for a page: no prolog, no comments, and nothing that acts outside it.

    Args:
        figure: What to draw; its text becomes paths.
        prefix: Stands before every id, so that several figures of a page do not share one.
    """
    _settle(figure)
    text = _svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # a style element of the drawing would hold for the whole page; on the root its two rules are inherited
    text = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>\s*", "", text, flags=re.DOTALL)
    text = text.replace("<svg ", '<svg stroke-linejoin="round" stroke-linecap="butt" ', 1)
    return _ID.sub(lambda found: found[1] + prefix, text)


def label(text: str, most: int = LONGEST) -> str:
    """Return a name from data as matplotlib draws it letter by letter: one line, never a formula, not too long.

    Args:
        text: Any name.
        most: Characters to show; a longer name loses its middle.
    """
    shown = printable(text)
    if len(shown) > most:
        head = most // 2
        shown = f"{shown[:head]}…{shown[len(shown) - (most - head - 1) :]}"
    if any(unicodedata.bidirectional(one) in _RIGHT_TO_LEFT for one in shown):
        shown = f"{_LEFT_TO_RIGHT}{shown}{_LEFT_TO_RIGHT}"  # so that it does not turn what stands beside it around
    return shown.replace("$", r"\$")


def labels(names: Sequence[str], most: int = LONGEST) -> list[str]:
    """Return names as `label` shows them; where that makes some alike, without the beginning and end of all.

    Args:
        names: Any names.
        most: Characters to show of each.
    """
    shown = [label(name, most) for name in names]
    if len(set(shown)) == len(set(names)):
        return shown
    head, tail = _alike(names), _alike([name[::-1] for name in names])
    inner = [name[head : len(name) - tail] if len(name) > head + tail else "" for name in names]
    if len(set(inner)) < len(set(names)):  # beginning and end overlap in some
        return shown
    return [label(f"{'…' if head else ''}{name}{'…' if tail else ''}", most) for name in inner]


def _alike(names: Sequence[str]) -> int:
    """Return how many characters all names begin with alike, in whole words and numbers."""
    columns = zip(*names, strict=False)
    alike = next((place for place, column in enumerate(columns) if len(set(column)) > 1), min(map(len, names)))
    return max((place + 1 for place in range(alike) if not names[0][place].isalnum()), default=0)


def colour(index: int) -> str:
    """Return a colour of the palette, over and over again."""
    return PALETTE[index % len(PALETTE)]


def plain(axes: Axes, *, grid: str = "") -> Axes:
    """Take the frame's upper and right side away, and draw a faint grid along `x`, `y`, or neither."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=PALE, linewidth=0.6)  # type: ignore[arg-type]
    return axes


def legend(
    axes: Axes, handles: Sequence[Any], labels: Sequence[str], *, title: str = "", outside: bool = False
) -> None:
    """Draw a legend: inside where there is room, or to the right of the axes."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if outside else {"loc": "best"}
    axes.legend(
        handles, labels, title=title or None, fontsize="small", title_fontsize="small", frameon=not outside, **place
    )


def legend_above(axes: Axes, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Draw a legend over the axes, in as many columns as its labels leave room for."""
    columns = max(1, min(len(labels), 60 // (6 + max(map(len, labels)))))
    axes.legend(
        handles,
        labels,
        fontsize="small",
        frameon=False,
        loc="lower right",  # it may reach over the names to the left, and is never cut at the right
        bbox_to_anchor=(1, 1),
        ncols=columns,
        borderaxespad=0.2,
    )


def rows_height(count: int, *, each: float = 0.24, least: float = 2.2) -> float:
    """Return the inches that a figure needs for so many lines of text with a bar each."""
    return max(least, 1.1 + each * count)


def _settle(figure: Figure) -> None:
    """Lay out twice more than saving does: where names are long, the first results still cut some of them."""
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
    """Settings that are read while a figure is drawn, and put back afterwards."""
    settings = {
        "svg.fonttype": "path",
        "svg.hashsalt": "tercet",
        "font.sans-serif": ["DejaVu Sans", *_other_scripts()],
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # no font has every script: a box is drawn
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # too small a figure is drawn all the same
        yield


@cache
def _other_scripts() -> list[str]:
    """Return the fonts of this machine that know more scripts than matplotlib's own."""
    installed = {font.name for font in fontManager.ttflist}
    return [name for name in _SCRIPTS if name in installed]
