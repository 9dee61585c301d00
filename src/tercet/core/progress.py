"""Progress of trainings: bars on a terminal, else one line per epoch."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tercet.core.output import SafeStream, printable


def print_status(console: Console, line: str) -> None:
    """Print one line without markup, highlighting or wrapping, since it may contain file names."""
    console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)


def as_console(console: Console | bool | None) -> Console:
    """Return a console; None and True mean standard error or the notebook, False no output."""
    if isinstance(console, Console):
        return console
    # standard error that is closed must not stop a training
    return Console(file=SafeStream(sys.stderr), quiet=console is False)  # type: ignore[arg-type]


class ProgressDisplay:
    """One bar per training (terminals and notebooks only), and one line per epoch."""

    def __init__(self, console: Console, *, split: str = "validation") -> None:
        self.console, self.split = console, split
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
        )
        # Rich draws the bars of a notebook with ipywidgets, and warns without them
        bars = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
        self.progress = Progress(*columns, console=console, transient=True, disable=not bars)
        self.tasks: dict[str, TaskID] = {}

    def step(self, title: str, *, step: int, total_steps: int, rate: float, loss: float) -> None:
        """Update the bar of a training; the first call adds it."""
        if title not in self.tasks:
            self.tasks[title] = self.progress.add_task(printable(title), total=total_steps, state="")
        self.progress.update(self.tasks[title], completed=step, state=f"rate {rate:.2g}  loss {loss:.3f}")

    def epoch(self, title: str, row: dict[str, Any]) -> None:
        """Print loss and score of an epoch."""
        scores = row["validation"]
        first = next((name for name in scores if name != "loss"), "")  # accuracy, or O-F1 for multi-label data
        result = f"{self.split} {scores['loss']:.3f}, {first} {scores[first]:.4f}, " if scores else ""
        print_status(
            self.console,
            f"{title} {row['stage'] + 1}.{row['epoch'] + 1}: "
            f"train {row['train_loss']:.3f}, {result}{row['seconds']:.1f} s{' *' if row['best'] else ''}",
        )

    def end(self, title: str) -> None:
        """Remove the bar of a training."""
        if title in self.tasks:
            self.progress.remove_task(self.tasks.pop(title))
