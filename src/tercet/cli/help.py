"""Text of `--help`: usage, examples, positional arguments, and the options of each configuration class."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import docstring_parser

from tercet.cli.command import Command
from tercet.config.fields import Field, nested_classes
from tercet.core.registry import PARTS

_COLUMN = 26
_LEGEND = (
    "N is a whole number, X a number; list elements are separated by commas. --key=value also works; null unsets an "
    "option that a file sets; arguments after -- are never options."
)
_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT"}


def format_help(command: Command, width: int = 80) -> str:
    """Return the help of a command as plain text, wrapped to `width` columns."""
    usage = " ".join(item.usage() for item in command.positionals)
    lines = [" ".join(filter(None, ["Usage: tercet", command.name, usage, "[options]"])), ""]
    if command.description:
        lines += [*textwrap.wrap(command.description, width, break_on_hyphens=False), ""]
    if command.examples:
        lines += ["Examples:", *(f"  tercet {command.name} {example}" for example in command.examples), ""]
    if command.positionals:
        lines.append("Arguments:")
        for item in command.positionals:
            lines += _entry(item.label, item.help[:1].upper() + item.help[1:], width)
        lines.append("")
    lines.append("Options:")
    lines += _entry("--config FILE", "Read options from a YAML file; the command line overrides them.", width)
    lines += _entry("-h, --help", "Show this help and exit.", width)
    for owner in (owner for kind in command.options.kinds for owner in _classes(kind)):
        fields = [field for field in command.options.fields.values() if field.owner is owner]
        lines += ["", *_heading(owner, width)] if fields else []
        for field in fields:
            lines += _entry(f"{field.option} {_placeholder(field)}".rstrip(), _option_help(field), width)
    lines += ["", *textwrap.wrap(_LEGEND, width)]
    return "\n".join(lines) + "\n"


@functools.cache
def field_docs(kind: type) -> dict[str, str]:
    """Return the docstrings below the fields of a configuration class, by field."""
    params = docstring_parser.parse_from_object(kind).params
    return {param.arg_name: " ".join((param.description or "").split()) for param in params}


def _classes(kind: type[Any]) -> Iterator[type]:
    """Yield a class, then those nested in it."""
    yield kind
    for inner in nested_classes(kind).values():
        yield from _classes(inner)


def _heading(owner: type, width: int) -> list[str]:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"(Config|Options)$", "", owner.__name__)).capitalize()
    text = (inspect.getdoc(owner) or "").split("\n\n")[0]
    return textwrap.wrap(f"{name}: {text[:1].lower()}{text[1:]}" if text else f"{name}:", width)


def _entry(head: str, text: str, width: int) -> list[str]:
    # No line break between "default:" and its value.
    joined = text.replace("(default: ", "(default:\0").replace("; default: ", "; default:\0")
    lines = [line.replace("\0", " ") for line in textwrap.wrap(joined, width - _COLUMN, break_on_hyphens=False)] or [""]
    first = f"  {head}".ljust(_COLUMN)
    if len(head) + 4 > _COLUMN:
        return [first.rstrip(), *(" " * _COLUMN + line for line in lines)]
    return [(first + lines[0]).rstrip(), *(" " * _COLUMN + line for line in lines[1:])]


_LONGEST_CHOICES = 65  # characters; more are listed in the help text


def _placeholder(item: Field) -> str:
    """Return the placeholder of an option's value: its choices, or a letter for its type."""
    if item.flag:
        return "true|false" if item.default else ""
    if dataclasses.is_dataclass(item.kind):
        return "NAME|FILE"
    if item.many:
        element = {**_PLACEHOLDERS, bool: "true|false", str: "NAME"}.get(item.kind, "NAME")
        return f"{element},{element},..."
    choices = "|".join(map(str, item.choices))
    if len(choices) > _LONGEST_CHOICES or (item.registry and PARTS[item.registry].library):
        return "NAME"
    return choices or _PLACEHOLDERS.get(item.kind, "'{NAME: VALUE, ...}'")


def _option_help(item: Field) -> str:
    notes = []
    if not item.many and _placeholder(item) == "NAME":
        notes.append(f"one of {item.listed_choices()}")
    if item.many and item.choices:
        notes.append(f"any of {item.listed_choices()}")
    if item.default is not None and item.default is not False and item.default not in ("", (), {}):
        all_choices = item.many and set(item.default) == set(item.choices)
        notes.append(f"default: {'all' if all_choices else _default(item.default)}")
    text = field_docs(item.owner).get(item.key.rpartition(".")[2], "")
    return f"{text} ({'; '.join(notes)})".strip() if notes else text


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_default, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
