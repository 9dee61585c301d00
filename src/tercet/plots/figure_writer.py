"""Figures of a page, written as files and embedded in the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.axes import Axes

from tercet.core.files import slug
from tercet.plots.page import Figure
from tercet.plots.style import new_figure, save

_MAX_SVG_BYTES = 1_500_000  # larger figures are embedded as PNG
_WIDTH = 5.6


@dataclass
class FigureWriter:
    """Writes figures to a folder."""

    folder: Path
    """Folder of the PNG and SVG files."""
    prefix: str = ""
    """Prefix of the file names, to distinguish figures of several runs."""
    files: list[Path] = field(default_factory=list)
    """Paths of the written files."""

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
        """Draw a figure, write it as PNG and SVG, and return it as a block of the page.

        Args:
            name: Name of the files, without extension.
            caption: Text below the figure.
            drawing: Draws on the axes.
            width: Inches; narrow figures are readable on a phone.
            height: Inches.
            alt: Alternative text.
            wide: Whether the figure has the full width of the page.
        """
        figure, (axes,) = new_figure(width, height)
        drawing(axes)
        png, svg = save(figure, self.folder, slug(f"{self.prefix}{name}"))
        self.files += [png, svg]
        too_large = svg.stat().st_size > _MAX_SVG_BYTES
        return Figure(png.read_bytes() if too_large else svg.read_text("utf-8"), caption, alt, wide)
