"""Commands: functions whose signatures and docstrings define their arguments, options and help.

The positional parameters of the function are the arguments of the command: texts, or tuples of texts, each annotated
with its help. The keyword-only parameters are configuration dataclasses, whose fields are the options.

    @command("Analysis")
    def count(folder: Annotated[str, "folder with images"], *, config: CountConfig) -> str: ...

A command of the user's is such a function, registered by `tercet.register("command", name, function)`.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

from tercet.config.commands import OutputConfig
from tercet.config.fields import COMMAND_LINE, ConfigEntry, quote_value
from tercet.config.parser import CONFIG, CommandOptions, ParsedArguments
from tercet.config.synonyms import SHORT
from tercet.core.errors import ConfigError, Problem, raise_problems
from tercet.core.output import CommandResult, SafeStream
from tercet.core.registry import PARTS
from tercet.core.yaml_io import read_mapping

Function = Callable[..., Any]
"""Returns a text, a `CommandResult`, or an object with `to_text` and `to_dict`."""


@dataclass(frozen=True)
class Positional:
    """A positional argument."""

    name: str
    """Name of the parameter; in capitals the placeholder in help and messages."""
    help: str
    many: bool
    """Whether it accepts several values."""
    required: bool

    @property
    def label(self) -> str:
        """Placeholder in help and messages."""
        return self.name.upper().replace("_", "-")

    def usage(self) -> str:
        """Return its part of the usage line."""
        required = f"{self.label} [{self.label} ...]" if self.many else self.label
        return required if self.required else f"[{self.label} ...]" if self.many else f"[{self.label}]"


@dataclass(frozen=True)
class Command:
    """A function that can be called from the command line."""

    name: str
    function: Function
    group: str = "Further commands"
    """Heading in `tercet --help`."""
    shared: CommandOptions | None = None
    """Options that are also those of a Python function; the command's function takes `parsed: ParsedArguments`."""

    @cached_property
    def hints(self) -> dict[str, Any]:
        """The annotations of the parameters."""
        hints = typing.get_type_hints(self.function, include_extras=True)
        return {name: hints.get(name, str) for name in inspect.signature(self.function).parameters}

    @cached_property
    def positionals(self) -> tuple[Positional, ...]:
        """The positional arguments."""
        positionals = []
        for item in inspect.signature(self.function).parameters.values():
            if item.kind is not item.KEYWORD_ONLY:
                hint = self.hints[item.name]
                kind, text = typing.get_args(hint)[:2] if hasattr(hint, "__metadata__") else (hint, "")
                many = typing.get_origin(kind) is tuple
                positionals.append(Positional(item.name, text, many, required=item.default is item.empty))
        return tuple(positionals)

    @cached_property
    def options(self) -> CommandOptions:
        """The options: the fields of the configuration classes, and those of every command."""
        arguments = {item.name for item in self.positionals}
        kinds = {
            name: hint for name, hint in self.hints.items() if name not in arguments and hint is not ParsedArguments
        }
        raise_problems(
            f"command '{self.name}': annotate the keyword-only parameter '{name}' with a configuration dataclass"
            for name, hint in kinds.items()
            if not dataclasses.is_dataclass(hint)
        )
        return self.shared or CommandOptions(*kinds.values(), OutputConfig)

    @property
    def description(self) -> str:
        """The docstring of the function without its examples."""
        return " ".join((inspect.getdoc(self.function) or "").partition("Examples:")[0].split())

    @property
    def examples(self) -> list[str]:
        """Command lines without `tercet COMMAND`, from the section "Examples:" of the docstring."""
        return textwrap.dedent((inspect.getdoc(self.function) or "").partition("Examples:\n")[2]).strip().splitlines()

    def summary(self) -> str:
        """Return the first sentence of the description."""
        return self.description.partition(". ")[0].rstrip(".") + "."

    def parse_args(self, argv: Sequence[str]) -> ParsedArguments:
        """Parse the arguments after the command.

        Raises:
            ConfigError: Invalid arguments, file, values or combinations; lists all problems.
        """
        scan = _Scan(self, argv)
        entries = [*scan.read_config(), *scan.entries]
        instances = self.options.resolve(entries, scan.problems)
        positional = scan.assign()
        raise_problems(scan.problems, separator="\n")
        return ParsedArguments(positional, frozenset(entry.key for entry in entries), self.options, instances)

    def execute(self, parsed: ParsedArguments) -> CommandResult:
        """Call the function with parsed arguments."""
        values = {name: value for name, value in parsed.positional.items() if value}  # else the default
        for name, hint in self.hints.items():
            if name not in parsed.positional:
                values[name] = parsed if hint is ParsedArguments else parsed.of(hint)
        result = self.function(**values)
        if result is None or isinstance(result, str):
            return CommandResult(f"{result}\n" if result else "", result)
        if isinstance(result, CommandResult):
            return result
        return CommandResult(result.to_text(), result.to_dict(), getattr(result, "exit_code", 0))


