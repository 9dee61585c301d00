"""How what a user gave becomes configuration values, checked by their types and by the classes' own rules.

jsonargparse checks and converts each value by its type. What it lets pass is refused here: a value of another kind (a
text where a file should hold a number, null where nothing may be absent, infinities) and keys that do not exist.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import re
import typing
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jsonargparse

from tercet.config.fields import ConfigEntry, ErrorCollector, Field, InvalidValue, describe, list_fields, quote_value
from tercet.config.synonyms import aliases_of, suggest
from tercet.config.training import PAPER_STAGES, StageConfig
from tercet.core.errors import ConfigError
from tercet.core.registry import did_you_mean
from tercet.core.yaml_io import parse_yaml, read_yaml

_NAMED_LISTS: dict[type, dict[str, tuple[Any, ...]]] = {StageConfig: {"paper": PAPER_STAGES}}


class Schema:
    """The options of some configuration classes, by dotted key.

    Args:
        groups: Pairs of a key prefix and a dataclass whose fields all have defaults; '' puts its fields at the top.
        aliases: Other names of options.
        without: Fields of a class that are no options here and keep their defaults.
    """

    def __init__(
        self,
        groups: Sequence[tuple[str, type[Any]]],
        aliases: Mapping[str, str] | None = None,
        without: Mapping[type, frozenset[str]] | None = None,
    ) -> None:
        self.groups = tuple((f"{prefix}." if prefix else "", kind) for prefix, kind in groups)
        self.without = dict(without or {})
        self.fields: dict[str, Field] = {}
        self.sections = {prefix for prefix, _ in groups if prefix}
        self._parser = jsonargparse.ArgumentParser(exit_on_error=False, add_help=False)
        for prefix, kind in self.groups:
            for field in self._list_fields(kind, prefix, self.sections):
                if field.key in self.fields:
                    raise TypeError(f"two classes name an option '{field.key}'")
                self.fields[field.key] = field
                if field.element is not Any and not dataclasses.is_dataclass(field.element):
                    self._parser.add_argument(f"--{field.key}", type=field.element or field.inner)
        self.aliases = aliases_of(self.fields) | dict(aliases or {})

    def _list_fields(self, kind: type[Any], prefix: str, sections: set[str]) -> Iterator[Field]:
        for field in list_fields(kind, prefix, sections):
            if field.name not in self.without.get(field.owner, ()):
                yield field

    def key(self, name: str) -> str:
        """Return the key that a user's spelling means: hyphens are underscores, and some options have two names."""
        key = name.replace("-", "_")
        return self.aliases.get(key, key)

    def suggest(self, key: str, also: Iterable[str] = ()) -> list[str]:
        """Return the options that were probably meant, the likeliest first; empty if none is similar."""
        return suggest(key, [*self.fields, *also])

    def refuse(self, entry: ConfigEntry, problems: ErrorCollector, also: Iterable[str] = ()) -> None:
        """Enter an option that does not exist among the problems."""
        if entry.key in self.sections:
            example = next(key for key in self.fields if key.startswith(f"{entry.key}."))
            problems.add(f"{entry.label}: expected options of its own, such as {entry.spell(example)}")
            return
        meant = self.suggest(entry.key, also)
        hint = f", did you mean {' or '.join(repr(entry.spell(key)) for key in meant)}?" if meant else ""
        problems.add(f"{entry.label}: unknown option{hint}", doubtful=meant[0] if meant else None)

    def flatten(self, mapping: Mapping[Any, Any], where: str, problems: ErrorCollector) -> list[ConfigEntry]:
        """Return what nested or dotted mappings hold, without unknown and doubled keys."""
        entries: dict[str, ConfigEntry] = {}
        for key, value in self._walk(mapping, ""):
            entry = ConfigEntry(key, value, where)
            if key in entries:
                problems.add(f"{entry.label}: given twice")
            elif key in self.fields:
                entries[key] = entry
            elif key not in self.sections or value is not None:  # a section with nothing in it sets nothing
                self.refuse(entry, problems)
        return list(entries.values())

    def _walk(self, mapping: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in mapping.items():
            key = self.key(prefix + str(name))
            if key in self.sections and isinstance(value, Mapping):
                yield from self._walk(value, f"{key}.")
            else:
                yield key, value

    def values(self, instance: Any) -> dict[str, Any]:
        """Return what an instance of one of the classes holds, by dotted key."""
        prefix = next(prefix for prefix, kind in self.groups if kind is type(instance))
        found: dict[str, Any] = {}
        for field in self._list_fields(type(instance), prefix, set()):
            value = instance
            for name in field.key.removeprefix(prefix).split("."):
                value = getattr(value, name)
            found[field.key] = value
        return found

    def resolve(
        self, entries: Sequence[ConfigEntry], problems: ErrorCollector, *, where: str = "", base: Sequence[Any] = ()
    ) -> dict[type, Any]:
        """Return one instance of each class; where there are problems, only as good as can be.

        Args:
            entries: What was given, all keys known; later ones win.
            problems: Gains each wrong value and each broken rule.
            where: What comes before messages about rules that concern no single key.
            base: Instances whose values stand where nothing is given.
        """
        values = {key: copy.copy(field.default) for key, field in self.fields.items()}
        for instance in base:
            values.update(self.values(instance))
        sources: dict[str, str] = {}
        for entry in entries:
            try:
                values[entry.key] = self._read(entry)
                sources[entry.key] = "" if entry.text else entry.where
            except InvalidValue as refused:
                problems.add(*refused.messages, doubtful=entry.key)
        instances: dict[type, Any] = {}
        broken: list[tuple[str, str]] = []
        for prefix, kind in self.groups:
            _build(kind, prefix, values, instances, broken, self.without)
        for prefix, rule in broken:
            if not _mentioned(rule, problems.doubtful, prefix):
                named = _mentioned(rule, sources, prefix)
                problems.add((sources[named[0]] if named else where) + rule)
        return instances

    def _read(self, entry: ConfigEntry) -> Any:
        """Return the value of one option, of its own type."""
        field, value, text = self.fields[entry.key], entry.value, entry.text
        if value is None or (text and value == "null"):
            if field.optional:
                return None
            raise InvalidValue(f"{entry.label}: expected {field.expected()}, got null")
        if dataclasses.is_dataclass(field.element):
            return _read_structures(value, field, entry)
        if field.element is None:
            if text and typing.get_origin(field.inner) is dict:
                value, text = _inline(value, entry), False
            return self._read_one(value, field, entry, text=text)
        if isinstance(value, str):
            value, text = _split(value, field, entry)
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(self._read_one(item, field, entry, text=text) for item in items)

    def _read_one(self, value: Any, field: Field, entry: ConfigEntry, *, text: bool) -> Any:
        value = given = os.fspath(value) if isinstance(value, os.PathLike) else value
        if field.element is Any:
            return value
        if text and (field.element or field.inner) in (int, float, bool):
            value, text = _scalar(value), False
        if type(value) in (int, str):  # YAML reads the choice '32' as a number, the command line the choice 2 as text
            value = next((choice for choice in field.choices if str(choice) == str(value)), value)
        try:
            parsed = self._parser.parse_object({entry.key: value}, defaults=False)[entry.key]
        except ArgumentError:
            parsed = None
        finite = not isinstance(parsed, float) or math.isfinite(parsed)
        kinds = {type(choice) for choice in field.choices}  # True and 1.0 equal the choice 1
        if (
            parsed is None
            or not finite
            or not (text or _same_kind(value, parsed))
            or (kinds and type(parsed) not in kinds)
        ):
            near = did_you_mean(given, [str(choice) for choice in field.choices]) if isinstance(given, str) else ""
            raise InvalidValue(f"{entry.label}: expected {field.expected()}, got {quote_value(given)}{near}")
        return parsed


def _same_kind(given: Any, parsed: Any) -> bool:
    return type(given) is type(parsed) or (type(given) is int and type(parsed) is float)


def _build(
    kind: type[Any],
    prefix: str,
    values: Mapping[str, Any],
    instances: dict[type, Any],
    broken: list[tuple[str, str]],
    without: Mapping[type, frozenset[str]],
) -> Any:
    """Make one instance, its nested ones first, or None; broken rules are collected, each with its prefix."""
    hints = typing.get_type_hints(kind)
    arguments = {}
    for field in dataclasses.fields(kind):
        key, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            inner = typing.cast("type[Any]", hint)
            made = _build(inner, f"{key}.", values, instances, broken, without)
            arguments[field.name] = inner() if made is None else made
        elif field.name not in without.get(kind, ()):
            arguments[field.name] = values[key]
    try:
        instances[kind] = kind(**arguments)
    except ConfigError as error:
        broken.extend((prefix, rule) for rule in str(error).split("; "))
        instances[kind] = None
    return instances[kind]


def _mentioned(rule: str, keys: Iterable[str], prefix: str) -> list[str]:
    """Return those keys directly under `prefix` whose name is a word of `rule`."""
    names = [(key, key.removeprefix(prefix)) for key in keys if key.startswith(prefix)]
    return [key for key, name in names if "." not in name and re.search(rf"\b{name}\b", rule)]


def _scalar(text: str) -> Any:
    """Return a number or truth value as YAML 1.2 reads it: jsonargparse takes 1:30 for 90 and 0x10 for 16."""
    try:
        return parse_yaml(text)
    except ConfigError:
        return text


def _inline(text: str, entry: ConfigEntry) -> Any:
    try:
        return parse_yaml(text, source=quote_value(text))
    except ConfigError as error:
        raise InvalidValue(f"{entry.label}: {error}") from error


def _split(text: str, field: Field, entry: ConfigEntry) -> tuple[list[Any], bool]:
    """Return the elements of a list written as text, and whether they still are text."""
    listed = text.lstrip().startswith("[")
    if listed or (field.element is Any and "{" in text):
        value = _inline(text if listed else f"[{text}]", entry)
        return (value if isinstance(value, list) else [value]), False
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    if "" in items:
        raise InvalidValue(f"{entry.label}: {quote_value(text)} has an empty element")
    return items, True


def _read_structures(value: Any, field: Field, entry: ConfigEntry) -> tuple[Any, ...]:
    """Return a list of dataclasses, given as a name that stands for one, a YAML file, inline YAML, or the list."""
    kind, where = field.element, f"{entry.label}: "
    named, one = _NAMED_LISTS.get(kind, {}), kind.__name__.removesuffix("Config").lower()
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str):
        if value in named:
            return named[value]
        if value.lstrip().startswith(("[", "{")):
            value = _inline(value, entry)
        else:
            where, value = f"{where}{value}: ", _structures_file(value, named, entry)
    if isinstance(value, Mapping) and set(value) == {f"{one}s"}:
        value = value[f"{one}s"]
    if not isinstance(value, (list, tuple)) or not value:
        names = "".join(f"'{name}', " for name in named)
        raise InvalidValue(
            f"{where}expected {names}a YAML file or a list, each {describe(kind)}, got {quote_value(value)}"
        )
    problems, schema = ErrorCollector(), Schema([("", kind)])
    made = tuple(
        _read_structure(item, schema, f"{where}{one} {number}: ", problems) for number, item in enumerate(value, 1)
    )
    if problems.messages:
        raise InvalidValue(*problems.messages)
    return made


def _read_structure(item: Any, schema: Schema, where: str, problems: ErrorCollector) -> Any:
    kind = schema.groups[0][1]
    if isinstance(item, kind):
        return item
    if not isinstance(item, Mapping):
        problems.add(f"{where}expected {describe(kind)}, got {quote_value(item)}")
        return None
    own = ErrorCollector()
    made = schema.resolve(schema.flatten(item, where, own), own, where=where)[kind]
    problems.add(*own.messages)
    return made


def _structures_file(path: str, named: Iterable[str], entry: ConfigEntry) -> Any:
    try:
        return read_yaml(path)
    except ConfigError as error:
        raise InvalidValue(f"{entry.label}: {error}{did_you_mean(path, named)}") from error
