"""Tables as text and as HTML, and numbers as text."""

from __future__ import annotations

import html
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich import table as rich_table
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from tercet.core.output import printable

MISSING = "-"
_COUNTS = ("parameters", "flops")
WIDTH = 80
"""Columns of tables where there is no terminal."""
_MIN_WIDTH = 8
"""Columns that a name keeps in a table that is too wide."""
_ALIGNED = {"l": "", "r": ' class="number"'}


@dataclass(frozen=True)
class Table:
    """A table of text; the first cell of a row is its heading.

    Unprintable characters are escaped; in headers and right-aligned cells a newline starts a new line of text tables
    (`-` and newline in a word of a header).
    """

    header: Sequence[str]
    """Column names; empty for a table of names and values."""
    rows: Sequence[Sequence[str]]
    align: str = ""
    """One letter per column: l left (default; long text is folded), r right (numbers; never folded)."""
    caption: str = ""
    strong: frozenset[int] = frozenset()
    """Indices of highlighted rows."""
    note: str = ""
    """Remark below the table."""
    rules: frozenset[int] = frozenset()
    """Text: indices of rows that are followed by a line."""

    def to_text(self, *, width: int | None = None) -> str:
        """Return plain text without colours; it is wider than `width` only if the numbers do not fit.

        Args:
            width: Columns (default: those of the terminal). Names of columns are divided only where they do not fit.
        """
        width = terminal_width() if width is None else width
        undivided = replace(self, header=[_undivided(name) for name in self.header])
        return undivided._to_text(width) if _total(undivided._widths()) <= width else self._to_text(width)

    def _widths(self) -> list[int]:
        """Return the width of each column without folded text."""
        align = self.align.ljust(len(self.header), "l")
        columns = [[name, *(row[index] for row in self.rows)] for index, name in enumerate(self.header)]
        return [
            max(cell_len(line) for cell in column for line in _lines(cell, letter).split("\n"))
            for column, letter in zip(columns, align, strict=True)
        ]

    def _to_text(self, width: int) -> str:
        title = Text(printable(self.caption)) if self.caption else None
        table = rich_table.Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, padding=0)
        align = self.align.ljust(len(self.header), "l")
        widths = []
        for name, letter, longest in zip(self.header, align, self._widths(), strict=True):
            widths.append(longest if letter == "r" else min(_MIN_WIDTH, longest))
            options: dict[str, Any] = {"justify": "right", "no_wrap": True} if letter == "r" else {"overflow": "fold"}
            table.add_column(Text(_lines(name, "r")), min_width=widths[-1], **options)
        for number, row in enumerate(self.rows):
            texts = (Text(_lines(cell, letter)) for cell, letter in zip(row, align, strict=True))
            table.add_row(*texts, end_section=number in self.rules)
        table.caption = Text(printable(self.note)) if self.note else None
        stream = io.StringIO()
        Console(file=stream, width=max(width, _total(widths)), color_system=None, highlight=False).print(table)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"

    def to_html(self) -> str:
        """Return an HTML table in a box that scrolls if it is too wide.

        Raises:
            ValueError: A row is longer than the header.
        """
        width = len(self.header) or max(map(len, self.rows), default=0)
        if any(len(row) > width for row in self.rows):
            raise ValueError(f"a row of the table '{self.caption}' is longer than its {width} columns")
        kinds = [_ALIGNED[letter] for letter in self.align.ljust(width, "l")]
        names = zip(map(_undivided, self.header), kinds, strict=False)
        head = "".join(f'<th scope="col"{kind}>{_escaped(name)}</th>' for name, kind in names)
        lines = []
        for number, row in enumerate(self.rows):
            cells = [f"<td{kind}>{_escaped(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=False)]
            first = f'<th scope="row"{kinds[0]}>{_escaped(row[0])}</th>' if row else ""
            mark = ' class="strong"' if number in self.strong else ""
            lines.append(f"<tr{mark}>{first}{''.join(cells)}</tr>")
        text = "; ".join(part for part in (self.caption, self.note) if part)
        caption = f"<caption><span>{_escaped(text)}</span></caption>\n" if text else ""
        headed = f"<thead><tr>{head}</tr></thead>\n" if head else ""
        body = f"<tbody>\n{chr(10).join(lines)}\n</tbody>"
        kind = "" if self.header else ' class="facts"'
        box = f'<div class="scrolls" tabindex="0" role="group" aria-label="{_escaped(self.caption or "table")}">'
        return f"{box}<table{kind}>\n{caption}{headed}{body}\n</table></div>"


def terminal_width() -> int:
    """Return the columns of the terminal; `WIDTH` if the output is not one."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(widths) + 1  # with a space between the columns and at both ends


def _undivided(name: str) -> str:
    """Return the name of a column without line breaks."""
    return name.replace("-\n", "").replace("\n", " ")


def _lines(text: str, align: str) -> str:
    return "\n".join(map(printable, text.split("\n"))) if align == "r" else printable(text)


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def number(value: float | None, spec: str = ".4f") -> str:
    """Format a score."""
    return MISSING if value is None else f"{value:{spec}}"


def mean_sd(value: Mapping[str, Any] | None, spec: str = ".4f", separator: str = " ± ") -> str:
    """Format mean and, if known, standard deviation."""
    if value is None:
        return MISSING
    return number(value["mean"], spec) + ("" if value["sd"] is None else f"{separator}{value['sd']:{spec}}")


def interval(scores: Mapping[str, Any], name: str = "accuracy", separator: str = " to ") -> str:
    """Format the 95 % interval of a score."""
    low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
    return MISSING if low is None or high is None else f"{low:.3f}{separator}{high:.3f}"


def points(comparison: Mapping[str, Any], separator: str = " to ") -> tuple[str, str]:
    """Format a difference of accuracies in percentage points, and its interval."""
    low, high = 100 * comparison["low"], 100 * comparison["high"]
    return f"{100 * comparison['difference']:+.2f}", f"{low:+.2f}{separator}{high:+.2f}"


def p_value_text(p_value: float) -> str:
    """Format a p-value."""
    return "< 0.0001" if p_value < 0.0001 else f"{p_value:.2g}"


def duration(seconds: float | None) -> str:
    """Format a time in seconds, minutes or hours."""
    if seconds is None:
        return MISSING
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def sentence_case(text: str) -> str:
    """Return the text with a capital first letter."""
    return text[:1].upper() + text[1:]


def short_count(value: int | None) -> str:
    """Return a count in at most five characters, such as 216k or 51.3M."""
    if value is None:
        return MISSING
    for unit, size in (("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)):
        # 999,950 would be 1000.0k: the next unit starts a little earlier
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 99.95 else f"{scaled:.1f}{unit}"
    return str(value)


def result_text(value: Any, row: Mapping[str, Any], *, signed: bool = False) -> str:
    """Format a value of a row of published and measured results; published text is returned as it is."""
    if value is None or isinstance(value, str):
        return value or MISSING
    if row["metric"] in _COUNTS:
        return f"{value:+,.0f}" if signed else short_count(int(value)) if value >= 1e6 else f"{value:,.0f}"
    sizes = [abs(row[key]) for key in ("measured", "published") if isinstance(row[key], int | float)]
    digits = 4 if max(sizes, default=0) < 1.5 and "seconds" not in row["metric"] else 2
    return f"{value:{'+' if signed else ''}.{digits}f}"
