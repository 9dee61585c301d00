"""`tercet report`: one HTML page about a run, or about several, and its figures as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.core.errors import ConfigError, StorageError
from tercet.core.streams import printable
from tercet.data.run_reader import RunReader
from tercet.plots.page import is_page, write_page

try:
    from tercet.plots import figure_writer as sketchbook
    from tercet.report import pages
except ModuleNotFoundError as error:  # the name must be there without the extra: `from tercet import *` asks for it
    if (error.name or "").partition(".")[0] != "matplotlib":
        raise
    pages = sketchbook = None  # type: ignore[assignment]

_NAME = "report.html"


@dataclass(frozen=True)
class Report:
    """A page that was written."""

    path: Path
    """The HTML file."""
    figures: tuple[Path, ...]
    """Its figures as PNG and SVG files."""
    sections: tuple[str, ...]
    """The titles of its sections."""

    def to_text(self) -> str:
        """Return where everything is."""
        folder = printable(str(self.figures[0].parent)) if self.figures else ""
        figures = f"figures: {folder} ({len(self.figures)} files)\n" if folder else ""
        return f"report:  {printable(str(self.path))}\n{figures}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "report": str(self.path),
            "figures": [str(path) for path in self.figures],
            "sections": list(self.sections),
        }


def write_report(
    runs: str | Path | Sequence[str | Path],
    /,
    *,
    output: str | Path | None = None,
    leaderboard: str | Path | None = None,
    title: str | None = None,
) -> Report:
    """Write one HTML page about a run, or about several beside each other, and its figures as PNG and SVG.

    Args:
        runs: A run folder of any verb, or several.
        output: The HTML file; its figures go beside it, into a folder with the page's name and `-figures` (default:
            `RUN/report.html` and `RUN/figures` for one run, `report.html` here for several).
        leaderboard: CSV file with others' scores, columns `name` and `score`.
        title: The page's title.

    Raises:
        ConfigError: matplotlib is not installed, or no run is named.
        StorageError: A folder is no finished run, or the page cannot be written.
        ModelError: The metrics of a run cannot be read.
        DataError: Stored predictions or the leaderboard cannot be read.
    """
    if pages is None:
        raise ConfigError("tercet report needs matplotlib, which is not installed: pip install 'tercet[pictures]'")
    named = [runs] if isinstance(runs, (str, Path)) else list(runs)
    unique = list({Path(path).resolve(): Path(path) for path in named}.values())
    if not unique:
        raise ConfigError("name a run folder, or several")
    records = [RunReader.open(path) for path in unique]
    board = pages.read_leaderboard(leaderboard) if leaderboard is not None else ()
    target, folder = _places(records, output)
    book = sketchbook.FigureWriter(folder)
    if len(records) == 1:
        page = pages.page_of_run(records[0], book, title=title, board=board)
    else:
        page = pages.page_of_runs(records, book, title=title, board=board)
    write_page(target, page)
    _clear(folder, book.files)
    return Report(target, tuple(book.files), tuple(section.title for section in page.sections))


def _places(records: Sequence[RunReader], output: str | Path | None) -> tuple[Path, Path]:
    """Return the page's file and the folder of its figures; another report there is replaced, nothing else."""
    if output is None and len(records) == 1:
        target, folder = records[0].run.path / _NAME, records[0].run.path / "figures"
    else:
        target = Path(output or _NAME)
        folder = target.with_name(f"{target.stem}-figures")
    if target.is_dir():
        raise StorageError(f"{target} is a folder: name a file, such as --output {target / _NAME}")
    if target.exists() and not is_page(target):
        raise StorageError(f"{target} is there and is no report: give another name with --output")
    return target, folder


def _clear(folder: Path, written: Sequence[Path]) -> None:
    """Remove the figures that an earlier report left there and this one does not have."""
    for path in {*folder.glob("*.png"), *folder.glob("*.svg")} - set(written):
        path.unlink(missing_ok=True)
