"""The space of a search: which options vary, and over which values; read from YAML, checked before anything runs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from tercet.config.fields import ConfigEntry, ErrorCollector, Field, describe, quote_value
from tercet.config.parser import CommandOptions
from tercet.core.errors import ConfigError
from tercet.core.registry import did_you_mean
from tercet.core.yaml_io import read_mapping

_RANGE = ("low", "high", "step", "log")
_FORMS = "a list of choices, or a range such as {low: 1, high: 8}"


@dataclass(frozen=True)
class NumberRange:
    """Numbers between two ends, both included."""

    key: str
    """The option."""
    low: float
    """The least value."""
    high: float
    """The greatest value."""
    step: float | None = None
    """Distance between neighbours; None is 1 for whole numbers, and no grid for others."""
    log: bool = False
    """Whether equal ratios are equally likely, instead of equal distances."""
    whole: bool = False
    """Whether only whole numbers are meant."""

    def to_dict(self) -> dict[str, Any]:
        """Return what the YAML file says."""
        values = {"low": self.low, "high": self.high, "step": self.step, "log": self.log or None}
        return {name: value for name, value in values.items() if value is not None}

    def ends(self) -> tuple[Any, ...]:
        """Return the values that are tried against the option's type and rules."""
        return (self.low, self.high)

    def find(self, value: Any) -> float | None:
        """Return a value of the option as this range knows it, or None where it lies outside."""
        one = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
        if isinstance(one, bool) or not isinstance(one, (int, float)) or not self.low <= one <= self.high:
            return None
        return one if self.step is None or (_exact(one) - _exact(self.low)) % _exact(self.step) == 0 else None

    def value(self, known: Any) -> Any:
        """Return the option's value for what `find` returned."""
        return known


@dataclass(frozen=True)
class Choices:
    """Some values, whatever they are."""

    key: str
    """The option."""
    values: tuple[Any, ...]
    """What there is to choose from."""

    def to_dict(self) -> dict[str, Any]:
        """Return what the YAML file says."""
        return {"choices": list(self.values)}

    def ends(self) -> tuple[Any, ...]:
        """Return the values that are tried against the option's type and rules."""
        return self.values

    @property
    def labels(self) -> tuple[str, ...]:
        """The values as texts, each different from the others."""
        return tuple(_label(value) for value in self.values)

    def find(self, value: Any) -> str | None:
        """Return the label of a value of the option, or None where it is no choice."""
        alone = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
        return next((label for label in (_label(value), _label(alone)) if label in self.labels), None)

    def value(self, known: Any) -> Any:
        """Return the value that has this label."""
        return self.values[self.labels.index(known)]


@dataclass(frozen=True)
class SearchSpace:
    """Every option that varies."""

    axes: tuple[NumberRange | Choices, ...]
    """In the order of the file."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The options by dotted key."""
        return tuple(axis.key for axis in self.axes)

    def axis(self, key: str) -> NumberRange | Choices | None:
        """Return the axis of an option, or None where it does not vary."""
        return next((axis for axis in self.axes if axis.key == key), None)

    def values(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options' values at a point, which holds numbers and labels."""
        return {axis.key: axis.value(point[axis.key]) for axis in self.axes if axis.key in point}

    def locate(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the point of some options' values, as far as they lie in the space."""
        found = {axis.key: axis.find(values.get(axis.key)) for axis in self.axes}
        return {key: known for key, known in found.items() if known is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `read_space` reads back equal."""
        return {axis.key: axis.to_dict() for axis in self.axes}


def read_space(
    given: str | Path | Mapping[str, Any], options: CommandOptions, *, base: Sequence[Any], fixed: Mapping[str, str]
) -> SearchSpace:
    """Read a space and try every end and choice against its option.

    Args:
        given: YAML file, or what it would hold.
        options: The options there are.
        base: Instances whose values stand where nothing varies.
        fixed: Options that must not vary, by dotted key, and why.

    Raises:
        ConfigError: Unknown keys, forms that are no space, values that the option refuses; all are listed.
    """
    where = "space" if isinstance(given, Mapping) else str(given)
    mapping = given if isinstance(given, Mapping) else read_mapping(given)
    problems = ErrorCollector()
    entries = options.schema.flatten(mapping, f"{where}: ", problems)
    axes: list[NumberRange | Choices] = []
    for entry in entries:
        if entry.key in fixed:
            problems.add(f"{entry.label}: cannot vary, {fixed[entry.key]}")
            continue
        try:
            axes.append(_read_axis(entry, options.schema.fields[entry.key]))
        except ConfigError as error:
            problems.add(f"{entry.label}: {error}")
    for axis in axes:
        others = [one.key for one in axes if one is not axis]
        for value in axis.ends():
            problems.add(*_refusals(axis.key, value, options, base=base, where=where, others=others))
    if not entries and not problems.messages:
        problems.add(f"{where}: nothing varies: give options, each with {_FORMS}")
    problems.raise_all()
    return SearchSpace(tuple(axes))


def _refusals(
    key: str, value: Any, options: CommandOptions, *, base: Sequence[Any], where: str, others: Sequence[str]
) -> Iterator[str]:
    """Yield why an option cannot have a value; a rule that names another varying option may be kept in a trial."""
    try:
        options.parse_object({key: value}, source=where, base=base)
    except ConfigError as error:
        names = [other.rpartition(".")[2] for other in others]
        for line in str(error).split("\n"):
            if not any(re.search(rf"\b{name}\b", line) for name in names):
                yield line


def _read_axis(entry: ConfigEntry, field: Field) -> NumberRange | Choices:
    value = entry.value
    if isinstance(value, (list, tuple)):
        value = {"choices": value}
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(f"expected {_FORMS}, got {quote_value(value)}")
    if "choices" in value:
        _require_only(value, ("choices",))
        return _read_choices(entry.key, value["choices"])
    _require_only(value, _RANGE)
    return _read_range(entry.key, value, field)


def _require_only(value: Mapping[Any, Any], known: Sequence[str]) -> None:
    unknown = [str(name) for name in value if name not in known]
    if unknown:
        raise ConfigError(f"unknown key '{unknown[0]}'{did_you_mean(unknown[0], known)} (known: {', '.join(known)})")


def _read_choices(key: str, values: Any) -> Choices:
    if not isinstance(values, (list, tuple)) or not values:
        raise ConfigError(f"expected a list of choices, got {quote_value(values)}")
    choices = Choices(key, tuple(values))
    doubled = [label for index, label in enumerate(choices.labels) if label in choices.labels[:index]]
    if doubled:
        raise ConfigError(f"{doubled[0]} is given twice")
    return choices


def _read_range(key: str, value: Mapping[str, Any], field: Field) -> NumberRange:
    kind = field.element or field.inner
    if kind not in (int, float):
        raise ConfigError(f"expected a list of choices, as it is {field.expected()}")
    absent = [name for name in ("low", "high") if name not in value]
    if absent:
        raise ConfigError(f"a range needs low and high: {absent[0]} is missing")
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
        raise ConfigError(f"from {low} to {high} there must be a whole number of steps of {step}")
    return NumberRange(key, low, high, step, log, kind is int)


def _exact(number: float) -> Decimal:
    return Decimal(repr(number))


def _label(value: Any) -> str:
    """Return text that tells values apart: a text that has no other meaning as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
