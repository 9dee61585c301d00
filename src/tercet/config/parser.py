"""The options of a command: configuration classes in, checked instances out.

The command line, YAML files and Python keywords share the same dotted keys. Files override defaults, and the command
line overrides files. All problems are reported together, in one `ConfigError`.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeVar

from tercet.config.fields import (
    ConfigEntry,
    Field,
    Without,
    describe,
    list_fields,
    nested_classes,
    prefix_of,
    quote_value,
)
from tercet.config.synonyms import aliases_of, suggest
from tercet.config.training import PAPER_STAGES, StageConfig
from tercet.core.errors import ConfigError, Problem, raise_problems
from tercet.core.registry import did_you_mean
from tercet.core.yaml_io import parse_yaml, read_yaml

Config = TypeVar("Config")
CONFIG = "config"
"""Option of every command that reads a YAML file."""
_NAMED_LISTS: dict[type, dict[str, tuple[Any, ...]]] = {StageConfig: {"paper": PAPER_STAGES}}


@dataclass(frozen=True)
class ParsedArguments:
    """Parsed options: one instance of each configuration class, plus positional arguments."""

    positional: Mapping[str, Any]
    """By name: a text, a tuple of texts if several are accepted, None if omitted."""
    given: frozenset[str]
    """Dotted keys set by the file or the command line."""
    options: CommandOptions
    instances: Mapping[type, Any]

    def of(self, kind: type[Config]) -> Config:
        """Return the instance of a configuration class of the command, nested ones included."""
        instance: Config = self.instances[kind]
        return instance

    def replace(self, config: Any) -> ParsedArguments:
        """Return the arguments with another instance of a configuration class."""
        return dataclasses.replace(self, instances={**self.instances, type(config): config})

    def to_dict(self, *kinds: type) -> dict[str, Any]:
        """Return the values of these classes (default: all) by dotted key; `parse_object` reads them back equal."""
        return self.options.to_dict(*(self.instances[kind] for kind in kinds or self.options.kinds))

    def to_arguments(self, *without: str) -> list[str]:
        """Return the given options, except some keys, as arguments that parse to the same values; no mappings."""
        values = {key: value for key, value in self.to_dict().items() if key in self.given and key not in without}
        return [
            f"--{key.replace('_', '-')}={_argument(value)}" for key, value in values.items() if value not in (None, [])
        ]


def _argument(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_argument, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


class CommandOptions:
    """The options of configuration classes, by dotted key.

    Args:
        *kinds: Frozen dataclasses, all of whose fields have defaults. The keys of a class start with its `section`, a
            class variable, if it has one; nested dataclasses are sections of their own. The `registry` in the metadata
            of a field is the kind of part (`tercet.core.registry.PARTS`) whose names are its choices.
        without: Per class, fields that are not options and keep their defaults.

    Raises:
        ConfigError: Two classes define the same option, or a field has no default.
    """

    def __init__(self, *kinds: type[Any], without: Without | None = None) -> None:
        self.kinds = kinds
        self.without = without or {}
        self.fields: dict[str, Field] = {}
        for field in (field for kind in kinds for field in list_fields(kind, prefix_of(kind), self.without)):
            if field.key in self.fields:
                raise ConfigError(f"two classes define an option '{field.key}'")
            self.fields[field.key] = field
        self.sections = {key.rpartition(".")[0] for key in self.fields} - {""}
        self.aliases = aliases_of(self.fields)

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
        problems: list[Problem] = []
        where = f"{source}: " if source else ""
        entries = self.flatten(mapping, where, problems)
        instances = self.resolve(entries, problems, where=where, base=base)
        raise_problems(problems, separator="\n")
        return ParsedArguments({}, frozenset(entry.key for entry in entries), self, instances)

    def to_dict(self, *instances: Any) -> dict[str, Any]:
        """Return the values of configuration instances by dotted key, for YAML and JSON."""
        return {key: _plain(value) for instance in instances for key, value in self._values(instance)}

    def _values(self, instance: Any) -> Iterator[tuple[str, Any]]:
        prefix = prefix_of(type(instance))
        for field in list_fields(type(instance), prefix, self.without):
            yield field.key, attrgetter(field.key.removeprefix(prefix))(instance)

    def key(self, name: str) -> str:
        """Return the key for a name as typed: hyphens become underscores, aliases are resolved."""
        key = name.replace("-", "_")
        return self.aliases.get(key, key)

    def unknown(self, entry: ConfigEntry) -> Problem:
        """Return the problem of an unknown option, with suggestions; its field is the most likely one."""
        if entry.key in self.sections:
            example = next(key for key in self.fields if key.startswith(f"{entry.key}."))
            return Problem(f"{entry.label}: is a group of options, such as {entry.spell(example)}")
        likely = suggest(entry.key, [*self.fields, *([CONFIG] if entry.is_text else [])])
        hint = f", did you mean {' or '.join(repr(entry.spell(key)) for key in likely)}?" if likely else ""
        return Problem(f"{entry.label}: unknown option{hint}", *likely[:1])

    def flatten(self, mapping: Mapping[Any, Any], where: str, problems: list[Problem]) -> list[ConfigEntry]:
        """Return the entries of nested or dotted mappings; unknown and repeated keys are added to the problems."""
        entries: dict[str, ConfigEntry] = {}
        for key, value in self._walk(mapping, ""):
            entry = ConfigEntry(key, value, where)
            if key in entries:
                problems.append(Problem(f"{entry.label}: given twice"))
            elif key in self.fields:
                entries[key] = entry
            elif key not in self.sections or value is not None:  # an empty section in YAML is null
                problems.append(self.unknown(entry))
        return list(entries.values())

    def _walk(self, mapping: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in mapping.items():
            key = self.key(prefix + str(name))
            if key in self.sections and isinstance(value, Mapping):
                yield from self._walk(value, f"{key}.")
            else:
                yield key, value

    def resolve(
        self, entries: Sequence[ConfigEntry], problems: list[Problem], *, where: str = "", base: Sequence[Any] = ()
    ) -> dict[type, Any]:
        """Return one instance of each class; None for a class whose rules are violated.

        Args:
            entries: Given options; all keys are known, and later entries override earlier ones.
            problems: Invalid values and violated rules are added to it. Rules about a key that has a problem already
                are not, as they were checked with the default.
            where: Prefix of messages about rules that concern no given key.
            base: Instances whose values are used instead of the defaults.
        """
        values = {key: copy.copy(field.default) for key, field in self.fields.items()}
        values.update(item for instance in base for item in self._values(instance))
        sources: dict[str, str] = {}
        for entry in entries:
            try:
                values[entry.key] = _read(self.fields[entry.key], entry.value, text=entry.is_text)
                sources[entry.key] = "" if entry.is_text else entry.where
            except ConfigError as error:
                problems += [Problem(f"{entry.label}: {text}", entry.key) for text in error.problems]
        unreadable = {key for problem in problems for key in problem.fields}
        instances: dict[type, Any] = {}

        def build(kind: type[Any], prefix: str) -> Any:
            arguments = {
                name: build(inner, f"{prefix}{name}.") or inner() for name, inner in nested_classes(kind).items()
            }
            names = {item.name for item in dataclasses.fields(kind)} - arguments.keys() - self.without.get(kind, set())
            arguments |= {name: values[prefix + name] for name in names}
            try:
                instances[kind] = kind(**arguments)
            except ConfigError as error:
                instances[kind] = None
                for rule in error.problems:
                    keys = [prefix + name for name in rule.fields]
                    origin = next((sources[key] for key in keys if key in sources), where)
                    problems.extend([] if unreadable.intersection(keys) else [Problem(origin + rule, *keys)])
            return instances[kind]

        for kind in self.kinds:
            build(kind, prefix_of(kind))
        return instances


def _plain(value: Any) -> Any:
    """Convert a value to plain YAML and JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _read(field: Field, value: Any, *, text: bool) -> Any:
    """Return a value, in the notation of a file or (`text`) of the command line, converted to the type of its field."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if value is None or (text and value == "null" and not field.verbatim):
        if field.optional:
            return None
        raise ConfigError(f"expected {field.expected()}, got null")
    if dataclasses.is_dataclass(field.kind):
        return _read_structures(value, field.kind)
    if not field.many:
        return field.convert(value, text=text)
    if isinstance(value, str):
        bracketed = value.lstrip().startswith("[")
        if bracketed or (field.kind is Any and "{" in value):
            value, text = parse_yaml(value if bracketed else f"[{value}]", source=quote_value(value)), False
        else:
            elements = [item.strip() for item in value.split(",")] if value.strip() else []
            raise_problems(["" in elements and f"{quote_value(value)} has an empty element"])
            value, text = elements, True
    items = value if isinstance(value, (list, tuple)) else [value]
    return tuple(field.convert(item, text=text) for item in items)


def _read_structures(value: Any, kind: Any) -> tuple[Any, ...]:
    """Return a list of dataclasses, given as the name of a predefined list, a YAML file, inline YAML, or a list."""
    where, predefined, name = "", _NAMED_LISTS.get(kind, {}), kind.__name__.removesuffix("Config").lower()
    if isinstance(value, str):
        if value in predefined:
            return predefined[value]
        if value.lstrip().startswith(("[", "{")):
            value = parse_yaml(value, source=quote_value(value))
        else:
            try:
                where, value = f"{value}: ", read_yaml(value)
            except ConfigError as error:
                raise ConfigError(f"{error}{did_you_mean(value, predefined)}") from error
    if isinstance(value, Mapping) and set(value) == {f"{name}s"}:
        value = value[f"{name}s"]
    if not isinstance(value, (list, tuple)) or not value:
        names = "".join(f"'{item}', " for item in predefined)
        raise ConfigError(
            f"{where}expected {names}a YAML file or a list, each {describe(kind)}, got {quote_value(value)}"
        )
    options, structures = CommandOptions(kind), []
    problems: list[str] = []
    for number, item in enumerate(value, 1):
        source = f"{where}{name} {number}"
        if isinstance(item, kind):
            structures.append(item)
        elif isinstance(item, Mapping):
            try:
                structures.append(options.parse_object(item, source=source).of(kind))
            except ConfigError as error:
                problems += error.problems
        else:
            problems.append(f"{source}: expected {describe(kind)}, got {quote_value(item)}")
    raise_problems(problems)
    return tuple(structures)
