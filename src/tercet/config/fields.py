"""Options as fields of configuration dataclasses, and the conversion of given values to their types."""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, Union

from tercet.core.errors import ConfigError, Problem, raise_problems
from tercet.core.registry import PARTS, did_you_mean
from tercet.core.yaml_io import parse_yaml

COMMAND_LINE = "--"
Without = Mapping[type, frozenset[str]]
"""Per class, names of fields that are not options and keep their defaults."""
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a mapping"}

Value = TypeVar("Value")


class Config:
    """Base of the configuration dataclasses: checks the bounds of the fields and the rules between them."""

    section: ClassVar[str] = ""
    """First part of the dotted keys of its fields."""

    def __post_init__(self) -> None:
        """Raise a `ConfigError` that lists all violated bounds and rules."""
        problems = [self.problem(name, text) for name, text in _violated_bounds(self)]
        raise_problems([*problems, *self._rules()])

    def _rules(self) -> Iterable[Problem]:
        """Return the violated rules, each with the fields that it concerns."""
        return ()

    def problem(self, name: str, requirement: str) -> Problem:
        """Return the problem that the value of a field does not meet a requirement ("must be ...")."""
        value = getattr(self, name)
        text = repr(value) if isinstance(value, str) else str(value).strip("(,)")
        return Problem(f"{prefix_of(type(self))}{name} {text} {requirement}", name)


