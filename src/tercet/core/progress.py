"""Messages on standard error: single lines, and phases, the parts of a command that take long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.status import Status
from rich.text import Text

from tercet.core.output import SafeStream, printable

PHASE_SECONDS = 2.0
"""Seconds after which a phase is reported where there is no terminal."""


def print_status(console: Console, line: str) -> None:
    """Print one line without markup, highlighting or wrapping, since it may contain file names."""
    console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)


def print_warning(console: Console, line: str) -> None:
    """Print one line in red, as `print_status` does."""
    console.print(Text(f"WARNING: {printable(line)}", style="bold red"), soft_wrap=True)


def as_console(console: Console | bool | None) -> Console:
    """Return a console; None and True mean standard error or the notebook, False no output."""
    if isinstance(console, Console):
        return console
    # standard error that is closed must not stop a training
    return Console(file=SafeStream(sys.stderr), quiet=console is False)  # type: ignore[arg-type]


class Phase:
    """A part of a command without progress of its own: a spinner on a terminal, else one line if it takes long.

    Args:
        console: Where to report.
        name: What is done, such as "loading images".
    """

    def __init__(self, console: Console, name: str) -> None:
        self.console, self.name = console, name
        self._spinner = Status("", console=console) if console.is_terminal and not console.quiet else None
        self._timer: threading.Timer | None = None

    def begin(self, name: str) -> None:
        """Report a phase in place of the one before."""
        self.name = name
        if self._spinner is not None:
            self._spinner.update(Text(f"{printable(name)} ..."))
            self._spinner.start()
            return
        self._cancel()
        self._timer = threading.Timer(PHASE_SECONDS, print_status, (self.console, f"{name} ..."))
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """Remove the spinner; a phase that was short leaves no line."""
        if self._spinner is not None:
            self._spinner.stop()
        self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


_open: ContextVar[tuple[Phase, ...]] = ContextVar("open phases", default=())  # each thread has its own


@contextmanager
def phase(console: Console, name: str) -> Iterator[None]:
    """Report what happens within the block if it takes more than two seconds; nested blocks replace each other."""
    outer = next((item for item in reversed(_open.get()) if item.console is console), None)
    current = outer or Phase(console, name)
    before = current.name
    token = _open.set((*_open.get(), current))
    current.begin(name)
    try:
        yield
    finally:
        _open.reset(token)
        if outer is not None:
            outer.begin(before)
        else:
            current.end()


def next_phase(name: str) -> None:
    """Rename the phase of the innermost block; without a block, do nothing."""
    if phases := _open.get():
        phases[-1].begin(name)
