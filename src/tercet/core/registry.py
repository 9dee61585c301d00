"""Registries of the parts that can be added by name, and suggestions for misspelled names."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from tercet.core.errors import ConfigError

Value = TypeVar("Value")

_MIN_ABBREVIATION = 3  # letters


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean 'x'?` for the most similar known name; empty if none is similar enough."""
    match = most_similar(name, known)
    return "" if match is None else f", did you mean '{match}'?"


def most_similar(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` is a misspelling or an abbreviation of; None if no name is similar enough.

    Case is ignored, and hyphens equal underscores. A misspelling keeps the first letter (or swaps the first two) and
    has few edits for its length, to avoid unrelated suggestions (`preset` for `reset`).
    """
    names = list(known)
    word = _normalized(name)
    distances = {item: distance for item in names if (distance := _distance(word, _normalized(item))) is not None}
    if distances:
        return min(distances, key=lambda item: (distances[item], item.casefold() != name.casefold()))
    longer = [item for item in names if len(word) >= _MIN_ABBREVIATION and _normalized(item).startswith(word)]
    if len(longer) == 1:
        return longer[0]
    shorter = [item for item in names if len(item) > _MIN_ABBREVIATION and word.startswith(_normalized(item))]
    return max(shorter, key=len, default=None)


def _normalized(name: str) -> str:
    return name.casefold().replace("-", "_")


def _distance(word: str, other: str) -> int | None:
    """Return the number of edits between dotted names; None if a part is not similar."""
    pairs = list(zip(word.split("."), other.split("."), strict=False))
    if word.count(".") != other.count("."):
        return None
    total = 0
    for part, target in pairs:
        limit = _allowed_edits(max(len(part), len(target)))
        if part != target and part[:1] != target[:1] and sorted(part[:2]) != sorted(target[:2]):
            return None
        if abs(len(part) - len(target)) > limit or (edits := _edits(part, target)) > limit:
            return None
        total += edits
    return total


def _allowed_edits(length: int) -> int:
    return 0 if length < 3 else 1 if length < 8 else 2 if length < 12 else 3


def _edits(word: str, other: str) -> int:
    """Return the optimal string alignment distance: insertions, deletions, substitutions, adjacent swaps."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(word, 1):
        before, last, row = row, before, [i]
        for j, target in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != target))
            if i > 1 and j > 1 and letter == other[j - 2] and word[i - 2] == target:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]


class Registry(Generic[Value]):
    """Named parts of one kind; unknown names raise with a suggestion.

    Args:
        kind: Kind of the parts for messages, such as "data set".
        *providers: Modules that register the built-in parts. They are imported when the registry is first read, so
            that a low layer can list names that a higher layer defines; they load no heavy library.
        library: Library whose names are accepted, too, without being registered.
        library_names: Module and function that returns these names, as "module:function"; may load the library.
    """

    def __init__(self, kind: str, *providers: str, library: str = "", library_names: str = "") -> None:
        self.kind, self.library = kind, library
        self._library_names = library_names
        self._providers = list(providers)
        self._values: dict[str, Value] = {}
        self._custom: set[str] = set()

    def register(self, name: str) -> Callable[[Value], Value]:
        """Return a decorator that registers its argument as the built-in part `name`.

        Raises:
            ConfigError: The name is taken.
        """

        def add(value: Value) -> Value:
            self._add(name, value)
            return value

        return add

    def add_custom(self, name: str, value: Value, *, replace: bool = False) -> None:
        """Register a part of the caller's, which child processes receive from this one.

        Args:
            name: Its name.
            value: The part.
            replace: Whether it may take the place of another part of the caller's with this name.

        Raises:
            ConfigError: A built-in part has this name, or another part has it and `replace` is false.
        """
        if replace and name in self._custom:
            del self._values[name]
        self._load()
        self._add(name, value)
        self._custom.add(name)

    @contextmanager
    def scoped(self, parts: Mapping[str, Value]) -> Iterator[None]:
        """Register parts of the caller's within the `with` block.

        Raises:
            ConfigError: A name is taken by another part.
        """
        self._load()
        added = {name: part for name, part in parts.items() if self._values.get(name) is not part}
        try:
            for name, part in added.items():
                self.add_custom(name, part)
            yield
        finally:
            for name, part in added.items():
                if self._values.get(name) is part:
                    del self._values[name]
                    self._custom.discard(name)

    def custom(self) -> dict[str, Value]:
        """Return the caller's parts by name."""
        return {name: self._values[name] for name in sorted(self._custom)}

    def _add(self, name: str, value: Value) -> None:
        if name in self._values:
            raise ConfigError(f"{self.kind} '{name}' is already registered: choose another name")
        self._values[name] = value

    def _load(self) -> None:
        while self._providers:  # emptied first: a provider may read the registry while it is imported
            importlib.import_module(self._providers.pop(0))

    def names(self) -> list[str]:
        """Return the names in the order in which the parts were registered."""
        self._load()
        return list(self._values)

    def names_of_library(self) -> list[str]:
        """Return the names that are accepted without being registered."""
        module, _, function = self._library_names.partition(":")
        return list(getattr(importlib.import_module(module), function)()) if module else []

    def unknown(self, name: str) -> str:
        """Return the error message for a name that is not registered."""
        return f"unknown {self.kind} '{name}'{did_you_mean(name, self)} (known: {', '.join(self)})"

    def __getitem__(self, name: str) -> Value:
        self._load()
        if name not in self._values:
            raise ConfigError(self.unknown(name))
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._values))

    def __len__(self) -> int:
        self._load()
        return len(self._values)


PARTS: Mapping[str, Registry[Any]] = {
    "network": Registry("network", "tercet.models.build"),
    "head": Registry("head", "tercet.models.heads"),
    "combiner": Registry("ensemble method", "tercet.ensemble.methods"),
    "dataset": Registry("data set", "tercet.data.datasets"),
    "metric": Registry("metric", "tercet.metrics.metric"),
    "augmentation": Registry("augmentation", "tercet.data.augmentations"),
    "loss": Registry("loss", "tercet.training.parts"),
    "optimizer": Registry(
        "optimizer",
        "tercet.training.parts",
        library="timm",
        library_names="tercet.training.optimizer:timm_optimizers",
    ),
    "schedule": Registry("schedule", "tercet.training.parts"),
    "callback": Registry("callback"),
    "command": Registry(
        "command", "tercet.cli.training", "tercet.cli.inference", "tercet.cli.deployment", "tercet.cli.completion"
    ),
}
"""The registry of each kind of part that can be added."""


def accepts(function: Callable[..., Any], argument: str) -> bool:
    """Return whether a function has a parameter of this name; `**kwargs` do not count."""
    try:
        return argument in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False


def register(kind: str, name: str, part: Any = None, *, replace: bool = False) -> Any:
    """Register a part under a name that options accept; without `part`, return a decorator.

    Args:
        kind: A key of `PARTS`, such as "head".
        name: The name.
        part: The part; docs/extending.md describes what each kind is.
        replace: Whether it may take the place of an earlier part of yours with this name.

    Raises:
        ConfigError: The kind is unknown, or the name is taken.
    """
    if kind not in PARTS:
        raise ConfigError(f"unknown kind of part '{kind}'{did_you_mean(kind, PARTS)} (known: {', '.join(PARTS)})")

    def add(value: Any) -> Any:
        PARTS[kind].add_custom(name, value, replace=replace)
        return value

    return add if part is None else add(part)
