"""Where the figures of a page are drawn: as files beside it, and inside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.axes import Axes

from tercet.core.files import slug
from tercet.plots.page import Figure
from tercet.plots.style import new_figure, save

_HEAVY = 1_500_000  # bytes of a drawing beyond which its pixels are smaller
_WIDTH = 5.6


@dataclass
class FigureWriter:
    """A folder of figures."""

    folder: Path
    """Where the PNG and SVG files go."""
    prefix: str = ""
    """Stands before their names, where figures of several runs lie together."""
    files: list[Path] = field(default_factory=list)
    """What has been written."""

    def draw(
        self,
        name: str,
        caption: str,
        drawing: Callable[[Axes], object],
        *,
        width: float = _WIDTH,
        height: float = 3.6,
        alt: str = "",
        wide: bool = False,
    ) -> Figure:
        """Draw a figure on an axes of its own, write its files, and return it as a block of the page.

        Args:
            name: Name of the files.
            caption: What stands under it.
            drawing: Draws on the axes.
            width: Inches; narrow figures stay readable on a phone.
            height: Inches.
            alt: What is to be seen.
            wide: Whether it takes the page's whole width.
        """
        figure, (axes,) = new_figure(width, height)
        drawing(axes)
        png, svg = save(figure, self.folder, slug(f"{self.prefix}{name}"))
        self.files += [png, svg]
        heavy = svg.stat().st_size > _HEAVY
        return Figure(png.read_bytes() if heavy else svg.read_text("utf-8"), caption, alt, wide)