def bounded(
    default: Value,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> Value:
    """Return a field of a configuration whose value, or each element of it, lies within bounds, unless it is None."""
    low, high = least if above is None else above, most if below is None else below
    text = f"must lie in {'[' if above is None else '('}{low}, {high}{']' if below is None else ')'}"
    if high is None:
        text = f"must be at least {low}" if above is None else f"must be above {low}"
    text = {"must be above 0": "must be positive", "must be at least 0": "must not be negative"}.get(text, text)

    def inside(value: float) -> bool:
        return (low is None or (value >= low if above is None else value > low)) and (
            high is None or (value <= high if below is None else value < high)
        )

    return field(default=default, metadata={"bounds": (inside, text)})


def _violated_bounds(config: Any) -> Iterator[tuple[str, str]]:
    for item in dataclasses.fields(config):
        if "bounds" in item.metadata:
            inside, text = item.metadata["bounds"]
            value = getattr(config, item.name)
            values = value if isinstance(value, tuple) else () if value is None else (value,)
            if not all(map(inside, values)):
                yield item.name, text


@dataclass(frozen=True)
class ConfigEntry:
    """One option as given by the user."""

    key: str
    """Dotted, with underscores."""
    value: Any
    """Text from the command line; any value from a file or from Python."""
    where: str = ""
    """`--` for the command line, else the prefix of the key in messages, such as 'run.yaml: '."""

    @property
    def label(self) -> str:
        """The option as the user writes it."""
        return self.spell(self.key) if self.is_text else self.where + self.key

    @property
    def is_text(self) -> bool:
        """Whether the value is a command-line argument, which has yet to be converted to its type."""
        return self.where == COMMAND_LINE

    def spell(self, key: str) -> str:
        """Return a key in the notation of this entry: `--some-key` on the command line, else `some_key`."""
        return "--" + key.replace("_", "-") if self.is_text else key


@dataclass(frozen=True)
class Field:
    """One option: a field of a configuration class."""

    key: str
    """Dotted, with underscores."""
    owner: type
    """Configuration class that defines the field."""
    default: Any
    kind: Any
    """Type of the value, or of each element of a list, without None."""
    many: bool
    """Whether the value is a list."""
    optional: bool
    """Whether null is allowed."""
    registry: str | None = None
    """Kind of registered part (`PARTS`) whose names are the choices."""
    verbatim: bool = False
    """Whether `null` on the command line is a name like others, such as that of a class."""

    @property
    def option(self) -> str:
        """The key as a command-line option."""
        return "--" + self.key.replace("_", "-")

    @property
    def flag(self) -> bool:
        """Whether the option is boolean."""
        return self.kind is bool and not self.many

    @property
    def choices(self) -> tuple[Any, ...]:
        """Allowed values (of each element, for a list); empty if all values of the type are allowed."""
        if self.registry is not None:
            return tuple(PARTS[self.registry])
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is Literal else ()

    def listed_choices(self) -> str:
        """Return the choices in words."""
        library = PARTS[self.registry].library if self.registry else ""
        return ", ".join(map(str, self.choices)) + (f", or any {self.registry} of {library}" if library else "")

    def expected(self) -> str:
        """Return the type in words."""
        if self.many and self.kind is Any:
            return "a list"
        kind = f"one of {self.listed_choices()}" if self.choices else describe(self.kind)
        return f"a list, each {kind}" if self.many else kind

    def convert(self, value: Any, *, text: bool) -> Any:
        """Return a value, or one element of a list, converted to its type.

        Raises:
            ConfigError: The value has another type: text is not a number in a file, and True is never one.
        """
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        braced = self.kind is Any and str(value).lstrip().startswith("{")
        if text and (braced or typing.get_origin(self.kind) is dict):
            value = parse_yaml(value, source=quote_value(value))
        original = value
        if text and self.kind in (int, float, bool):
            with suppress(ConfigError):  # then the text itself is reported
                value = parse_yaml(value)
        converted = _convert(value, self.kind, self.choices)
        if converted is None:
            others = PARTS[self.registry].names_of_library() if self.registry and isinstance(original, str) else []
            if original in others:
                return original
            hint = did_you_mean(original, [*map(str, self.choices), *others]) if isinstance(original, str) else ""
            raise ConfigError(f"expected {self.expected()}, got {quote_value(original)}{hint}")
        return converted


def _convert(value: Any, kind: Any, choices: tuple[Any, ...]) -> Any:
    """Return a value of the type; None if it has another one. Types are compared because True == 1.0 == 1."""
    if choices:  # the choice '32' is a number in YAML, the choice 2 is text on the command line
        return next((item for item in choices if type(value) in (int, str) and str(item) == str(value)), None)
    if kind is float:
        return float(value) if type(value) in (int, float) and math.isfinite(value) else None
    return value if kind is Any or type(value) is (typing.get_origin(kind) or kind) else None


def quote_value(value: Any) -> str:
    """Return a value for messages: in YAML notation, at most 60 characters."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def describe(kind: Any) -> str:
    """Return a type in words, such as 'a whole number'."""
    if dataclasses.is_dataclass(kind):
        return "a mapping of " + ", ".join(field.name for field in dataclasses.fields(kind))
    return _NAMES.get(typing.get_origin(kind) or kind, "a value")


def prefix_of(kind: type) -> str:
    """Return the prefix of the keys of a configuration class: its `section` and a dot, or nothing."""
    section: str = getattr(kind, "section", "")
    return section and f"{section}."


def nested_classes(kind: type) -> dict[str, type[Any]]:
    """Return the fields of a configuration class that are configuration classes."""
    hints = typing.get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(kind)]
    return {name: hints[name] for name in names if dataclasses.is_dataclass(hints[name])}


def list_fields(kind: type[Any], prefix: str, without: Without) -> Iterator[Field]:
    """Yield the options of a dataclass, nested dataclasses included.

    Raises:
        ConfigError: A field has no default.
    """
    hints, nested = typing.get_type_hints(kind), nested_classes(kind)
    for item in dataclasses.fields(kind):
        key, hint = prefix + item.name, hints[item.name]
        if item.name in nested:
            yield from list_fields(nested[item.name], f"{key}.", without)
        elif item.name not in without.get(kind, ()):
            default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
            if default is dataclasses.MISSING:
                raise ConfigError(f"{kind.__name__}.{item.name} needs a default to be an option")
            optional = typing.get_origin(hint) in (types.UnionType, Union)
            hint = next(part for part in typing.get_args(hint) if part is not types.NoneType) if optional else hint
            many = typing.get_origin(hint) is tuple
            hint = typing.get_args(hint)[0] if many else hint
            yield Field(
                key, kind, default, hint, many, optional, item.metadata.get("registry"), "verbatim" in item.metadata
            )
