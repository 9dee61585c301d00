"""The options of a verb: configuration classes in, checked instances out.

The command line, a YAML file and Python keywords share one vocabulary of dotted keys. Defaults give way to the file,
and the file to the command line. Everything that is wrong is told at once, in one `ConfigError`.
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
    """What was understood: one instance of each configuration class, and the words that are no options."""

    positional: Mapping[str, Any]
    """Each positional by name: a text, a tuple of texts where several may come, None where it was left out."""
    given: frozenset[str]
    """Dotted keys that the file or the command line set."""
    schema: Schema
    """The options there are."""
    instances: Mapping[type, Any]
    """One instance of each class."""

    def of(self, kind: type[Config]) -> Config:
        """Return the instance of one of the verb's classes, nested ones included."""
        instance: Config = self.instances[kind]
        return instance

    def to_dict(self, *kinds: type) -> dict[str, Any]:
        """Return every option's value by dotted key, as YAML and JSON hold it; `parse_object` reads it back equal.

        Args:
            *kinds: Only these of the verb's classes; all where none is named.
        """
        chosen = [kind for _, kind in self.schema.groups if not kinds or kind in kinds]
        return _plain_values(self.schema, *(self.instances[kind] for kind in chosen))

    def to_yaml(self, *kinds: type) -> str:
        """Return `to_dict`'s result as a YAML file that `--config` accepts."""
        return dump_yaml(self.to_dict(*kinds))

    def to_words(self, *without: str) -> list[str]:
        """Return the given options as words of a command line, which are read as the same values; mappings are none.

        Args:
            *without: Keys to leave out.
        """
        values = {key: value for key, value in self.to_dict().items() if key in self.given and key not in without}
        return [f"--{key.replace('_', '-')}={_word(value)}" for key, value in values.items() if value not in (None, [])]


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_word, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


