"""The command line: words to verbs, answers to standard output, errors to exit codes."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

from tercet import __version__
from tercet.cli.commands import PURPOSES, VERBS
from tercet.config.commands import OutputConfig
from tercet.config.fields import quote_value
from tercet.core.errors import ConfigError, to_tercet_error
from tercet.core.registry import did_you_mean
from tercet.core.streams import SafeStream, printable, write


def usage() -> str:
    """Return what `tercet --help` prints."""
    width = max(len(name) for name in VERBS if "-" not in name)  # a longer name pushes its own line only
    lines: list[str] = []
    for purpose, names in PURPOSES.items():
        lines += ["", f"{purpose}:", *(f"  {name:<{width}}  {VERBS[name][0].summary()}" for name in names)]
    return (
        f"tercet {__version__}: train an ensemble of image classifiers from a folder of images.\n\n"
        "Usage: tercet COMMAND [arguments] [options]\n" + "\n".join(lines) + "\n\n"
        "Run 'tercet COMMAND --help' for its options. Every command supports --json.\n"
        "Exit codes: 0 done, 2 options, 3 data, 4 model, 5 disk, 6 diverged, 7 memory.\n"
        "A first run, two minutes, no download: tercet demo\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code.

    0 done; 2 usage; 3 data; 4 model, bundle or checkpoint; 5 disk or permission; 6 diverged; 7 out of memory;
    130 and 143 after Ctrl-C and SIGTERM.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported, by a verb
    try:
        with _listening():
            return _run(words)
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say, and to no one
        return 0
    except KeyboardInterrupt as stop:
        sigterm = isinstance(stop, _Terminated)
        return _complain(f"stopped by {'SIGTERM' if sigterm else 'Ctrl-C'}", 143 if sigterm else 130)
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        known = to_tercet_error(error)
        if known is None:
            kind = type(error).__name__
            return _complain(f"this should not happen: {kind}: {error} (run again with --debug and report it)", 1)
        return _complain(str(known), known.exit_code, lines=isinstance(known, ConfigError))


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        write(sys.stdout if words else sys.stderr, usage())
        return 0 if words else 2
    if words[0] in ("--version", "-V", "version"):
        write(sys.stdout, f"tercet {__version__}\n")
        return 0
    verb = words[0]
    if verb not in VERBS:
        raise ConfigError(
            f"unknown command {quote_value(verb)}{did_you_mean(verb, VERBS)} (commands: {', '.join(VERBS)})"
        )
    options, work = VERBS[verb]
    try:
        parsed = options.parse_args(words[1:])
    except SystemExit:  # help was asked for, and printed
        write(sys.stdout, "")
        return 0
    answer = work(parsed)
    if answer.silent:
        return answer.exit_code
    as_json = parsed.of(OutputConfig).json
    write(sys.stdout, json.dumps(answer.document, allow_nan=False) + "\n" if as_json else answer.text)
    return answer.exit_code


class _Terminated(KeyboardInterrupt):
    """SIGTERM. Like Ctrl-C it is no `Exception`, so that nothing on its way takes it for damaged data."""


@contextmanager
def _listening() -> Iterator[None]:
    """Within the block SIGTERM ends the work in good order, and warnings are one line each."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    main_thread = threading.current_thread() is threading.main_thread()  # no other may set handlers
    handler = signal.signal(signal.SIGTERM, terminate) if main_thread else None
    show, warnings.showwarning = warnings.showwarning, _show_warning
    try:
        yield
    finally:
        warnings.showwarning = show
        if main_thread:
            signal.signal(signal.SIGTERM, handler)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    SafeStream(sys.stderr).write(f"tercet: warning: {printable(str(message))}\n")


def _complain(message: str, exit_code: int, *, lines: bool = False) -> int:
    """Write an error as one line, or as the lines of a list of problems."""
    parts = message.split("\n") if lines else [message]
    SafeStream(sys.stderr).write("tercet: error: " + "\n".join(map(printable, parts)) + "\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
