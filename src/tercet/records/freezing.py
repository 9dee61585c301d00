"""Which parts of a network stay as they are: an ordered table of name patterns, the first that matches wins.

A pattern is a glob over the dotted names of parameters and running statistics, as `tercet models NAME` lists their
parts; `*` also stands for dots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tercet.ground.errors import ConfigError
from tercet.ground.registry import nearest


@dataclass(frozen=True)
class FreezeRule:
    """One line of the table."""

    pattern: str
    """Glob over names such as `features.network.layer4.0.conv1.weight`."""
    frozen: bool
    """Whether what it matches stays bit-identical; else it is open: it learns."""

    @property
    def state(self) -> str:
        """The state in words."""
        return "frozen" if self.frozen else "open"


FREEZE_PRESETS: dict[str, tuple[FreezeRule, ...]] = {
    "none": (FreezeRule("*", False),),
    "backbone": (FreezeRule("features.*", True), FreezeRule("*", False)),
    "all-but-last": (FreezeRule("head.classes*", False), FreezeRule("*", True)),
}
"""The tables that have names: nothing is frozen, all before recurrent module and head, all but the last layer."""


def read_rules(freeze: Sequence[Any]) -> tuple[FreezeRule, ...]:
    """Return the table that the option `freeze` stands for.

    Args:
        freeze: Names of presets, texts `PATTERN: frozen` or `PATTERN: open`, or mappings from patterns to these words;
            in their order.

    Raises:
        ConfigError: An element is none of these, or there is none.
    """
    rules = tuple(rule for element in freeze for rule in _read(element))
    if not rules:
        raise ConfigError("freeze is empty: give none, or PATTERN: frozen|open")
    return rules


def _read(element: Any) -> Iterator[FreezeRule]:
    if isinstance(element, Mapping):
        for pattern, state in element.items():
            yield _rule(pattern, state)
    elif isinstance(element, str) and element in FREEZE_PRESETS:
        yield from FREEZE_PRESETS[element]
    elif isinstance(element, str) and ":" in element:
        pattern, _, state = element.rpartition(":")
        yield _rule(pattern.strip(), state.strip())
    else:
        hint = nearest(element, FREEZE_PRESETS) if isinstance(element, str) else ""
        raise ConfigError(
            f"freeze: expected {', '.join(FREEZE_PRESETS)} or PATTERN: frozen|open, got {element!r}{hint}"
        )


def _rule(pattern: Any, state: Any) -> FreezeRule:
    if not isinstance(pattern, str) or not pattern or state not in ("frozen", "open"):
        raise ConfigError(f"freeze: expected PATTERN: frozen|open, got '{pattern}: {state}'")
    return FreezeRule(pattern, state == "frozen")
