"""Numbers as text, for tables and reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MISSING = "-"
_COUNTS = ("parameters", "flops")


def number(value: float | None, spec: str = ".4f") -> str:
    """Format a score."""
    return MISSING if value is None else f"{value:{spec}}"


def mean_sd(value: Mapping[str, Any] | None, spec: str = ".4f", separator: str = " ± ") -> str:
    """Format mean and, if known, standard deviation."""
    if value is None:
        return MISSING
    return number(value["mean"], spec) + ("" if value["sd"] is None else f"{separator}{value['sd']:{spec}}")


def interval(scores: Mapping[str, Any], name: str = "accuracy", separator: str = " to ") -> str:
    """Format the 95 % interval of a score."""
    low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
    return MISSING if low is None or high is None else f"{low:.3f}{separator}{high:.3f}"


def points(comparison: Mapping[str, Any], separator: str = " to ") -> tuple[str, str]:
    """Format a difference of accuracies in percentage points, and its interval."""
    low, high = 100 * comparison["low"], 100 * comparison["high"]
    return f"{100 * comparison['difference']:+.2f}", f"{low:+.2f}{separator}{high:+.2f}"


def p_value_text(p_value: float) -> str:
    """Format a p-value."""
    return "< 0.0001" if p_value < 0.0001 else f"{p_value:.2g}"


def duration(seconds: float | None) -> str:
    """Format a time in seconds, minutes or hours."""
    if seconds is None:
        return MISSING
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def sentence_case(text: str) -> str:
    """Return the text with a capital first letter."""
    return text[:1].upper() + text[1:]


def count(value: int, noun: str) -> str:
    """Return a number with its noun in singular or plural."""
    return f"{value:,} {noun}{'' if value == 1 else 'es' if noun.endswith('s') else 's'}"


def short_count(value: int | None) -> str:
    """Return a count in at most five characters, such as 216k or 51.3M."""
    if value is None:
        return MISSING
    for unit, size in (("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)):
        # 999,950 would be 1000.0k: the next unit starts a little earlier
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 99.95 else f"{scaled:.1f}{unit}"
    return str(value)


def result_text(value: Any, row: Mapping[str, Any], *, signed: bool = False) -> str:
    """Format a value of a row of published and measured results; published text is returned as it is."""
    if value is None or isinstance(value, str):
        return value or MISSING
    if row["metric"] in _COUNTS:
        return f"{value:+,.0f}" if signed else short_count(int(value)) if value >= 1e6 else f"{value:,.0f}"
    sizes = [abs(row[key]) for key in ("measured", "published") if isinstance(row[key], int | float)]
    digits = 4 if max(sizes, default=0) < 1.5 and "seconds" not in row["metric"] else 2
    return f"{value:{'+' if signed else ''}.{digits}f}"
