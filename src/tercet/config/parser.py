"""The options of a command: configuration classes in, checked instances out.

The command line, YAML files and Python keywords share the same dotted keys. Files override defaults, and the command
line overrides files. All problems are reported together, in one `ConfigError`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tercet.config.fields import COMMAND_LINE, ConfigEntry, ErrorCollector, quote_value
from tercet.config.help import Positional, format_help
from tercet.config.schema import Schema
from tercet.config.synonyms import SHORT
from tercet.core.errors import ConfigError
from tercet.core.yaml_io import dump_yaml, read_mapping

__all__ = ["CommandOptions", "ParsedArguments", "Positional"]

Config = TypeVar("Config")


@dataclass(frozen=True)
class ParsedArguments:
    """Parsed options: one instance of each configuration class, plus positional arguments."""

    positional: Mapping[str, Any]
    """By name: a text, a tuple of texts if several are accepted, None if omitted."""
    given: frozenset[str]
    """Dotted keys set by the file or the command line."""
    schema: Schema
    instances: Mapping[type, Any]
    """One instance of each class."""

    def of(self, kind: type[Config]) -> Config:
        """Return the instance of a configuration class of the command, nested ones included."""
        instance: Config = self.instances[kind]
        return instance

    def to_dict(self, *kinds: type) -> dict[str, Any]:
        """Return the value of every option by dotted key, for YAML and JSON; `parse_object` reads it back equal.

        Args:
            *kinds: Include these configuration classes only (default: all).
        """
        chosen = [kind for _, kind in self.schema.groups if not kinds or kind in kinds]
        return _plain_values(self.schema, *(self.instances[kind] for kind in chosen))

    def to_yaml(self, *kinds: type) -> str:
        """Return `to_dict(*kinds)` as a YAML file that `--config` accepts."""
        return dump_yaml(self.to_dict(*kinds))

    def to_arguments(self, *without: str) -> list[str]:
        """Return the given options as command-line arguments that parse to the same values; no mappings among them.

        Args:
            *without: Keys to leave out.
        """
        values = {key: value for key, value in self.to_dict().items() if key in self.given and key not in without}
        return [
            f"--{key.replace('_', '-')}={_argument(value)}" for key, value in values.items() if value not in (None, [])
        ]


def _argument(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_argument, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


class CommandOptions:
    """Options and positional arguments of one command.

    Args:
        command: Name, as in `tercet COMMAND`.
        description: A few sentences; the first one, short, is also shown in `tercet --help`.
        groups: Pairs of key prefix and frozen dataclass, all of whose fields have defaults; '' puts the fields at top
            level. Nested dataclasses become groups of their own.
        positionals: Positional arguments in order; at most one may accept several values.
        config_file: Whether `--config FILE` reads options from a YAML file.
        aliases: Further names of options, such as `data_dir` for `data.data_dir`.
        without: Per class, fields that are not options of this command and keep their defaults.
        examples: Command lines for the help, without `tercet COMMAND`.

    Raises:
        TypeError: Two classes define the same option, or a field has no default.
    """

    def __init__(
        self,
        command: str,
        description: str = "",
        *,
        groups: Sequence[tuple[str, type[Any]]] = (),
        positionals: Sequence[Positional] = (),
        config_file: bool = False,
        aliases: Mapping[str, str] | None = None,
        without: Mapping[type, frozenset[str]] | None = None,
        examples: Sequence[str] = (),
    ) -> None:
        self.command = command
        self.description = description
        self.positionals = tuple(positionals)
        self.config_file = config_file
        self.examples = tuple(examples)
        self.schema = Schema(groups, aliases, without)

    def summary(self) -> str:
        """Return the first sentence of the description."""
        return self.description.partition(". ")[0].rstrip(".") + "."

    def parse_args(self, argv: Sequence[str]) -> ParsedArguments:
        """Parse a command line; `--help` prints the help and exits with code 0.

        Args:
            argv: The arguments after the command.

        Raises:
            ConfigError: Invalid arguments, file, values or combinations; lists all problems.
            SystemExit: `--help` was given.
        """
        options = argv[: argv.index("--")] if "--" in argv else argv
        if {"-h", "--help"} & set(options):
            print(self.format_help(), end="")
            raise SystemExit(0)
        scan = _Scan(self.schema, self.positionals, ("config",) if self.config_file else ())
        scan.read(argv)
        from_file = self._read_file(scan.config, scan.problems) if scan.config is not None else []
        entries = [*from_file, *scan.entries]
        instances = self.schema.resolve(entries, scan.problems)
        positional = self._assign(scan)
        scan.problems.raise_all()
        return ParsedArguments(positional, frozenset(entry.key for entry in entries), self.schema, instances)

    def parse_object(
        self, mapping: Mapping[str, Any], *, source: str = "", base: Sequence[Any] = ()
    ) -> ParsedArguments:
        """Parse nested mappings or dotted keys, from a file or from Python keywords.

        Args:
            mapping: The options; lists may also be written with commas.
            source: Origin for messages, such as a file name.
            base: Instances of the classes whose values are used instead of the defaults.

        Raises:
            ConfigError: Invalid keys, values or combinations; lists all problems.
        """
        problems, where = ErrorCollector(), f"{source}: " if source else ""
        entries = self.schema.flatten(mapping, where, problems)
        instances = self.schema.resolve(entries, problems, where=where, base=base)
        problems.raise_all()
        return ParsedArguments({}, frozenset(entry.key for entry in entries), self.schema, instances)

    def to_dict(self, *instances: Any) -> dict[str, Any]:
        """Return the values of configuration instances by dotted key, for YAML and JSON."""
        return _plain_values(self.schema, *instances)

    def format_help(self, *, width: int = 80) -> str:
        """Return the text of `--help`, wrapped to `width` columns."""
        return format_help(
            self.command,
            self.description,
            self.schema,
            self.positionals,
            config_file=self.config_file,
            width=width,
            examples=self.examples,
        )

    def _read_file(self, path: str, problems: ErrorCollector) -> list[ConfigEntry]:
        try:
            return self.schema.flatten(read_mapping(path), f"{path}: ", problems)
        except ConfigError as error:
            problems.add(f"--config: {error}")
            return []

    def _assign(self, scan: _Scan) -> dict[str, Any]:
        """Assign arguments to the positionals: first to the required ones, then to the one that accepts several."""
        remaining = deque(scan.arguments)
        spare = len(scan.arguments) - sum(item.required for item in self.positionals)
        assigned: dict[str, Any] = {}
        for item in self.positionals:
            extra = max(0, spare) if item.many else int(spare > 0 and not item.required)
            spare -= extra
            values = tuple(remaining.popleft() for _ in range(min(len(remaining), extra + item.required)))
            assigned[item.name] = values if item.many else values[0] if values else None
            if item.required and not values and not scan.uncertain:
                scan.problems.add(f"{item.label} is missing: {item.help}")
        if not scan.uncertain:
            scan.problems.add(*(f"unexpected argument {quote_value(argument)}" for argument in remaining))
        return assigned


@dataclass
class _Scan:
    """One pass over a command line: options with their texts, and the arguments between them."""

    schema: Schema
    positionals: tuple[Positional, ...]
    extra_options: tuple[str, ...]
    entries: list[ConfigEntry] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    config: str | None = None
    problems: ErrorCollector = field(default_factory=ErrorCollector)
    uncertain: bool = False
    """Whether an argument may be the value of an unknown option; then counting positionals would mislead."""

    def read(self, argv: Sequence[str]) -> None:
        remaining = deque(argv)
        while remaining:
            token = remaining.popleft()
            if token == "--":
                self.arguments.extend(remaining)
                return
            if token.startswith("--"):
                self._option(token, remaining)
            elif self.schema.aliases.get(SHORT.get(token, "")) is not None:
                self._option(f"--{SHORT[token]}", remaining)
            elif re.match(r"-[^\d.]", token):
                self.problems.add(f"{token}: unknown option (put names starting with '-' after '--')")
            else:
                self.arguments.append(token)

    def _option(self, token: str, remaining: deque[str]) -> None:
        name, equals, value = token[2:].partition("=")
        key = self.schema.key(name)
        entry = ConfigEntry(key, value, COMMAND_LINE)
        option = self.schema.fields.get(key)
        if option is None and key not in self.extra_options:
            value_follows = not equals and bool(remaining) and not remaining[0].startswith("--")
            self._unknown(entry, remaining, value_follows=value_follows)
            return
        switch = option is not None and option.flag and not option.default
        if not equals:
            if switch and not (remaining and remaining[0].lower() in ("true", "false")):
                value = "true"
            elif not remaining or remaining[0].startswith("--"):
                expected = option.expected() if option else "a YAML file"
                self.problems.add(f"{entry.label}: expected {expected}, got nothing", unreadable=key)
                return
            else:
                value = remaining.popleft()
        if option is None:
            self.config = value
        else:
            self.entries.append(ConfigEntry(key, value, COMMAND_LINE))

    def _unknown(self, entry: ConfigEntry, remaining: deque[str], *, value_follows: bool) -> None:
        """Report an unknown option; guess whether the next token is its value."""
        positional = next((item for item in self.positionals if item.name == entry.key), None)
        if positional is not None:
            self.problems.add(f"{entry.label}: unknown option, {positional.label} is a positional argument")
            return
        self.schema.report_unknown(entry, self.problems, self.extra_options)
        likely = self.schema.fields.get(next(iter(self.schema.suggest(entry.key, self.extra_options)), ""))
        if value_follows and (likely is None or not likely.flag):
            remaining.popleft()
            self.uncertain |= likely is None


def _plain_values(schema: Schema, *instances: Any) -> dict[str, Any]:
    return {key: _plain(value) for instance in instances for key, value in schema.values(instance).items()}


def _plain(value: Any) -> Any:
    """Convert a value to plain YAML and JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
