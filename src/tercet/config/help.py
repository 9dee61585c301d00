"""Text of `--help`: usage, examples, positional arguments, and the options of each configuration class."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tercet.config.fields import Field
from tercet.config.schema import Schema

_COLUMN = 26
_MAX_PLACEHOLDER = 60
"""Length of the choices up to which they are in the placeholder; longer ones are in the help."""
_LEGEND = (
    "N is a whole number, X a number; list elements are separated by commas. --key=value also works; null unsets an "
    "option that a file sets; arguments after -- are never options."
)
_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT"}


@dataclass(frozen=True)
class Positional:
    """A positional argument."""

    name: str
    """Key in `ParsedArguments.positional`."""
    help: str
    """Description in a few words."""
    many: bool = False
    """Whether it accepts several values."""
    required: bool = True
    metavar: str = ""
    """Placeholder in help and messages (default: the name in capitals)."""

    @property
    def label(self) -> str:
        """Placeholder in help and messages."""
        return self.metavar or self.name.upper().replace("_", "-")

    def usage(self) -> str:
        """Return its part of the usage line."""
        required = f"{self.label} [{self.label} ...]" if self.many else self.label
        return required if self.required else f"[{self.label} ...]" if self.many else f"[{self.label}]"


def format_help(
    command: str,
    description: str,
    schema: Schema,
    positionals: Sequence[Positional],
    *,
    config_file: bool,
    width: int,
    examples: Sequence[str] = (),
) -> str:
    """Return the help of a command as plain text of `width` columns."""
    usage = " ".join(["Usage: tercet", *filter(None, [command]), *(item.usage() for item in positionals), "[options]"])
    lines = [usage, ""]
    if description:
        lines += [*textwrap.wrap(description, width, break_on_hyphens=False), ""]
    if examples:
        lines += ["Examples:", *(f"  tercet {command} {example}" for example in examples), ""]
    if positionals:
        lines.append("Arguments:")
        for item in positionals:
            lines += _entry(item.label, item.help[:1].upper() + item.help[1:], width)
        lines.append("")
    lines.append("Options:")
    if config_file:
        lines += _entry("--config FILE", "Read options from a YAML file; the command line overrides them.", width)
    lines += _entry("-h, --help", "Show this help and exit.", width)
    for owner in (owner for _, kind in schema.groups for owner in _classes(kind)):
        options = [option for option in schema.fields.values() if option.owner is owner]
        lines += ["", *_heading(owner, width)] if options else []
        for option in options:
            lines += _entry(f"{option.option} {placeholder(option)}".rstrip(), _option_help(option), width)
    if schema.fields:
        lines += ["", *textwrap.wrap(_LEGEND, width)]
    return "\n".join(lines) + "\n"


def _classes(kind: type[Any]) -> Iterator[type]:
    """Yield a class, then those nested in it."""
    yield kind
    for hint in typing.get_type_hints(kind).values():
        if dataclasses.is_dataclass(hint):
            yield from _classes(typing.cast("type[Any]", hint))


def _heading(owner: type, width: int) -> Iterator[str]:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"(Config|Options)$", "", owner.__name__)).capitalize()
    text = (inspect.getdoc(owner) or "").split("\n\n")[0]
    title = f"{name}: {text[:1].lower()}{text[1:]}" if text else f"{name}:"
    return iter(textwrap.wrap(title, width))


def _entry(head: str, text: str, width: int) -> list[str]:
    # No line break between "default:" and its value.
    joined = text.replace("(default: ", "(default:\0").replace("; default: ", "; default:\0")
    lines = [line.replace("\0", " ") for line in textwrap.wrap(joined, width - _COLUMN, break_on_hyphens=False)] or [""]
    if len(head) + 4 > _COLUMN:
        return [f"  {head}", *(" " * _COLUMN + line for line in lines)]
    first = f"  {head}".ljust(_COLUMN) + lines[0]
    return [first.rstrip(), *(" " * _COLUMN + line for line in lines[1:])]


def placeholder(item: Field) -> str:
    """Return the placeholder of an option's value: its choices, or a letter for its type."""
    if item.flag:
        return "true|false" if item.default else ""
    if dataclasses.is_dataclass(item.element):
        return "NAME|FILE"
    if item.element is not None:
        element = {int: "N", float: "X", bool: "true|false"}.get(item.element, "NAME")
        return f"{element},{element},..."
    choices = "|".join(map(str, item.choices))
    if len(choices) > _MAX_PLACEHOLDER:
        return "NAME"
    return choices or _PLACEHOLDERS.get(item.inner, "'{NAME: VALUE, ...}'")


def _option_help(item: Field) -> str:
    notes = []
    if item.choices and (item.element is not None or placeholder(item) == "NAME"):
        notes.append(f"{'one' if item.element is None else 'any'} of {', '.join(map(str, item.choices))}")
    if item.default is not None and item.default is not False and item.default not in ("", (), {}):
        all_choices = item.element is not None and item.default == item.choices
        notes.append(f"default: {'all' if all_choices else _default(item.default)}")
    return f"{item.help} ({'; '.join(notes)})".strip() if notes else item.help


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_default, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
