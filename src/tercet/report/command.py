"""Reconstruct the command of a run from its configuration."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from tercet.config.commands import ENSEMBLE, TRAIN
from tercet.config.experiments import COMPARE, CROSSVAL, REPRODUCE, TUNE
from tercet.config.fields import Field
from tercet.config.parser import CommandOptions
from tercet.config.recipe import recipe_names
from tercet.core.errors import ConfigError
from tercet.core.yaml_io import dump_yaml
from tercet.data.run_reader import RunReader

_OMITTED = frozenset({"output", "json", "debug", "resume"})  # a run is never overwritten
SPACE = "space.yaml"


_OPTIONS: Mapping[str, CommandOptions] = {
    "train": TRAIN,
    "crossval": CROSSVAL,
    "compare": COMPARE,
    "ensemble": ENSEMBLE,
    "tune": TUNE,
    "reproduce": REPRODUCE,
}


def command_of(record: RunReader) -> str | None:
    """Return the command, one option per line; None if an option is invalid in this version."""
    values = dict(record.record.options)
    try:
        arguments = _positionals(record)
        if record.kind == "tune":
            values["space"] = SPACE
        if record.kind == "reproduce" and (data := values.pop("data", None)):
            arguments.append(str(data))
        options = options_given(_OPTIONS[record.kind], values)
    except (ConfigError, KeyError, TypeError):
        return None
    return " \\\n    ".join([shlex.join(["tercet", record.kind, *arguments]), *options])


def _positionals(record: RunReader) -> list[str]:
    source = record.record.source
    if isinstance(source, list):
        return list(map(str, source))
    if record.kind == "reproduce" and source not in recipe_names():
        return [str(record.run.path / "recipe.yaml")]  # the file itself may have changed since
    return [source]


def options_given(options: CommandOptions, values: Mapping[str, Any]) -> list[str]:
    """Return the non-default options as command-line arguments; parsing them gives equal values.

    Args:
        options: The command's options.
        values: Values by dotted key.

    Raises:
        ConfigError: The command does not accept a key or value.
    """
    parsed = options.parse_object(values).to_dict()
    fields = options.fields
    defaults = options.parse_object({}).to_dict()
    return [
        _option(fields[key], value)
        for key, value in parsed.items()
        if key in values and key not in _OMITTED and value != defaults[key]
    ]


def space_of(record: RunReader) -> str | None:
    """Return the search space of `tune` as YAML for `--space`."""
    space = record.record.options.get("space")
    return dump_yaml(space) if space else None


def _option(field: Field, value: Any) -> str:
    if field.key == "stages" and value:
        value = [{key: item for key, item in stage.items() if item is not None} for stage in value]
    text = _value(value)
    if text == "true" and field.flag:
        return field.option
    return f"{field.option}={shlex.quote(text)}" if text.startswith("--") else f"{field.option} {shlex.quote(text)}"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and value and all(map(_is_simple, value)):
        return ",".join(_value(item) for item in value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return f"{value:.0f}"
    return json.dumps(value, ensure_ascii=False)


def _is_simple(item: Any) -> bool:
    """Return whether an element of a list can be written between commas without quotes."""
    if isinstance(item, str):
        return bool(item.strip()) and item == item.strip() and not set(item) & set(",[{}]")
    return isinstance(item, (int, float)) and not isinstance(item, bool)
