"""Self-contained HTML pages without scripts and requests.

All text is escaped, including unprintable characters. Images are `data:` URLs, also SVG files: as such they cannot
execute scripts, and their ids cannot collide.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

from tercet.core.files import write_text
from tercet.core.output import printable

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_KINDS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"<svg", "svg+xml"), (b"<?xml", "svg+xml"))
_GENERATOR = '<meta name="generator" content="tercet">'
_ALIGNED = {"l": "", "r": ' class="number"'}
_MAX_HEADING = 6  # HTML has no smaller heading


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str
    quiet: bool = False
    """Whether it is a remark, such as the reason for missing content."""


@dataclass(frozen=True)
class Table:
    """A table of text; the first cell of a row is its heading."""

    header: Sequence[str]
    """Column names; empty for a table of names and values."""
    rows: Sequence[Sequence[str]]
    align: str = ""
    """One letter per column: l left (default), r right (numbers)."""
    caption: str = ""
    strong: frozenset[int] = frozenset()
    """Indices of highlighted rows."""


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
        ValueError: An image is not PNG, JPEG or SVG, or a table row is longer than its header.
    """
    return _Renderer().page(page)


def render_sections(sections: Sequence[Section]) -> str:
    """Return sections as HTML without a style sheet, for a part of another page; raises as `render`."""
    renderer = _Renderer()
    return "\n".join(renderer.section(section, renderer.anchor(section), level=3) for section in sections)


class _Renderer:
    """Renders blocks as HTML with unique anchors."""

    def __init__(self) -> None:
        self.used_anchors: set[str] = set()

    def page(self, page: Page) -> str:
        anchors = [self.anchor(section) for section in page.sections]
        parts = [f"<header><h1>{_text(page.title)}</h1>"]
        parts += [f"<p>{_text(page.subtitle)}</p>"] if page.subtitle else []
        parts += ["</header>", _contents(page.sections, anchors), "<main>"]
        parts += [self.section(*pair, level=2) for pair in zip(page.sections, anchors, strict=True)]
        style = files("tercet.plots").joinpath("page.css").read_text("utf-8")
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{_GENERATOR}\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
            f"<title>{_text(page.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
            + "\n".join(part for part in parts if part)
            + "\n</main>\n</body>\n</html>\n"
        )

    def anchor(self, section: Section) -> str:
        """Return a unique anchor."""
        base = re.sub(r"[^a-z0-9]+", "-", (section.anchor or section.title).lower()).strip("-") or "section"
        number, anchor = 1, base
        while anchor in self.used_anchors:
            number += 1
            anchor = f"{base}-{number}"
        self.used_anchors.add(anchor)
        return anchor

    def section(self, section: Section, anchor: str, *, level: int) -> str:
        heading = min(level, _MAX_HEADING)
        inner = "\n".join(self.blocks(section.blocks, level=level + 1))
        return f'<section id="{anchor}">\n<h{heading}>{_text(section.title)}</h{heading}>\n{inner}\n</section>'

    def blocks(self, blocks: Sequence[Block], *, level: int) -> Iterator[str]:
        for figures, run in groupby(blocks, key=lambda block: isinstance(block, Figure)):
            parts = [self.block(block, level=level) for block in run]
            yield from ['<div class="figures">', *parts, "</div>"] if figures else parts

    def block(self, block: Block, *, level: int) -> str:
        match block:
            case Paragraph(text, quiet):
                return f'<p class="quiet">{_text(text)}</p>' if quiet else f"<p>{_text(text)}</p>"
            case Table():
                return _table(block)
            case Figure():
                return _figure(block)
            case Images(images, caption):
                items = "\n".join(
                    f'<li><img src="{_data_url(image)}" alt="{_text(text)}"><p>{_text(text)}</p></li>'
                    for image, text in images
                )
                head = f"<p>{_text(caption)}</p>\n" if caption else ""
                return f'{head}<ul class="images">\n{items}\n</ul>'
            case Warning(text, title):
                return f'<div class="warning" role="note"><p><strong>{_text(title)}.</strong> {_text(text)}</p></div>'
            case Code(text, label):
                return f"<pre{_scroll_attributes(label or 'code')}><code>{_lines(text)}</code></pre>"
            case Details(summary, inner):
                parts = "\n".join(self.blocks(inner, level=level))
                return f"<details>\n<summary>{_text(summary)}</summary>\n{parts}\n</details>"
            case Section():
                return self.section(block, self.anchor(block), level=level)


def _contents(sections: Sequence[Section], anchors: Sequence[str]) -> str:
    if len(sections) < 2:
        return ""
    links = zip(sections, anchors, strict=True)
    items = "".join(f'<li><a href="#{anchor}">{_text(section.title)}</a></li>' for section, anchor in links)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def _table(table: Table) -> str:
    width = len(table.header) or max((len(row) for row in table.rows), default=0)
    if any(len(row) > width for row in table.rows):
        raise ValueError(f"a row of the table '{table.caption}' is longer than its {width} columns")
    kinds = [_ALIGNED[letter] for letter in table.align.ljust(width, "l")]
    head = "".join(f'<th scope="col"{kind}>{_text(name)}</th>' for name, kind in zip(table.header, kinds, strict=False))
    lines = []
    for number, row in enumerate(table.rows):
        cells = [f"<td{kind}>{_text(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=False)]
        first = f'<th scope="row"{kinds[0]}>{_text(row[0])}</th>' if row else ""
        mark = ' class="strong"' if number in table.strong else ""
        lines.append(f"<tr{mark}>{first}{''.join(cells)}</tr>")
    caption = f"<caption><span>{_text(table.caption)}</span></caption>\n" if table.caption else ""
    headed = f"<thead><tr>{head}</tr></thead>\n" if head else ""
    body = f"<tbody>\n{chr(10).join(lines)}\n</tbody>"
    kind = "" if table.header else ' class="facts"'
    box = f'<div class="scrolls"{_scroll_attributes(table.caption or "table")}>'
    return f"{box}<table{kind}>\n{caption}{headed}{body}\n</table></div>"


def _figure(figure: Figure) -> str:
    kind = ' class="wide"' if figure.wide else ""
    image = f'<img src="{_data_url(figure.image)}" alt="{_text(figure.alt or figure.caption)}">'
    return f"<figure{kind}>{image}<figcaption>{_text(figure.caption)}</figcaption></figure>"


def _scroll_attributes(label: str) -> str:
    """Return attributes that make an overflowing box scrollable with the keyboard."""
    return f' tabindex="0" role="group" aria-label="{_text(label)}"'


def _data_url(image: str | bytes) -> str:
    data = image.lstrip().encode("utf-8", "backslashreplace") if isinstance(image, str) else image
    kind = next((name for start, name in _KINDS if data.startswith(start)), None)
    if kind is None:
        raise ValueError(f"an image that begins with {data[:8]!r} is not PNG, JPEG or SVG")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _text(text: str) -> str:
    return html.escape(printable(text))


def _lines(text: str) -> str:
    return "\n".join(map(_text, text.splitlines()))