class CommandOptions:
    """The options and positionals of one verb.

    Args:
        verb: The verb's name, as in `tercet VERB`.
        description: What the verb does, in a few sentences; the first one, short, stands for it in `tercet --help`.
        groups: Pairs of a key prefix and a frozen dataclass whose fields all have defaults; '' puts the fields at the
            top. Nested dataclasses become groups of their own.
        positionals: The words that are no options, in order; at most one may take several.
        config_file: Whether `--config FILE` reads options from a YAML file.
        aliases: Other names of options, such as `data_dir` for `data.data_dir`.
        without: Fields of a class that are no options of this verb and keep their defaults.
        examples: Command lines, without `tercet VERB`, that the help begins with.

    Raises:
        TypeError: Two classes name the same option, or a field has no default.
    """

    def __init__(
        self,
        verb: str,
        description: str = "",
        *,
        groups: Sequence[tuple[str, type[Any]]] = (),
        positionals: Sequence[Positional] = (),
        config_file: bool = False,
        aliases: Mapping[str, str] | None = None,
        without: Mapping[type, frozenset[str]] | None = None,
        examples: Sequence[str] = (),
    ) -> None:
        self.verb = verb
        self.description = description
        self.positionals = tuple(positionals)
        self.config_file = config_file
        self.examples = tuple(examples)
        self.schema = Schema(groups, aliases, without)

    def summary(self) -> str:
        """Return the first sentence of the description."""
        return self.description.partition(". ")[0].rstrip(".") + "."

    def parse_args(self, argv: Sequence[str]) -> ParsedArguments:
        """Read a command line; `--help` prints the help and leaves with exit code 0.

        Args:
            argv: The words after the verb.

        Raises:
            ConfigError: Everything that is wrong with the words, the file, the values and their combination.
            SystemExit: Help was asked for.
        """
        own = argv[: argv.index("--")] if "--" in argv else argv
        if {"-h", "--help"} & set(own):
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
        """Read nested mappings or dotted keys, from a file or from Python keywords.

        Args:
            mapping: The options; lists may also be written with commas.
            source: Where they are from, for messages; such as a file's name.
            base: Instances of the classes whose values stand where `mapping` says nothing, instead of the defaults.

        Raises:
            ConfigError: Everything that is wrong with the keys, the values and their combination.
        """
        problems, where = ErrorCollector(), f"{source}: " if source else ""
        entries = self.schema.flatten(mapping, where, problems)
        instances = self.schema.resolve(entries, problems, where=where, base=base)
        problems.raise_all()
        return ParsedArguments({}, frozenset(entry.key for entry in entries), self.schema, instances)

    def to_dict(self, *instances: Any) -> dict[str, Any]:
        """Return what instances of the classes hold by dotted key, as YAML and JSON hold it."""
        return _plain_values(self.schema, *instances)

    def format_help(self, *, width: int = 80) -> str:
        """Return what `--help` prints.

        Args:
            width: Columns.
        """
        return format_help(
            self.verb,
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
        """Give the words to the positionals: first to those that need one, then to the one that takes several."""
        waiting, spare = deque(scan.words), len(scan.words) - sum(item.required for item in self.positionals)
        assigned: dict[str, Any] = {}
        for item in self.positionals:
            extra = max(0, spare) if item.many else int(spare > 0 and not item.required)
            spare -= extra
            taken = tuple(waiting.popleft() for _ in range(min(len(waiting), extra + item.required)))
            assigned[item.name] = taken if item.many else taken[0] if taken else None
            if item.required and not taken and not scan.uncertain:
                scan.problems.add(f"{item.label} is missing: {item.help}")
        if not scan.uncertain:
            scan.problems.add(*(f"unexpected argument {quote_value(word)}" for word in waiting))
        return assigned


@dataclass
class _Scan:
    """One pass over a command line: options with their texts, and the words between them."""

    schema: Schema
    positionals: tuple[Positional, ...]
    also: tuple[str, ...]
    entries: list[ConfigEntry] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    config: str | None = None
    problems: ErrorCollector = field(default_factory=ErrorCollector)
    uncertain: bool = False
    """Whether a word may belong to an option that does not exist, so that counting words would mislead."""

    def read(self, argv: Sequence[str]) -> None:
        waiting = deque(argv)
        while waiting:
            token = waiting.popleft()
            if token == "--":
                self.words.extend(waiting)
                return
            if token.startswith("--"):
                self._option(token, waiting)
            elif self.schema.aliases.get(SHORT.get(token, "")) is not None:
                self._option(f"--{SHORT[token]}", waiting)
            elif re.match(r"-[^\d.]", token):
                self.problems.add(f"{token}: unknown option (put names starting with '-' after '--')")
            else:
                self.words.append(token)

    def _option(self, token: str, waiting: deque[str]) -> None:
        name, equals, value = token[2:].partition("=")
        key = self.schema.key(name)
        entry = ConfigEntry(key, value, COMMAND_LINE)
        option = self.schema.fields.get(key)
        if option is None and key not in self.also:
            self._unknown(entry, waiting, alone=not equals and bool(waiting) and not waiting[0].startswith("--"))
            return
        bare = option is not None and option.flag and not option.default
        if not equals:
            if bare and not (waiting and waiting[0].lower() in ("true", "false")):
                value = "true"
            elif not waiting or waiting[0].startswith("--"):
                expected = option.expected() if option else "a YAML file"
                self.problems.add(f"{entry.label}: expected {expected}, got nothing", doubtful=key)
                return
            else:
                value = waiting.popleft()
        if option is None:
            self.config = value
        else:
            self.entries.append(ConfigEntry(key, value, COMMAND_LINE))

    def _unknown(self, entry: ConfigEntry, waiting: deque[str], *, alone: bool) -> None:
        """Refuse an option, and decide whether the word after it (`alone`: there is one) was meant as its value."""
        same = next((item for item in self.positionals if item.name == entry.key), None)
        if same is not None:
            self.problems.add(f"{entry.label}: unknown option, {same.label} is written without it")
            return
        self.schema.refuse(entry, self.problems, self.also)
        meant = self.schema.fields.get(next(iter(self.schema.suggest(entry.key, self.also)), ""))
        if alone and (meant is None or not meant.flag):
            waiting.popleft()
            self.uncertain |= meant is None


def _plain_values(schema: Schema, *instances: Any) -> dict[str, Any]:
    return {key: _plain(value) for instance in instances for key, value in schema.values(instance).items()}


def _plain(value: Any) -> Any:
    """Return a value as YAML and JSON know it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
