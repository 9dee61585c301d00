"""Entry point: dispatches commands, prints results to standard output, and maps errors to exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
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
from tercet.cli.command import find_command
from tercet.config.commands import OutputConfig
from tercet.core.errors import ConfigError, ModelError, Problem, Terminated, to_tercet_error
from tercet.core.output import SafeStream, printable, write
from tercet.core.registry import PARTS

COMMANDS = PARTS["command"]
_GROUPS = ("Training and inference", "Experiments", "Analysis", "Deployment", "Models and data", "Shell")
_HELP_WIDTH, _MAX_HELP_WIDTH = 80, 110
_QUICK_START = """\
  tercet train photos/                      one sub-folder per class
  tercet predict runs/photos-1 cat.jpg
  tercet export runs/photos-1 model.onnx    one file, no PyTorch needed
"""
_WELCOME = """\
Tercet turns a folder of images into one classifier: measured, and deployable as one file.

  tercet train photos/                    train on a folder with one sub-folder per class
  tercet predict runs/photos-1 cat.jpg    classify new images with the result
  tercet serve runs/photos-1              try it in the browser

For a first answer within a minute: tercet probe photos/. Without images at hand: tercet demo.
All commands: tercet --help. Options of a command: tercet COMMAND --help.
"""
_VERSION = ("-V", "--version")


def usage() -> str:
    """Return the text of `tercet --help`."""
    width = max(map(len, COMMANDS))
    groups: dict[str, list[str]] = {title: [] for title in _GROUPS}
    for name in COMMANDS.names():
        command = find_command(name)
        groups.setdefault(command.group, []).append(f"  {name:<{width}}  {command.summary()}")
    lines = [line for title, entries in groups.items() for line in ("", f"{title}:", *entries)]
    return (
        "Usage: tercet COMMAND [arguments] [options]\n\n"
        "Train, evaluate and deploy ensembles of image classifiers.\n\n"
        f"Quick start:\n{_QUICK_START}" + "\n".join(lines) + "\n\n"
        "Run 'tercet COMMAND --help' for the options of a command.\n"
        "Every command accepts --json. 'tercet demo' trains on built-in images in two\n"
        "minutes, without a download.\n\n"
        "Exit codes: 0 success, 1 internal error, 2 options, 3 data, 4 model, 5 disk,\n"
        "6 diverged, 7 memory.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    0 success; 1 internal error; 2 usage; 3 data; 4 model, bundle or checkpoint; 5 disk or permission; 6 diverged;
    7 out of memory; 130 and 143 after Ctrl-C and SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when a command imports torch
    try:
        with _signals_and_warnings(arguments):
            return _run(arguments)
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        return 0
    except KeyboardInterrupt as stop:
        sigterm = isinstance(stop, Terminated)
        return _print_error(f"stopped by {'SIGTERM' if sigterm else 'Ctrl-C'}", 143 if sigterm else 130)
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        known = to_tercet_error(error)
        if known is None:
            kind = type(error).__name__
            text = f"internal error: {kind}: {error} (run again with --debug and report it)"
            return _print_error(printable(text), 1)
        problems = known.problems if isinstance(known, ConfigError | ModelError) else (str(known),)
        return _print_error("\n".join(printable(_as_typed(text, arguments)) for text in problems), known.exit_code)


_KEY = re.compile(r"(?<![\w./-])[a-z]+(?:[._][a-z]+)+(?!\w)")
_IN_FILE = re.compile(r"\S+\.ya?ml: ")


def _as_typed(text: str, arguments: Sequence[str]) -> str:
    """Return a message with `data.max_bad_fraction` as `--data.max-bad-fraction`, unless it is about a file.

    Messages name the keys of options, which files and Python share. A key without a dot is an option only in a problem
    that concerns it, since it might be a column or a function elsewhere.
    """
    if _IN_FILE.match(text):
        return text
    try:
        keys = find_command(arguments[0]).options.fields.keys()
    except (ConfigError, IndexError):
        return text
    concerned = text.fields if isinstance(text, Problem) else ()

    def spell(match: re.Match[str]) -> str:
        key = match[0]
        return "--" + key.replace("_", "-") if key in keys and ("." in key or key in concerned) else key

    return _KEY.sub(spell, text)


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        write(sys.stdout, usage() if arguments else _WELCOME)
        return 0
    if arguments[0] in (*_VERSION, "version"):
        write(sys.stdout, f"tercet {__version__}\n")
        return 0
    command, rest = find_command(arguments[0]), arguments[1:]
    options = set(rest[: rest.index("--")] if "--" in rest else rest)
    if options & {"-h", "--help"}:
        from tercet.cli.help import format_help  # it imports the parser of docstrings

        width = shutil.get_terminal_size((_HELP_WIDTH, 24)).columns
        write(sys.stdout, format_help(command, min(max(width, _HELP_WIDTH), _MAX_HELP_WIDTH)))
        return 0
    if options & set(_VERSION):
        write(sys.stdout, f"tercet {__version__}\n")
        return 0
    parsed = command.parse_args(rest)
    result = command.execute(parsed)
    if result.silent:
        return result.exit_code
    as_json = parsed.of(OutputConfig).json
    write(sys.stdout, json.dumps(result.document, allow_nan=False) + "\n" if as_json else result.text)
    return result.exit_code


@contextmanager
def _signals_and_warnings(arguments: Sequence[str]) -> Iterator[None]:
    """Within the block SIGTERM raises `Terminated`, and each warning is printed as one line."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    def show_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        SafeStream(sys.stderr).write(f"tercet: warning: {printable(_as_typed(str(message), arguments))}\n")

    main_thread = threading.current_thread() is threading.main_thread()  # only it may set handlers
    handler = signal.signal(signal.SIGTERM, terminate) if main_thread else None
    show, warnings.showwarning = warnings.showwarning, show_warning
    try:
        yield
    finally:
        warnings.showwarning = show
        if main_thread:
            signal.signal(signal.SIGTERM, handler)


def _print_error(message: str, exit_code: int) -> int:
    """Print the lines of an error, which are printable, and return the exit code."""
    SafeStream(sys.stderr).write(f"tercet: error: {message}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
