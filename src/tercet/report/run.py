"""`tercet report`: one HTML page about one run or several, with its figures as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.core.errors import ConfigError, StorageError
from tercet.core.output import printable
from tercet.data.run_reader import RunReader
from tercet.plots.page import is_page, write_page

try:
    from tercet.plots import figure_writer
    from tercet.report import pages
except ModuleNotFoundError as error:  # matplotlib is an extra; `from tercet import *` must work without it
    if (error.name or "").partition(".")[0] != "matplotlib":
        raise
    pages = figure_writer = None  # type: ignore[assignment]

_FILE_NAME = "report.html"


@dataclass(frozen=True)
class Report:
    """A written report."""

    path: Path
    """The HTML file."""
    figures: tuple[Path, ...]
    """Its figures as PNG and SVG files."""
    sections: tuple[str, ...]
    """Titles of its sections."""

    def to_text(self) -> str:
        """Return the paths of page and figures."""
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
    """Write one HTML page about one run or several, and its figures as PNG and SVG.

    Args:
        runs: One or several run folders, written by any command.
        output: The HTML file; its figures are written beside it, to a folder with the page's name and `-figures`
            (default: `RUN/report.html` and `RUN/figures` for one run, `report.html` here for several).
        leaderboard: CSV file with published scores, columns `name` and `score`.
        title: Title of the page.

    Raises:
        ConfigError: matplotlib is not installed, or no run is given.
        StorageError: A folder is not a finished run, or the page cannot be written.
        ModelError: The metrics of a run are invalid.
        DataError: Stored predictions or the leaderboard cannot be read.
    """
    if pages is None:
        raise ConfigError("tercet report needs matplotlib, which is not installed: pip install 'tercet[plots]'")
    paths = [runs] if isinstance(runs, (str, Path)) else list(runs)
    unique = list({Path(path).resolve(): Path(path) for path in paths}.values())
    if not unique:
        raise ConfigError("name at least one run folder")
    records = [RunReader.open(path) for path in unique]
    board = pages.read_leaderboard(leaderboard) if leaderboard is not None else ()
    target, folder = _output_paths(records, output)
    writer = figure_writer.FigureWriter(folder)
    if len(records) == 1:
        page = pages.page_of_run(records[0], writer, title=title, board=board)
    else:
        page = pages.page_of_runs(records, writer, title=title, board=board)
    write_page(target, page)
    _remove_stale_figures(folder, writer.files)
    return Report(target, tuple(writer.files), tuple(section.title for section in page.sections))


def _output_paths(records: Sequence[RunReader], output: str | Path | None) -> tuple[Path, Path]:
    """Return the path of the page and the folder of its figures; only an earlier report may be overwritten."""
    if output is None and len(records) == 1:
        target, folder = records[0].run.path / _FILE_NAME, records[0].run.path / "figures"
    else:
        target = Path(output or _FILE_NAME)
        folder = target.with_name(f"{target.stem}-figures")
    if target.is_dir():
        raise StorageError(f"{target} is a folder: name a file, such as --output {target / _FILE_NAME}")
    if target.exists() and not is_page(target):
        raise StorageError(f"{target} exists and is not a report: choose another name with --output")
    return target, folder


def _remove_stale_figures(folder: Path, written: Sequence[Path]) -> None:
    """Remove figures of an earlier report that this one does not contain."""
    for path in {*folder.glob("*.png"), *folder.glob("*.svg")} - set(written):
        path.unlink(missing_ok=True)