def command(group: str, options: CommandOptions | None = None) -> Callable[[Function], Function]:
    """Return a decorator that registers a function as the command of its name; see `Command` for the arguments."""

    def register(function: Function) -> Function:
        PARTS["command"].register(function.__name__)(Command(function.__name__, function, group, options))
        return function

    return register


def find_command(name: str) -> Command:
    """Return a command, also one of the user's.

    Raises:
        ConfigError: There is no such command.
    """
    part = PARTS["command"][name]
    return part if isinstance(part, Command) else Command(name, part)


def console() -> Any:
    """Return a rich console on standard error, for progress."""
    from rich.console import Console

    return Console(file=typing.cast("IO[str]", SafeStream(sys.stderr)))


def phase(name: str, screen: Any = None) -> AbstractContextManager[None]:
    """Report what happens within the block, if it takes more than two seconds.

    Args:
        name: What happens.
        screen: The console of other messages within the block (default: none are written).
    """
    from tercet.core.progress import phase as reported

    return reported(screen or console(), name)


class _Scan:
    """One pass over a command line: options with their texts, and the arguments between them."""

    def __init__(self, command: Command, argv: Sequence[str]) -> None:
        self.options, self.positionals = command.options, command.positionals
        self.entries: list[ConfigEntry] = []
        self.arguments: list[str] = []
        self.config: str | None = None
        self.problems: list[Problem] = []
        # Whether an argument may be the value of an unknown option; then counting positionals would mislead.
        self.uncertain = False
        remaining = deque(argv)
        while remaining:
            token = remaining.popleft()
            if token == "--":
                self.arguments.extend(remaining)
                return
            if token.startswith("--"):
                self._option(token, remaining)
            elif SHORT.get(token) in self.options.aliases:
                self._option(f"--{SHORT[token]}", remaining)
            elif re.match(r"-[^\d.]", token):
                self._report(f"{token}: unknown option (put names starting with '-' after '--')")
            else:
                self.arguments.append(token)

    def _report(self, text: str, *keys: str) -> None:
        self.problems.append(Problem(text, *keys))

    def _option(self, token: str, remaining: deque[str]) -> None:
        name, equals, value = token[2:].partition("=")
        key = self.options.key(name)
        entry = ConfigEntry(key, value, COMMAND_LINE)
        option = self.options.fields.get(key)
        value_follows = not equals and bool(remaining) and not remaining[0].startswith("--")
        if option is None and key != CONFIG:
            self._unknown(entry, remaining if value_follows else None)
            return
        switch = option is not None and option.flag and not option.default
        if switch and not equals and not (remaining and remaining[0].lower() in ("true", "false")):
            value = "true"
        elif value_follows:
            value = remaining.popleft()
        elif not equals:
            self._report(f"{entry.label}: expected {option.expected() if option else 'a YAML file'}, got nothing", key)
            return
        if option is None:
            self.config = value
        else:
            self.entries.append(dataclasses.replace(entry, value=value))

    def _unknown(self, entry: ConfigEntry, following: deque[str] | None) -> None:
        """Report an unknown option; guess whether the following argument is its value."""
        positional = next((item for item in self.positionals if item.name == entry.key), None)
        if positional is not None:
            self._report(f"{entry.label}: unknown option, {positional.label} is a positional argument")
            return
        self.problems.append(self.options.unknown(entry))
        likely = self.options.fields.get(next(iter(self.problems[-1].fields), ""))
        if following and (likely is None or not likely.flag):
            following.popleft()
            self.uncertain |= likely is None

    def read_config(self) -> list[ConfigEntry]:
        """Return the entries of the file given by `--config`."""
        if self.config is None:
            return []
        try:
            return self.options.flatten(read_mapping(self.config), f"{self.config}: ", self.problems)
        except ConfigError as error:
            self._report(f"--{CONFIG}: {error}")
            return []

    def assign(self) -> dict[str, Any]:
        """Assign arguments to the positionals: first to the required ones, then to the one that accepts several."""
        remaining = deque(self.arguments)
        spare = len(remaining) - sum(item.required for item in self.positionals)
        assigned: dict[str, Any] = {}
        for item in self.positionals:
            extra = max(0, spare) if item.many else int(spare > 0 and not item.required)
            spare -= extra
            values = tuple(remaining.popleft() for _ in range(min(len(remaining), extra + item.required)))
            assigned[item.name] = values if item.many else values[0] if values else None
            if item.required and not values and not self.uncertain:
                self._report(f"{item.label} is missing: {item.help}")
        for argument in remaining if not self.uncertain else ():
            self._report(f"unexpected argument {quote_value(argument)}")
        return assigned
