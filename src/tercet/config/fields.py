"""Fields of configuration dataclasses, and the errors found in their values."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Union

import docstring_parser

from tercet.core.errors import ConfigError
from tercet.core.registry import PARTS

COMMAND_LINE = "--"


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
        return self.spell(self.key) if self.where == COMMAND_LINE else self.where + self.key

    @property
    def is_text(self) -> bool:
        """Whether the value is a command-line argument, which has yet to be converted to its type."""
        return self.where == COMMAND_LINE

    def spell(self, key: str) -> str:
        """Return a key in the notation of this entry: `--some-key` on the command line, else `some_key`."""
        return "--" + key.replace("_", "-") if self.where == COMMAND_LINE else key


class InvalidValue(Exception):
    """All problems of one value."""

    def __init__(self, *messages: str) -> None:
        super().__init__(*messages)
        self.messages = messages


@dataclass
class ErrorCollector:
    """Collects configuration errors so that all are reported together."""

    messages: list[str] = field(default_factory=list)
    """One per problem."""
    unreadable: set[str] = field(default_factory=set)
    """Keys without a valid value. Rules that mention them are not reported, as they were checked with the default."""

    def add(self, *messages: str, unreadable: str | None = None) -> None:
        """Add messages, and the key that has no valid value because of them."""
        self.messages.extend(messages)
        if unreadable is not None:
            self.unreadable.add(unreadable)

    def raise_all(self) -> None:
        """Raise one `ConfigError` with one line per problem, if there are any."""
        if self.messages:
            raise ConfigError("\n".join(dict.fromkeys(self.messages)))


def quote_value(value: Any) -> str:
    """Return a value for messages: in YAML notation, at most 60 characters."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a mapping"}


@dataclass(frozen=True)
class Field:
    """One option: a field of a configuration class."""

    key: str
    """Dotted, with underscores."""
    type: Any
    """Resolved annotation."""
    default: Any
    owner: type
    """Configuration class that defines the field."""
    registry: str | None = None
    """Kind of registered part (`PARTS`) whose names are the choices: the `registry` of the field's metadata."""

    @property
    def name(self) -> str:
        """Last part of the key."""
        return self.key.rpartition(".")[2]

    @property
    def option(self) -> str:
        """The key as a command-line option."""
        return "--" + self.key.replace("_", "-")

    @property
    def optional(self) -> bool:
        """Whether null is allowed."""
        union = typing.get_origin(self.type) in (types.UnionType, Union)
        return union and types.NoneType in typing.get_args(self.type)

    @property
    def inner(self) -> Any:
        """The type without None."""
        arguments = [item for item in typing.get_args(self.type) if item is not types.NoneType]
        return arguments[0] if self.optional and len(arguments) == 1 else self.type

    @property
    def element(self) -> Any:
        """The element type of a list; None for other types."""
        return typing.get_args(self.inner)[0] if typing.get_origin(self.inner) is tuple else None

    @property
    def choices(self) -> tuple[Any, ...]:
        """Allowed values (of each element, for a list); empty if all values of the type are allowed."""
        if self.registry is not None:
            return tuple(PARTS[self.registry])
        kind = self.element or self.inner
        return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()

    @property
    def flag(self) -> bool:
        """Whether the option is boolean."""
        return self.inner is bool

    @property
    def help(self) -> str:
        """Docstring of the field."""
        return _field_docs(self.owner).get(self.name, "")

    def expected(self) -> str:
        """Return the type in words."""
        if self.element is Any:
            return "a list"
        kind = "one of " + ", ".join(map(str, self.choices)) if self.choices else describe(self.element or self.inner)
        return kind if self.element is None else f"a list, each {kind}"


@functools.cache
def _field_docs(kind: type) -> dict[str, str]:
    params = docstring_parser.parse_from_object(kind).params
    return {param.arg_name: " ".join((param.description or "").split()) for param in params}


def describe(kind: Any) -> str:
    """Return a type in words, such as 'a whole number'."""
    if dataclasses.is_dataclass(kind):
        return "a mapping of " + ", ".join(field.name for field in dataclasses.fields(kind))
    return _NAMES.get(typing.get_origin(kind) or kind, "a value")


def list_fields(kind: type[Any], prefix: str, sections: set[str]) -> Iterator[Field]:
    """Yield the options of a dataclass, nested dataclasses included.

    Args:
        kind: The dataclass.
        prefix: Prefix of the keys: empty, or a key with a dot at the end.
        sections: The keys of nested classes are added to it, without the dot.

    Raises:
        TypeError: A field has no default.
    """
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        key, hint = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(hint):
            sections.add(key)
            yield from list_fields(typing.cast("type[Any]", hint), f"{key}.", sections)
            continue
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        if default is dataclasses.MISSING:
            raise TypeError(f"{kind.__name__}.{item.name} needs a default to be an option")
        yield Field(key, hint, default, kind, item.metadata.get("registry"))
