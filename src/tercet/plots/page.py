"""One self-contained HTML file from plain values: no script, no request, and every name in it stays text.

What comes from data (class names, file names, options) is escaped, and what is not printable is shown escaped. Pictures
are `data:` addresses; an SVG is one too, so that it can run nothing and its inner names cannot meet another figure's.
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
from tercet.core.streams import printable

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_KINDS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"<svg", "svg+xml"), (b"<?xml", "svg+xml"))
_GENERATOR = '<meta name="generator" content="tercet">'
_ALIGNED = {"l": "", "r": ' class="number"'}
_DEEPEST = 6  # HTML has no smaller heading


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str
    """What it says."""
    quiet: bool = False
    """Whether it is an aside: what was left out, and why."""


@dataclass(frozen=True)
class Table:
    """Rows of text; the first cell of a row names it."""

    header: Sequence[str]
    """Names of the columns; empty for a table of facts, whose first column says what the second is."""
    rows: Sequence[Sequence[str]]
    """Cells as they are shown."""
    align: str = ""
    """A letter a column: l left, r right (numbers); columns without one are left."""
    caption: str = ""
    """What the table holds."""
    strong: frozenset[int] = frozenset()
    """Numbers of the rows that stand out, from 0."""


@dataclass(frozen=True)
class Figure:
    """A drawing; figures that follow each other stand side by side where there is room."""

    image: str | bytes
    """An SVG document as text, or the bytes of a PNG or JPEG."""
    caption: str
    """What it shows and how to read it."""
    alt: str = ""
    """What is to be seen, for who does not see it; the caption where empty."""
    wide: bool = False
    """Whether it takes the whole width."""


@dataclass(frozen=True)
class Images:
    """Small pictures in rows, each with its own caption."""

    images: Sequence[tuple[bytes, str]]
    """Bytes of a JPEG or PNG without metadata, and the caption."""
    caption: str = ""
    """What they are together."""


@dataclass(frozen=True)
class Warning:
    """A red box that cannot be overlooked."""

    text: str
    """What is wrong, and what that means."""
    title: str = "Warning"
    """Its first words."""


@dataclass(frozen=True)
class Code:
    """Text in its own lines: a command, a configuration."""

    text: str
    """As it would be typed."""
    label: str = ""
    """What it is, for who does not see it."""


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away until somebody asks for them."""

    summary: str
    """The line that unfolds them."""
    blocks: Sequence[Block]
    """What is folded away."""


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; a section inside a section has a smaller one."""

    title: str
    """The heading."""
    blocks: Sequence[Block]
    """What stands under it."""
    anchor: str = ""
    """Its name in links, such as `page.html#results`; made from the title where empty."""


Block: TypeAlias = "Paragraph | Table | Figure | Images | Warning | Code | Details | Section"


@dataclass(frozen=True)
class Page:
    """A whole page."""

    title: str
    """The largest heading, and the name of the window."""
    sections: Sequence[Section]
    """In order; where there are several, links to them stand beside."""
    subtitle: str = ""
    """A line under the title."""


def write_page(path: Path, page: Page) -> None:
    """Write a page as one HTML file, atomically."""
    write_text(path, render(page))


def is_page(path: Path) -> bool:
    """Tell whether a file is a page that `write_page` wrote."""
    with path.open("rb") as file:
        return _GENERATOR.encode() in file.read(2000)


def render(page: Page) -> str:
    """Return a page as one HTML document.

    Raises:
        ValueError: The bytes of a picture are no PNG, JPEG or SVG, or a row of a table is longer than its header.
    """
    return _Renderer().page(page)


class _Renderer:
    """Turns values into HTML; knows which anchors are taken."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

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
        """Return a name for links that no other section has."""
        wanted = re.sub(r"[^a-z0-9]+", "-", (section.anchor or section.title).lower()).strip("-") or "section"
        number, name = 1, wanted
        while name in self.taken:
            number += 1
            name = f"{wanted}-{number}"
        self.taken.add(name)
        return name

    def section(self, section: Section, anchor: str, *, level: int) -> str:
        heading = min(level, _DEEPEST)
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
                    f'<li><img src="{_address(image)}" alt="{_text(said)}"><p>{_text(said)}</p></li>'
                    for image, said in images
                )
                head = f"<p>{_text(caption)}</p>\n" if caption else ""
                return f'{head}<ul class="images">\n{items}\n</ul>'
            case Warning(text, title):
                return f'<div class="warning" role="note"><p><strong>{_text(title)}.</strong> {_text(text)}</p></div>'
            case Code(text, label):
                return f"<pre{_scrolls(label or 'code')}><code>{_lines(text)}</code></pre>"
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
    box = f'<div class="scrolls"{_scrolls(table.caption or "table")}>'
    return f"{box}<table{kind}>\n{caption}{headed}{body}\n</table></div>"


def _figure(figure: Figure) -> str:
    kind = ' class="wide"' if figure.wide else ""
    image = f'<img src="{_address(figure.image)}" alt="{_text(figure.alt or figure.caption)}">'
    return f"<figure{kind}>{image}<figcaption>{_text(figure.caption)}</figcaption></figure>"


def _scrolls(label: str) -> str:
    """Return what lets a keyboard scroll a box that is wider than a phone."""
    return f' tabindex="0" role="group" aria-label="{_text(label)}"'


def _address(image: str | bytes) -> str:
    data = image.lstrip().encode("utf-8", "backslashreplace") if isinstance(image, str) else image
    kind = next((name for start, name in _KINDS if data.startswith(start)), None)
    if kind is None:
        raise ValueError(f"a picture that begins with {data[:8]!r} is no PNG, JPEG or SVG")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _text(text: str) -> str:
    return html.escape(printable(text))


def _lines(text: str) -> str:
    return "\n".join(map(_text, text.splitlines()))
