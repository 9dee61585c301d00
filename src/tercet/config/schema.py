"""Conversion of given options to configuration instances, checked by type and by the rules of each class.

jsonargparse converts each value to its type. Stricter checks are made here: values of another type (text for a number
in a file), null for required values, infinities, and unknown keys.
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
    """The options of a set of configuration classes, by dotted key.

    Args:
        groups: Pairs of key prefix and dataclass, all of whose fields have defaults; '' puts its fields at top level.
        aliases: Further names of options.
        without: Per class, fields that are not options and keep their defaults.
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
                    raise TypeError(f"two classes define an option '{field.key}'")
                self.fields[field.key] = field
                if field.element is not Any and not dataclasses.is_dataclass(field.element):
                    self._parser.add_argument(f"--{field.key}", type=field.element or field.inner)
        self.aliases = aliases_of(self.fields) | dict(aliases or {})

    def _list_fields(self, kind: type[Any], prefix: str, sections: set[str]) -> Iterator[Field]:
        for field in list_fields(kind, prefix, sections):
            if field.name not in self.without.get(field.owner, ()):
                yield field

    def key(self, name: str) -> str:
        """Return the key for a name as typed: hyphens become underscores, aliases are resolved."""
        key = name.replace("-", "_")
        return self.aliases.get(key, key)

    def suggest(self, key: str, extra: Iterable[str] = ()) -> list[str]:
        """Return the options that were probably meant, most likely first; `extra` are options besides the fields."""
        return suggest(key, [*self.fields, *extra])

    def report_unknown(self, entry: ConfigEntry, problems: ErrorCollector, extra: Iterable[str] = ()) -> None:
        """Add an unknown option to the problems, with suggestions."""
        if entry.key in self.sections:
            example = next(key for key in self.fields if key.startswith(f"{entry.key}."))
            problems.add(f"{entry.label}: is a group of options, such as {entry.spell(example)}")
            return
        likely = self.suggest(entry.key, extra)
        hint = f", did you mean {' or '.join(repr(entry.spell(key)) for key in likely)}?" if likely else ""
        problems.add(f"{entry.label}: unknown option{hint}", unreadable=likely[0] if likely else None)

    def flatten(self, mapping: Mapping[Any, Any], where: str, problems: ErrorCollector) -> list[ConfigEntry]:
        """Return the entries of nested or dotted mappings; unknown and repeated keys are added to the problems."""
        entries: dict[str, ConfigEntry] = {}
        for key, value in self._walk(mapping, ""):
            entry = ConfigEntry(key, value, where)
            if key in entries:
                problems.add(f"{entry.label}: given twice")
            elif key in self.fields:
                entries[key] = entry
            elif key not in self.sections or value is not None:  # an empty section in YAML is null
                self.report_unknown(entry, problems)
        return list(entries.values())

    def _walk(self, mapping: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in mapping.items():
            key = self.key(prefix + str(name))
            if key in self.sections and isinstance(value, Mapping):
                yield from self._walk(value, f"{key}.")
            else:
                yield key, value

    def values(self, instance: Any) -> dict[str, Any]:
        """Return the values of an instance of one of the classes, by dotted key."""
        prefix = next(prefix for prefix, kind in self.groups if kind is type(instance))
        values: dict[str, Any] = {}
        for field in self._list_fields(type(instance), prefix, set()):
            value = instance
            for name in field.key.removeprefix(prefix).split("."):
                value = getattr(value, name)
            values[field.key] = value
        return values

    def resolve(
        self, entries: Sequence[ConfigEntry], problems: ErrorCollector, *, where: str = "", base: Sequence[Any] = ()
    ) -> dict[type, Any]:
        """Return one instance of each class; None for a class whose rules are violated.

        Args:
            entries: Given options; all keys are known, and later entries override earlier ones.
            problems: Invalid values and violated rules are added to it.
            where: Prefix of messages about rules that mention no given key.
            base: Instances whose values are used instead of the defaults.
        """
        values = {key: copy.copy(field.default) for key, field in self.fields.items()}
        for instance in base:
            values.update(self.values(instance))
        sources: dict[str, str] = {}
        for entry in entries:
            try:
                values[entry.key] = self._read(entry)
                sources[entry.key] = "" if entry.is_text else entry.where
            except InvalidValue as error:
                problems.add(*error.messages, unreadable=entry.key)
        instances: dict[type, Any] = {}
        violated: list[tuple[str, str]] = []
        for prefix, kind in self.groups:
            _build(kind, prefix, values, instances, violated, self.without)
        for prefix, rule in violated:
            if not _mentioned(rule, problems.unreadable, prefix):
                keys = _mentioned(rule, sources, prefix)
                problems.add((sources[keys[0]] if keys else where) + rule)
        return instances

    def _read(self, entry: ConfigEntry) -> Any:
        """Return the value of an entry, converted to the type of its field."""
        field, value, text = self.fields[entry.key], entry.value, entry.is_text
        if value is None or (text and value == "null"):
            if field.optional:
                return None
            raise InvalidValue(f"{entry.label}: expected {field.expected()}, got null")
        if dataclasses.is_dataclass(field.element):
            return _read_structures(value, field, entry)
        if field.element is None:
            if text and typing.get_origin(field.inner) is dict:
                value, text = _parse_inline(value, entry), False
            return self._read_scalar(value, field, entry, text=text)
        if isinstance(value, str):
            value, text = _split(value, field, entry)
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(self._read_scalar(item, field, entry, text=text) for item in items)

    def _read_scalar(self, value: Any, field: Field, entry: ConfigEntry, *, text: bool) -> Any:
        value = original = os.fspath(value) if isinstance(value, os.PathLike) else value
        if field.element is Any:
            return value
        if text and (field.element or field.inner) in (int, float, bool):
            value, text = _parse_scalar(value), False
        if type(value) in (int, str):  # the choice '32' is a number in YAML, the choice 2 is text on the command line
            value = next((choice for choice in field.choices if str(choice) == str(value)), value)
        try:
            parsed = self._parser.parse_object({entry.key: value}, defaults=False)[entry.key]
        except ArgumentError:
            parsed = None
        finite = not isinstance(parsed, float) or math.isfinite(parsed)
        kinds = {type(choice) for choice in field.choices}  # types are compared because True == 1.0 == 1
        if (
            parsed is None
            or not finite
            or not (text or _same_type(value, parsed))
            or (kinds and type(parsed) not in kinds)
            or (field.registry is not None and parsed not in field.choices)
        ):
            hint = (
                did_you_mean(original, [str(choice) for choice in field.choices]) if isinstance(original, str) else ""
            )
            raise InvalidValue(f"{entry.label}: expected {field.expected()}, got {quote_value(original)}{hint}")
        return parsed


def _same_type(value: Any, parsed: Any) -> bool:
    return type(value) is type(parsed) or (type(value) is int and type(parsed) is float)


def _build(
    kind: type[Any],
    prefix: str,
    values: Mapping[str, Any],
    instances: dict[type, Any],
    violated: list[tuple[str, str]],
    without: Mapping[type, frozenset[str]],
) -> Any:
    """Create an instance and its nested ones; None if a rule is violated. Violated rules are collected with prefix."""
    hints = typing.get_type_hints(kind)
    arguments = {}
    for field in dataclasses.fields(kind):
        key, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            inner = typing.cast("type[Any]", hint)
            nested = _build(inner, f"{key}.", values, instances, violated, without)
            arguments[field.name] = inner() if nested is None else nested
        elif field.name not in without.get(kind, ()):
            arguments[field.name] = values[key]
    try:
        instances[kind] = kind(**arguments)
    except ConfigError as error:
        violated.extend((prefix, rule) for rule in str(error).split("; "))
        instances[kind] = None
    return instances[kind]


def _mentioned(rule: str, keys: Iterable[str], prefix: str) -> list[str]:
    """Return the keys directly below `prefix` whose name occurs as a word in `rule`."""
    names = [(key, key.removeprefix(prefix)) for key in keys if key.startswith(prefix)]
    return [key for key, name in names if "." not in name and re.search(rf"\b{name}\b", rule)]


def _parse_scalar(text: str) -> Any:
    """Parse a number or boolean by YAML 1.2; jsonargparse would read 1:30 as 90 and 0x10 as 16."""
    try:
        return parse_yaml(text)
    except ConfigError:
        return text


def _parse_inline(text: str, entry: ConfigEntry) -> Any:
    try:
        return parse_yaml(text, source=quote_value(text))
    except ConfigError as error:
        raise InvalidValue(f"{entry.label}: {error}") from error


def _split(text: str, field: Field, entry: ConfigEntry) -> tuple[list[Any], bool]:
    """Return the elements of a list given as text, and whether they are still text."""
    bracketed = text.lstrip().startswith("[")
    if bracketed or (field.element is Any and "{" in text):
        value = _parse_inline(text if bracketed else f"[{text}]", entry)
        return (value if isinstance(value, list) else [value]), False
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    if "" in items:
        raise InvalidValue(f"{entry.label}: {quote_value(text)} has an empty element")
    return items, True


def _read_structures(value: Any, field: Field, entry: ConfigEntry) -> tuple[Any, ...]:
    """Return a list of dataclasses, given as the name of a predefined list, a YAML file, inline YAML, or a list."""
    kind, where = field.element, f"{entry.label}: "
    predefined, item_name = _NAMED_LISTS.get(kind, {}), kind.__name__.removesuffix("Config").lower()
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str):
        if value in predefined:
            return predefined[value]
        if value.lstrip().startswith(("[", "{")):
            value = _parse_inline(value, entry)
        else:
            try:
                where, value = f"{where}{value}: ", read_yaml(value)
            except ConfigError as error:
                raise InvalidValue(f"{entry.label}: {error}{did_you_mean(value, predefined)}") from error
    if isinstance(value, Mapping) and set(value) == {f"{item_name}s"}:
        value = value[f"{item_name}s"]
    if not isinstance(value, (list, tuple)) or not value:
        names = "".join(f"'{name}', " for name in predefined)
        raise InvalidValue(
            f"{where}expected {names}a YAML file or a list, each {describe(kind)}, got {quote_value(value)}"
        )
    problems, schema = ErrorCollector(), Schema([("", kind)])
    instances = tuple(
        _read_structure(item, schema, f"{where}{item_name} {number}: ", problems)
        for number, item in enumerate(value, 1)
    )
    if problems.messages:
        raise InvalidValue(*problems.messages)
    return instances


def _read_structure(item: Any, schema: Schema, where: str, problems: ErrorCollector) -> Any:
    kind = schema.groups[0][1]
    if isinstance(item, kind):
        return item
    if not isinstance(item, Mapping):
        problems.add(f"{where}expected {describe(kind)}, got {quote_value(item)}")
        return None
    item_problems = ErrorCollector()  # `unreadable` keys of one item must not hide problems of the next
    instance = schema.resolve(schema.flatten(item, where, item_problems), item_problems, where=where)[kind]
    problems.add(*item_problems.messages)
    return instance
