"""Search spaces of `tercet tune`: options to vary with their ranges or choices, read from YAML and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from tercet.config.fields import ConfigEntry, Field, describe, quote_value
from tercet.config.parser import CommandOptions
from tercet.core.errors import ConfigError, Problem, raise_problems
from tercet.core.registry import did_you_mean
from tercet.core.yaml_io import read_mapping

_RANGE_KEYS = ("low", "high", "step", "log")
_FORMS = "a list of choices, or a range such as {low: 1, high: 8}"


@dataclass(frozen=True)
class NumberRange:
    """Numbers from `low` to `high`, both included."""

    key: str
    """Dotted key of the option."""
    low: float
    high: float
    step: float | None = None
    """Step size; None: 1 for whole numbers, continuous for others."""
    log: bool = False
    """Whether to sample uniformly on a logarithmic scale."""
    integer: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the range as in the YAML file."""
        values = {"low": self.low, "high": self.high, "step": self.step, "log": self.log or None}
        return {name: value for name, value in values.items() if value is not None}

    def ends(self) -> tuple[Any, ...]:
        """Return the values to check against the type and the rules of the option."""
        return (self.low, self.high)

    def find(self, value: Any) -> float | None:
        """Return the number for a value of the option; None if it is outside the range."""
        number = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not self.low <= number <= self.high:
            return None
        return number if self.step is None or (_exact(number) - _exact(self.low)) % _exact(self.step) == 0 else None

    def value(self, coordinate: Any) -> Any:
        """Return the value of the option for a result of `find`."""
        return coordinate


@dataclass(frozen=True)
class Choices:
    """A list of values of any type."""

    key: str
    """Dotted key of the option."""
    values: tuple[Any, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the choices as in the YAML file."""
        return {"choices": list(self.values)}

    def ends(self) -> tuple[Any, ...]:
        """Return the values to check against the type and the rules of the option."""
        return self.values

    @property
    def labels(self) -> tuple[str, ...]:
        """The values as unique texts."""
        return tuple(_label(value) for value in self.values)

    def find(self, value: Any) -> str | None:
        """Return the label for a value of the option; None if it is not a choice."""
        element = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
        return next((label for label in (_label(value), _label(element)) if label in self.labels), None)

    def value(self, coordinate: Any) -> Any:
        """Return the value with this label."""
        return self.values[self.labels.index(coordinate)]


@dataclass(frozen=True)
class SearchSpace:
    """All options to vary, in the order of the file."""

    axes: tuple[NumberRange | Choices, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Dotted keys of the options."""
        return tuple(axis.key for axis in self.axes)

    def axis(self, key: str) -> NumberRange | Choices | None:
        """Return the axis of an option; None if it does not vary."""
        return next((axis for axis in self.axes if axis.key == key), None)

    def values(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return option values for a point, which maps keys to numbers and labels."""
        return {axis.key: axis.value(point[axis.key]) for axis in self.axes if axis.key in point}

    def locate(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the point for option values, without those outside the space."""
        point = {axis.key: axis.find(values.get(axis.key)) for axis in self.axes}
        return {key: coordinate for key, coordinate in point.items() if coordinate is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `read_space` reads back equal."""
        return {axis.key: axis.to_dict() for axis in self.axes}


def read_space(
    source: str | Path | Mapping[str, Any], options: CommandOptions, *, base: Sequence[Any], fixed: Mapping[str, str]
) -> SearchSpace:
    """Read a search space and check every limit and choice against its option.

    Args:
        source: YAML file, or its content.
        options: The available options.
        base: Configuration instances with the values of all other options.
        fixed: Options that must not vary, by dotted key, with the reason.

    Raises:
        ConfigError: Unknown keys, invalid ranges or choices, or values that an option does not accept; lists all.
    """
    where = "space" if isinstance(source, Mapping) else str(source)
    mapping = source if isinstance(source, Mapping) else read_mapping(source)
    problems: list[Problem] = []
    entries = options.flatten(mapping, f"{where}: ", problems)
    axes: list[NumberRange | Choices] = []
    for entry in entries:
        if entry.key in fixed:
            problems.append(Problem(f"{entry.label}: cannot vary, {fixed[entry.key]}"))
            continue
        try:
            axes.append(_read_axis(entry, options.fields[entry.key]))
        except ConfigError as error:
            problems.append(Problem(f"{entry.label}: {error}"))
    for axis in axes:
        others = [other.key for other in axes if other is not axis]
        for value in axis.ends():
            try:
                options.parse_object({axis.key: value}, source=where, base=base)
            except ConfigError as error:  # rules about another varying option may hold in a trial
                problems.extend(text for text in error.problems if not set(text.fields).intersection(others))
    if not entries and not problems:
        problems.append(Problem(f"{where} is empty: give options to vary, each with {_FORMS}"))
    raise_problems(problems, separator="\n")
    return SearchSpace(tuple(axes))


def _read_axis(entry: ConfigEntry, field: Field) -> NumberRange | Choices:
    value = entry.value
    if isinstance(value, (list, tuple)):
        value = {"choices": value}
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(f"expected {_FORMS}, got {quote_value(value)}")
    if "choices" in value:
        _require_only(value, ("choices",))
        return _read_choices(entry.key, value["choices"])
    _require_only(value, _RANGE_KEYS)
    return _read_range(entry.key, value, field)


def _require_only(value: Mapping[Any, Any], known: Sequence[str]) -> None:
    unknown = [str(name) for name in value if name not in known]
    if unknown:
        raise ConfigError(f"unknown key '{unknown[0]}'{did_you_mean(unknown[0], known)} (known: {', '.join(known)})")


def _read_choices(key: str, values: Any) -> Choices:
    if not isinstance(values, (list, tuple)) or not values:
        raise ConfigError(f"expected a list of choices, got {quote_value(values)}")
    choices = Choices(key, tuple(values))
    repeated = [label for index, label in enumerate(choices.labels) if label in choices.labels[:index]]
    if repeated:
        raise ConfigError(f"{repeated[0]} is given twice")
    return choices


def _read_range(key: str, value: Mapping[str, Any], field: Field) -> NumberRange:
    kind = field.kind
    if kind not in (int, float):
        raise ConfigError(f"expected a list of choices: the option is {field.expected()}")
    missing = [name for name in ("low", "high") if name not in value]
    if missing:
        raise ConfigError(f"a range needs low and high: {missing[0]} is missing")
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"log: expected true or false, got {quote_value(log)}")
    for name in ("low", "high", "step"):
        number = value.get(name, 1)
        if type(number) not in (int, kind) or not math.isfinite(number):
            raise ConfigError(f"{name}: expected {describe(kind)}, got {quote_value(number)}")
    low, high, step = value["low"], value["high"], value.get("step")
    if low >= high:
        raise ConfigError(f"low {low} must be below high {high}")
    if log and (low <= 0 or step is not None):
        raise ConfigError("a range with log needs low above 0, and no step")
    if step is not None and (step <= 0 or (_exact(high) - _exact(low)) % _exact(step) != 0):
        raise ConfigError(f"the range from {low} to {high} must be a multiple of step {step}")
    return NumberRange(key, low, high, step, log, kind is int)


def _exact(number: float) -> Decimal:
    return Decimal(repr(number))


def _label(value: Any) -> str:
    """Return a unique text: texts as they are, other values as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
