"""The table of a reproduction: published numbers and measured ones side by side, as values, text and CSV."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from tercet.evaluation.report import as_text, plain_table, short_count
from tercet.ground.files import csv_text
from tercet.ground.streams import printable
from tercet.records.foreign_files import guarded
from tercet.records.recipe import Reading, Recipe, Scale
from tercet.workflows.study.readings import Measurements, compare_readings, find, summary

_COLUMNS = (
    "what", "metric", "published", "source", "measured", "sd", "n", "low", "high", "images", "split", "difference",
    "reading",
)  # fmt: skip


def table_rows(recipe: Recipe, scale: Scale, measurements: Measurements) -> list[dict[str, Any]]:
    """Return the rows of the recipe that this scale measures, or that the source has a number for.

    Args:
        recipe: The recipe.
        scale: Which of its settings was run.
        measurements: What was measured.
    """
    rows = []
    for row in recipe.rows:
        reading = row.reading(scale)
        if reading is None and row.published is None:
            continue
        found = summary(find(reading, measurements), row.metric) if reading else None
        if found and reading and row.per is not None:
            found = _ratio(found, summary(find(Reading(reading.part, row.per), measurements), row.metric))
        number = row.published if isinstance(row.published, int | float) else None
        rows.append(
            {
                "what": row.what,
                "metric": row.metric if row.per is None else f"{row.metric}, ratio",
                "published": row.published,
                "source": row.source,
                "measured": found and found["mean"],
                **{key: found[key] if found else None for key in ("sd", "n", "low", "high", "images", "split")},
                "difference": found["mean"] - number if found and number is not None else None,
                "reading": str(reading) if reading else None,
            }
        )
    return rows


def pair_rows(recipe: Recipe, scale: Scale, measurements: Measurements) -> list[dict[str, Any]]:
    """Return the tests that the recipe asks for, as far as both sides have been measured."""
    rows = []
    for pair in recipe.scales[scale].pairs:
        found = compare_readings(pair, measurements)
        if found is not None:
            rows.append({"what": pair.what, "a": str(pair.a), "b": str(pair.b), **found.to_dict()})
    return rows


def everything(measurements: Measurements) -> list[dict[str, Any]]:
    """Return all that was measured, in a recipe's table or not."""
    rows = []
    for reading, repetitions in measurements.items():
        scores = {
            metric: found
            for metric in ("accuracy", "macro_f1", "kappa", "log_loss", "ece", "parameters", "flops", "seconds")
            if (found := summary(repetitions, metric)) is not None
        }
        rows.append({"part": reading.part, "name": reading.name, **scores})
    return rows


def table_text(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table for people."""
    table = plain_table(title)
    table.add_column("what", overflow="fold")
    for header in ("published", "measured", "±", "n", "difference"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        spread = "" if row["sd"] is None else _number(row["sd"], row)
        if row["low"] is not None:
            spread = f"{row['low']:.3f}-{row['high']:.3f}"
        metric = "" if row["metric"] in ("accuracy", "parameters", "flops") else f" ({row['metric']})"
        what = row["what"] if row["metric"].endswith("ratio") else f"{row['what']}{metric}"
        difference = "" if row["difference"] is None else _number(row["difference"], row, signed=True)
        table.add_row(
            Text(printable(what)),
            Text(printable(_number(row["published"], row))),
            _number(row["measured"], row),
            spread,
            "" if row["n"] is None else str(row["n"]),
            difference,
        )
    return as_text(table)


def pairs_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the tests as paragraphs; none where there are none."""
    return "\n".join(
        filled(
            f"{row['what']}: {100 * row['difference']:+.2f} points ({100 * row['low']:+.2f} to "
            f"{100 * row['high']:+.2f}), p = {row['p_value']:.2g} ({row['test']}; {row['n']} images, "
            f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''})"
        )
        for row in rows
    )


def filled(line: str) -> str:
    """Return a line as a paragraph of 80 columns, its later lines indented."""
    return textwrap.fill(printable(line), 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def table_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as CSV."""
    cells = ([guarded(row[key]) if isinstance(row[key], str) else row[key] for key in _COLUMNS] for row in rows)
    return csv_text([_COLUMNS, *cells])


def _ratio(found: Mapping[str, Any], base: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a mean divided by another; its spread is left out, as the two were measured apart."""
    if base is None or not base["mean"]:
        return None
    return {**found, "mean": found["mean"] / base["mean"], "sd": None, "low": None, "high": None}


def _number(value: Any, row: Mapping[str, Any], *, signed: bool = False) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if row["metric"] in ("parameters", "flops"):
        return f"{value:+,.0f}" if signed else short_count(int(value)) if value >= 1e6 else f"{value:,.0f}"
    size = next((row[key] for key in ("measured", "published") if isinstance(row[key], int | float)), value)
    digits = 4 if abs(size) < 1.5 and "seconds" not in row["metric"] else 2
    return f"{value:{'+' if signed else ''}.{digits}f}"
