"""Self-contained HTML pages without scripts and requests, from the templates `page.html` and `blocks.html`.

All text is escaped, including unprintable characters. Images are `data:` URLs, also SVG files: as such they cannot
execute scripts, and their ids cannot collide.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined

from tercet.core.files import write_text
from tercet.core.output import printable
from tercet.metrics.table import Table as Table

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_KINDS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"<svg", "svg+xml"), (b"<?xml", "svg+xml"))
_GENERATOR = '<meta name="generator" content="tercet">'


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str
    quiet: bool = False
    """Whether it is a remark, such as the reason for missing content."""


@dataclass(frozen=True)
class Figure:
    """A figure; consecutive figures are side by side if the window is wide enough."""

    image: str | bytes
    """An SVG document as text, or the bytes of a PNG or JPEG."""
    caption: str
    alt: str = ""
    """Alternative text (default: the caption)."""
    wide: bool = False
    """Whether it has the full width of the page."""


@dataclass(frozen=True)
class Images:
    """Small images in rows, each with a caption."""

    images: Sequence[tuple[bytes, str]]
    """Bytes of a JPEG or PNG without metadata, and the caption."""
    caption: str = ""
    """Text above all images."""
    in_row: bool = False
    """Whether they are small and side by side; a long row scrolls."""


@dataclass(frozen=True)
class Warning:
    """A red box."""

    text: str
    title: str = "Warning"


@dataclass(frozen=True)
class Code:
    """Preformatted text: a command, a configuration."""

    text: str
    label: str = ""
    """Label for screen readers."""


@dataclass(frozen=True)
class Details:
    """Blocks that are collapsed under a summary."""

    summary: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """Blocks under a heading, whose size depends on the nesting level."""

    title: str
    blocks: Sequence[Block]
    anchor: str = ""
    """Fragment in links, such as `page.html#results` (default: from the title)."""


Block: TypeAlias = "Paragraph | Table | Figure | Images | Warning | Code | Details | Section"


@dataclass(frozen=True)
class Page:
    """A page; if it has several sections, it has a table of contents."""

    title: str
    sections: Sequence[Section]
    subtitle: str = ""


def write_page(path: Path, page: Page) -> None:
    """Write a page as one HTML file, atomically."""
    write_text(path, render(page))


def is_page(path: Path) -> bool:
    """Return whether a file was written by `write_page`."""
    with path.open("rb") as file:
        return _GENERATOR.encode() in file.read(2000)


def render(page: Page) -> str:
    """Return a page as one HTML document.

    Raises:
        ValueError: An image is not PNG, JPEG or SVG.
    """
    style = "".join(files("tercet.plots").joinpath(name).read_text("utf-8") for name in ("base.css", "page.css"))
    return _TEMPLATE.render(page=page, anchor=_Anchors(), style=style, policy=_POLICY, generator=_GENERATOR)


def render_sections(sections: Sequence[Section]) -> str:
    """Return sections as HTML without a style sheet, for a part of another page; raises as `render`."""
    module = _ENVIRONMENT.get_template("blocks.html").make_module({"anchor": _Anchors()})
    return "\n".join(str(module.section(section, 3)) for section in sections)  # type: ignore[attr-defined]


class _Anchors:
    """Gives each section a unique fragment for links."""

    def __init__(self) -> None:
        self._anchors: dict[int, str] = {}

    def __call__(self, section: Section) -> str:
        if id(section) not in self._anchors:
            base = re.sub(r"[^a-z0-9]+", "-", (section.anchor or section.title).lower()).strip("-") or "section"
            number, anchor = 1, base
            while anchor in self._anchors.values():
                number += 1
                anchor = f"{base}-{number}"
            self._anchors[id(section)] = anchor
        return self._anchors[id(section)]


def _groups(blocks: Sequence[Block]) -> Iterator[tuple[str, list[Block]]]:
    """Yield consecutive blocks of the same kind together, with the name of the kind."""
    for kind, group in groupby(blocks, key=lambda block: type(block).__name__):
        yield kind, list(group)


def _data_url(image: str | bytes) -> str:
    data = image.lstrip().encode("utf-8", "backslashreplace") if isinstance(image, str) else image
    kind = next((name for start, name in _KINDS if data.startswith(start)), None)
    if kind is None:
        raise ValueError(f"an image that begins with {data[:8]!r} is not PNG, JPEG or SVG")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


_ENVIRONMENT = Environment(loader=PackageLoader("tercet.plots", ""), autoescape=True, undefined=StrictUndefined)
_ENVIRONMENT.filters |= {"printable": printable, "data_url": _data_url, "groups": _groups}
_TEMPLATE = _ENVIRONMENT.get_template("page.html")
