"""Names that a user may write in a file, and what they stand for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from tercet.ground.errors import ConfigError

Value = TypeVar("Value")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean 'x'?` for the known name closest to `name`, whatever its case, or an empty string."""
    exact = list(known)
    close = difflib.get_close_matches(name, exact, n=1, cutoff=0.6)
    if not close:
        folded = {each.casefold(): each for each in exact}
        close = [folded[each] for each in difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)]
    return f", did you mean '{close[0]}'?" if close else ""


class Registry(Generic[Value]):
    """A table from names to values that refuses doubles and suggests the nearest name.

    Args:
        kind: What the values are, for messages ("data set", "combiner").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._values: dict[str, Value] = {}

    def register(self, name: str) -> Callable[[Value], Value]:
        """Return a decorator that enters its argument under `name`."""

        def enter(value: Value) -> Value:
            if name in self._values:
                raise ConfigError(f"{self.kind} '{name}' is registered twice")
            self._values[name] = value
            return value

        return enter

    def __getitem__(self, name: str) -> Value:
        if name not in self._values:
            known = ", ".join(self)
            raise ConfigError(f"unknown {self.kind} '{name}'{nearest(name, self)} (known: {known})")
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._values))

    def __len__(self) -> int:
        return len(self._values)
