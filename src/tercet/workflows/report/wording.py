"""Numbers as a page tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ABSENT = "-"


def number(value: float | None, digits: int = 4) -> str:
    """Return a score, or a dash where there is none."""
    return ABSENT if value is None else f"{value:.{digits}f}"


def mean_sd(value: Mapping[str, Any] | None, digits: int = 4) -> str:
    """Return mean and standard deviation, as far as there are."""
    if value is None:
        return ABSENT
    return number(value["mean"], digits) + ("" if value["sd"] is None else f" ± {number(value['sd'], digits)}")


def interval(scores: Mapping[str, Any], name: str = "accuracy") -> str:
    """Return the 95 % interval of a score."""
    low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
    return ABSENT if low is None or high is None else f"{low:.3f} to {high:.3f}"


def points(found: Mapping[str, Any]) -> tuple[str, str]:
    """Return a difference of accuracies in points, and its interval."""
    return f"{100 * found['difference']:+.2f}", f"{100 * found['low']:+.2f} to {100 * found['high']:+.2f}"


def chance(p_value: float) -> str:
    """Return a p-value."""
    return "< 0.0001" if p_value < 0.0001 else f"{p_value:.2g}"


def duration(seconds: float | None) -> str:
    """Return a time in the unit that suits it."""
    if seconds is None:
        return ABSENT
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def count(value: int, what: str) -> str:
    """Return how many there are of something, in the singular for one."""
    return f"{value:,} {what}{'' if value == 1 else 'es' if what.endswith('s') else 's'}"
