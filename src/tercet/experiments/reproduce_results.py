"""Published and measured results side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from tercet.config.recipe import METRICS, PublishedPair, Recipe, ResultSource, Scale
from tercet.core.errors import ConfigError
from tercet.core.files import csv_text
from tercet.core.predictions import Predictions
from tercet.core.registry import did_you_mean
from tercet.core.streams import printable
from tercet.core.untrusted_files import escape_formula
from tercet.data.run_reader import CHOSEN
from tercet.experiments.compare_grid import member_name
from tercet.experiments.fold_runs import fold_folder
from tercet.experiments.reproduce_steps import StepResult
from tercet.metrics.seed_comparison import SeededComparison, compare_seeds
from tercet.metrics.tables import as_text, plain_table, short_count, spread_of

FOLD = "fold "
"""What the name of a fold's reading begins with."""
FOLD_MEAN = "mean of the folds"
"""The reading of all folds' networks together on a test split that no fold held."""
_TITLES = {CHOSEN: "chosen", "best": "best_member"}  # readings of what validation found best, all told and alone


@dataclass(frozen=True)
class MeasuredResult:
    """One repetition of one thing that was measured."""

    scores: Mapping[str, Any]
    """By metric, those that there are; `n` images; `accuracy_low` and `accuracy_high`."""
    split: str
    """What it was measured on: test, validation, or held-out folds."""
    predictions: Path
    """Where they are stored."""


Measurements = Mapping[ResultSource, Sequence[MeasuredResult]]
"""By part and name, every repetition."""


def read_measurements(works: Sequence[StepResult]) -> dict[ResultSource, list[MeasuredResult]]:
    """Read what finished works measured; repetitions of a part stand together."""
    found: dict[ResultSource, list[MeasuredResult]] = {}
    for work in works:
        for name, measured in _READERS[work.part.command](work, work.metrics()):
            found.setdefault(ResultSource(work.name, name), []).extend([] if measured is None else [measured])
    return found


def _of_run(work: StepResult, metrics: Mapping[str, Any]) -> Iterator[tuple[str, MeasuredResult | None]]:
    for one in (*metrics["members"], *metrics["ensembles"]):
        split = "test" if "test" in one else "validation"
        costs = {key: one.get(key) for key in METRICS if one.get(key) is not None}
        measured = MeasuredResult({**costs, **one[split]}, split, work.run.predictions(one["name"], split))
        yield one["name"], measured
        for title in (title for title, key in _TITLES.items() if one["name"] == metrics.get(key)):
            yield title, measured


def _of_comparison(work: StepResult, metrics: Mapping[str, Any]) -> Iterator[tuple[str, MeasuredResult | None]]:
    split = metrics["tested_on"]
    for network in metrics["networks"]:
        yield network["name"], None  # known, also where no training of it succeeded
        fixed = {key: network[key] for key in ("parameters", "flops") if network.get(key) is not None}
        for training in network.get("trainings", ()):
            costs = {key: training[key] for key in ("seconds", "seconds_per_epoch")}
            path = work.run.predictions(member_name(network["name"], training["seed"]), split)
            yield network["name"], MeasuredResult({**fixed, **costs, **training[split]}, split, path)


def _of_folds(work: StepResult, metrics: Mapping[str, Any]) -> Iterator[tuple[str, MeasuredResult | None]]:
    folders = {fold["name"]: fold_folder(work.run, number) for number, fold in enumerate(metrics["folds"], 1)}
    chosen = {"name": CHOSEN, "pooled": metrics["pooled"]}
    for one in (*metrics["members"], *metrics["ensembles"], chosen):
        costs = {key: one.get(key) for key in ("parameters", "seconds") if one.get(key) is not None}
        yield (
            one["name"],
            MeasuredResult({**costs, **one["pooled"]}, "held-out folds", work.run.predictions(one["name"], "pooled")),
        )
        for fold, scores in one.get("folds", {}).items():
            path = folders[fold].predictions(one["name"], "test")
            yield f"{FOLD}{fold}: {one['name']}", MeasuredResult(scores, "held-out fold", path)
    for fold in metrics["folds"]:
        path = folders[fold["name"]].predictions(fold["chosen"], "test")
        yield f"{FOLD}{fold['name']}", MeasuredResult(fold, "held-out fold", path)
    if metrics["test"]:
        yield FOLD_MEAN, MeasuredResult(metrics["test"], "test", work.run.predictions("fold-mean", "test"))


_READERS: Mapping[str, Callable[[StepResult, Mapping[str, Any]], Iterator[tuple[str, MeasuredResult | None]]]] = {
    "train": _of_run,
    "ensemble": _of_run,
    "compare": _of_comparison,
    "crossval": _of_folds,
}


def find_measurement(reading: ResultSource, measurements: Measurements) -> Sequence[MeasuredResult]:
    """Return the repetitions of a reading; none where its part has not been run, or failed.

    Folds are named after the data's groups, and their mean needs a test split with labels: there are none where other
    images, or images without labels, take the place of the recipe's.

    Raises:
        ConfigError: The part was run, and measured nothing of that name.
    """
    found = measurements.get(reading)
    names = [other.name for other in measurements if other.part == reading.part]
    if found is None and names and not _rests_with_data(reading.name, names):
        raise ConfigError(
            f"part {reading.part} measured nothing called '{reading.name}'{did_you_mean(reading.name, names)} "
            f"({', '.join(names)})"
        )
    return found or ()


def _rests_with_data(name: str, names: Sequence[str]) -> bool:
    """Tell whether a reading that a cross-validation has not may be missing for its data alone."""
    folds = {other for other in names if other.startswith(FOLD)}
    title = name.partition(": ")[0]
    return bool(folds) and (name == FOLD_MEAN or (title.startswith(FOLD) and title not in folds))


def summary(repetitions: Sequence[MeasuredResult], metric: str) -> dict[str, Any] | None:
    """Return `mean`, `sd` and `n` of a metric, the interval of a single accuracy, and the images; None for none."""
    values = [float(one.scores[metric]) for one in repetitions if one.scores.get(metric) is not None]
    found = spread_of(values)
    if found is None:
        return None
    single = repetitions[0].scores if len(values) == 1 and metric == "accuracy" else {}
    return {
        **found,
        "low": single.get("accuracy_low"),
        "high": single.get("accuracy_high"),
        "images": repetitions[0].scores.get("n"),
        "split": repetitions[0].split,
    }


def compare_readings(pair: PublishedPair, measurements: Measurements) -> SeededComparison | None:
    """Compare two readings on the images of both; None where one of them has not been measured.

    A reading that was measured once stands beside every repetition of the other.
    """
    a, b = (find_measurement(reading, measurements) for reading in (pair.a, pair.b))
    if not a or not b:
        return None
    count = max(len(a), len(b))
    said = [[Predictions.load(one.predictions) for one in side] for side in (a, b)]
    first, second = (side * count if len(side) == 1 else side for side in said)
    return compare_seeds(first[:count], second[:count])


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
        reading = row.result_source(scale)
        if reading is None and row.published is None:
            continue
        found = summary(find_measurement(reading, measurements), row.metric) if reading else None
        if found and reading and row.per is not None:
            found = _ratio(
                found, summary(find_measurement(ResultSource(reading.part, row.per), measurements), row.metric)
            )
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


def all_results(measurements: Measurements) -> list[dict[str, Any]]:
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
    cells = ([escape_formula(row[key]) if isinstance(row[key], str) else row[key] for key in _COLUMNS] for row in rows)
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
