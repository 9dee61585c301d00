"""The command that does a run again, from the configuration that the run keeps."""

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

_SOURCES = ("data_source", "crossval_source", "comparison_of")  # how config.yaml names the data
_LEFT_OUT = frozenset({"output", "json", "debug", "resume"})  # a run is never written over another
SPACE = "space.yaml"


def command_of(record: RunReader) -> str | None:
    """Return the command, an option a line; None where the configuration is gone or cannot be read."""
    if not record.config:
        return None
    try:
        words = {
            "train": _of_data(TRAIN),
            "crossval": _of_data(CROSSVAL),
            "compare": _of_data(COMPARE),
            "ensemble": _of_runs,
            "tune": _of_space,
            "reproduce": _of_recipe,
        }[record.kind](record)
    except (ConfigError, KeyError, TypeError, StopIteration):
        return None
    head, *options = words
    return " \\\n    ".join([f"tercet {record.kind} {head}", *options])


def options_given(options: CommandOptions, values: Mapping[str, Any]) -> list[str]:
    """Return the options that are not at their defaults, as a command line takes them; it reads them back equal.

    Args:
        options: The verb's options.
        values: Their values by dotted key.

    Raises:
        ConfigError: A key or a value that the verb does not know.
    """
    checked = options.parse_object(values).to_dict()
    fields = options.schema.fields
    plain = options.parse_object({}).to_dict()
    return [
        _option(fields[key], value)
        for key, value in checked.items()
        if key in values and key not in _LEFT_OUT and value != plain[key]
    ]


def space_of(record: RunReader) -> str | None:
    """Return the space of a search as the YAML file that `--space` takes."""
    space = record.config.get("space")
    return dump_yaml(space) if space else None


def _of_data(options: CommandOptions) -> Callable[[RunReader], list[str]]:
    def words(record: RunReader) -> list[str]:
        values = {key: value for key, value in record.config.items() if key not in (*_SOURCES, "fold")}
        return [_data(record), *options_given(options, values)]

    return words


def _data(record: RunReader) -> str:
    return shlex.quote(str(next(record.config[key] for key in _SOURCES if key in record.config)))


def _of_runs(record: RunReader) -> list[str]:
    config = record.config
    values = {key: value for key, value in config.items() if key != "ensemble_of"}
    return [shlex.join(map(str, config["ensemble_of"])), *options_given(ENSEMBLE, values)]


def _of_space(record: RunReader) -> list[str]:
    config = record.config
    values = {**config["options"], "trials": config["trials"], "pruner": config["pruner"], "space": SPACE}
    return [_data(record), *options_given(TUNE, values)]


def _of_recipe(record: RunReader) -> list[str]:
    config = record.config
    replaced = [{old: new} for old, new in config["replaced"].items()]
    values = {"scale": config["scale"], "dry_run": config["dry_run"], "replace": replaced}
    values |= {f"data.{key}": value for key, value in config["data_options"].items()}
    recipe = str(config["reproduction_of"])
    own = str(record.run.path / "recipe.yaml")
    named = [recipe if recipe in recipe_names() else own, *([str(config["data"])] if config.get("data") else [])]
    return [shlex.join(named), *options_given(REPRODUCE, values)]


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
    if isinstance(value, (list, tuple)) and value and all(map(_simple, value)):
        return ",".join(_value(item) for item in value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return f"{value:.0f}"
    return json.dumps(value, ensure_ascii=False)


def _simple(item: Any) -> bool:
    """Tell whether an element can stand between commas."""
    if isinstance(item, str):
        return bool(item.strip()) and item == item.strip() and not set(item) & set(",[{}]")
    return isinstance(item, (int, float)) and not isinstance(item, bool)
