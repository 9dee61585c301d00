"""What benchmarks share: results kept from earlier runs, and errors in one line instead of a traceback."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tercet.core.errors import TercetError

RESULTS = Path(__file__).parent / "results"


def add_storage_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Add `--again` and `--results` to a benchmark that skips what is stored in results/NAME."""
    parser.add_argument("--again", action="store_true", help="run what is stored, too, and replace it")
    parser.add_argument("--results", type=Path, default=RESULTS / name, help="file of the finished runs")


def stored_rows(path: Path, *, again: bool, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Return the rows of earlier runs that are part of this one; with `again` they are removed from the file.

    Args:
        path: A file of JSON lines; it need not exist.
        again: Whether to run them again.
        keep: Whether a row is part of this run.
    """
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    if again:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows if not keep(row)), "utf-8")
        return []
    return [row for row in rows if keep(row)]


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add the row of a finished run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def sources_line(stored: int, measured: int, path: Path) -> str:
    """Return a line on how many results are from earlier runs and how many from this one."""
    again = "; --again runs them anew" if stored else ""
    return f"{stored} stored results of earlier runs ({path.name}), {measured} measured now{again}"


def store_text(name: str, text: str, folder: Path = RESULTS) -> None:
    """Print a result and write it to the folder."""
    print(text, end="")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, "utf-8")


def run_benchmark(main: Callable[[], int | None]) -> int:
    """Run a benchmark; an error of Tercet, a missing file or library is one line on standard error."""
    try:
        return main() or 0
    except TercetError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed: pip install {error.name}", file=sys.stderr)
    except FileNotFoundError as error:
        print(f"{error.filename} does not exist: see --help for the files that are needed", file=sys.stderr)
    return 2
