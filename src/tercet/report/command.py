"""Reconstruct the command of a run from its configuration."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from tercet.config.commands import ENSEMBLE, TRAIN
from tercet.config.experiments import COMPARE, CROSSVAL, REPRODUCE, TUNE
from tercet.config.fields import Field
from tercet.config.parser import CommandOptions
from tercet.config.recipe import recipe_names
from tercet.core.errors import ConfigError
from tercet.core.yaml_io import dump_yaml
from tercet.data.run_reader import RunReader

_SOURCES = ("data_source", "crossval_source", "comparison_of")  # keys of config.yaml for the data
_OMITTED = frozenset({"output", "json", "debug", "resume"})  # a run is never overwritten
SPACE = "space.yaml"


def command_of(record: RunReader) -> str | None:
    """Return the command, one option per line; None if the configuration is missing or invalid."""
    if not record.config:
        return None
    try:
        arguments = {
            "train": _data_arguments(TRAIN),
            "crossval": _data_arguments(CROSSVAL),
            "compare": _data_arguments(COMPARE),
            "ensemble": _ensemble_arguments,
            "tune": _tune_arguments,
            "reproduce": _reproduce_arguments,
        }[record.kind](record)
    except (ConfigError, KeyError, TypeError, StopIteration):
        return None
    head, *options = arguments
    return " \\\n    ".join([f"tercet {record.kind} {head}", *options])


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
    space = record.config.get("space")
    return dump_yaml(space) if space else None


def _data_arguments(options: CommandOptions) -> Callable[[RunReader], list[str]]:
    def arguments(record: RunReader) -> list[str]:
        values = {key: value for key, value in record.config.items() if key not in (*_SOURCES, "fold")}
        return [_data(record), *options_given(options, values)]

    return arguments


def _data(record: RunReader) -> str:
    return shlex.quote(str(next(record.config[key] for key in _SOURCES if key in record.config)))


def _ensemble_arguments(record: RunReader) -> list[str]:
    config = record.config
    values = {key: value for key, value in config.items() if key != "ensemble_of"}
    return [shlex.join(map(str, config["ensemble_of"])), *options_given(ENSEMBLE, values)]


def _tune_arguments(record: RunReader) -> list[str]:
    config = record.config
    values = {**config["options"], "trials": config["trials"], "pruner": config["pruner"], "space": SPACE}
    return [_data(record), *options_given(TUNE, values)]


def _reproduce_arguments(record: RunReader) -> list[str]:
    config = record.config
    replacements = [{old: new} for old, new in config["replaced"].items()]
    values = {"scale": config["scale"], "dry_run": config["dry_run"], "replace": replacements}
    values |= {f"data.{key}": value for key, value in config["data_options"].items()}
    recipe = str(config["reproduction_of"])
    copy = str(record.run.path / "recipe.yaml")
    data = [str(config["data"])] if config.get("data") else []
    return [shlex.join([recipe if recipe in recipe_names() else copy, *data]), *options_given(REPRODUCE, values)]


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
