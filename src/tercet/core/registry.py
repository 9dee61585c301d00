"""Registries of named parts, and suggestions for misspelled names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

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
    """Mapping from unique names to values; unknown names raise with a suggestion.

    Args:
        kind: Kind of the values for messages, such as "data set".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._values: dict[str, Value] = {}

    def register(self, name: str) -> Callable[[Value], Value]:
        """Return a decorator that registers its argument as `name`."""

        def add(value: Value) -> Value:
            if name in self._values:
                raise ConfigError(f"{self.kind} '{name}' is registered twice")
            self._values[name] = value
            return value

        return add

    def __getitem__(self, name: str) -> Value:
        if name not in self._values:
            known = ", ".join(self)
            raise ConfigError(f"unknown {self.kind} '{name}'{did_you_mean(name, self)} (known: {known})")
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._values))

    def __len__(self) -> int:
        return len(self._values)
