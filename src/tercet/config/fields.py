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

COMMAND_LINE = "--"


@dataclass(frozen=True)
class ConfigEntry:
    """One value that a user gave."""

    key: str
    """Dotted, with underscores."""
    value: Any
    """Text from the command line, anything from a file or from Python."""
    where: str = ""
    """`--` for the command line, else what messages put before the key, such as 'run.yaml: '."""

    @property
    def label(self) -> str:
        """The option as the user wrote it."""
        return self.spell(self.key) if self.where == COMMAND_LINE else self.where + self.key

    @property
    def text(self) -> bool:
        """Whether the value is text whatever its type, because it is a word of a command line."""
        return self.where == COMMAND_LINE

    def spell(self, key: str) -> str:
        """Return a key as the place of this entry writes it."""
        return "--" + key.replace("_", "-") if self.where == COMMAND_LINE else key


class InvalidValue(Exception):
    """Everything that is wrong with one value."""

    def __init__(self, *messages: str) -> None:
        super().__init__(*messages)
        self.messages = messages


@dataclass
class ErrorCollector:
    """What is wrong, collected so that it is told at once."""

    messages: list[str] = field(default_factory=list)
    """One a problem."""
    doubtful: set[str] = field(default_factory=set)
    """Keys whose value could not be read: a rule that they seem to break may well be kept."""

    def add(self, *messages: str, doubtful: str | None = None) -> None:
        """Enter messages, and the key whose value is unknown because of them."""
        self.messages.extend(messages)
        if doubtful is not None:
            self.doubtful.add(doubtful)

    def raise_all(self) -> None:
        """Raise one `ConfigError` with a line a problem, if there is any."""
        if self.messages:
            raise ConfigError("\n".join(dict.fromkeys(self.messages)))


def quote_value(value: Any) -> str:
    """Return a value as a message quotes it: in YAML's words, and short."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a mapping"}


@dataclass(frozen=True)
class Field:
    """One option: a field of a configuration class."""

    key: str
    """Dotted, with underscores."""
    type: Any
    """Its annotation, resolved."""
    default: Any
    """Its value where nothing is given."""
    owner: type
    """The class it belongs to."""

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]

    @property
    def option(self) -> str:
        """The key as the command line writes it."""
        return "--" + self.key.replace("_", "-")

    @property
    def optional(self) -> bool:
        """Whether null is a value."""
        union = typing.get_origin(self.type) in (types.UnionType, Union)
        return union and types.NoneType in typing.get_args(self.type)

    @property
    def inner(self) -> Any:
        """The type without None."""
        arguments = [item for item in typing.get_args(self.type) if item is not types.NoneType]
        return arguments[0] if self.optional and len(arguments) == 1 else self.type

    @property
    def element(self) -> Any:
        """The type of a list's elements; None for what is no list."""
        return typing.get_args(self.inner)[0] if typing.get_origin(self.inner) is tuple else None

    @property
    def choices(self) -> tuple[Any, ...]:
        """The allowed values (of an element, for a list); empty if any value of the type is allowed."""
        kind = self.element or self.inner
        return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()

    @property
    def flag(self) -> bool:
        """Whether the option needs no value on the command line."""
        return self.inner is bool

    @property
    def help(self) -> str:
        """The sentence under the field."""
        return _sentences(self.owner).get(self.name, "")

    def expected(self) -> str:
        """Return the type in words."""
        if self.element is None:
            return describe(self.inner)
        return "a list" if self.element is Any else f"a list, each {describe(self.element)}"


@functools.cache
def _sentences(kind: type) -> dict[str, str]:
    found = docstring_parser.parse_from_object(kind).params
    return {item.arg_name: " ".join((item.description or "").split()) for item in found}


def describe(kind: Any) -> str:
    """Return a type in words, such as 'a whole number' or 'one of none, rnn, gru, lstm'."""
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if dataclasses.is_dataclass(kind):
        return "a mapping of " + ", ".join(field.name for field in dataclasses.fields(kind))
    return _NAMES.get(typing.get_origin(kind) or kind, "a value")


def list_fields(kind: type[Any], prefix: str, sections: set[str]) -> Iterator[Field]:
    """Yield the options of a dataclass and of those nested in it.

    Args:
        kind: The class.
        prefix: What comes before its field names: empty, or a key with a dot at the end.
        sections: Gains the keys of nested classes, without the dot.

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
        made = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        if made is dataclasses.MISSING:
            raise TypeError(f"{kind.__name__}.{item.name} needs a default to be an option")
        yield Field(key, hint, made, kind)
