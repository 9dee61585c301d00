"""Published and measured results side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.config.recipe import COSTS, PublishedPair, Recipe, ResultSource, Scale
from tercet.core.errors import ConfigError
from tercet.core.files import csv_text
from tercet.core.output import printable
from tercet.core.predictions import Predictions
from tercet.core.registry import did_you_mean
from tercet.core.untrusted_files import escape_formula
from tercet.data.run_reader import CHOSEN
from tercet.ensemble.combiners import FOLD_MEAN
from tercet.experiments.compare_grid import member_name
from tercet.experiments.fold_runs import fold_folder
from tercet.experiments.reproduce_steps import StepRun
from tercet.metrics.metric import Detail, metric_names, spread_of
from tercet.metrics.run_tables import published_table
from tercet.metrics.significance import SeededComparison, compare_seeds

FOLD = "fold "
"""Prefix of the names of single folds' results."""
_SELECTED = {CHOSEN: "chosen", "best": "best_member"}  # result name -> key of metrics.json with the selected name


@dataclass(frozen=True)
class MeasuredResult:
    """Result of one repetition."""

    scores: Mapping[str, Any]
    """By metric; also `n` (images), `accuracy_low` and `accuracy_high`."""
    split: str
    """test, validation, held-out folds or held-out fold."""
    predictions: Path
    """File of the predictions."""


Measurements = Mapping[ResultSource, Sequence[MeasuredResult]]
"""All repetitions by step and name."""
_Results = Iterator[tuple[str, MeasuredResult | None]]


def read_measurements(runs: Sequence[StepRun]) -> dict[ResultSource, list[MeasuredResult]]:
    """Read the results of finished runs, the repetitions of a step together."""
    measurements: dict[ResultSource, list[MeasuredResult]] = {}
    for run in runs:
        for name, result in _READERS[run.step.command](run, run.metrics()):
            measurements.setdefault(ResultSource(run.name, name), []).extend([] if result is None else [result])
    return measurements


def _of_run(run: StepRun, metrics: Mapping[str, Any]) -> _Results:
    for row in (*metrics["members"], *metrics["ensembles"]):
        split = "test" if "test" in row else "validation"
        costs = {key: row.get(key) for key in COSTS if row.get(key) is not None}
        result = MeasuredResult({**costs, **row[split]}, split, run.run.predictions(row["name"], split))
        yield row["name"], result
        for name in (name for name, key in _SELECTED.items() if row["name"] == metrics.get(key)):
            yield name, result


def _of_comparison(run: StepRun, metrics: Mapping[str, Any]) -> _Results:
    split = metrics["tested_on"]
    for network in metrics["networks"]:
        yield network["name"], None  # a known name, even if all trainings failed
        costs = {key: network[key] for key in ("parameters", "flops") if network.get(key) is not None}
        for training in network.get("trainings", ()):
            times = {key: training[key] for key in ("seconds", "seconds_per_epoch")}
            path = run.run.predictions(member_name(network["name"], training["seed"]), split)
            yield network["name"], MeasuredResult({**costs, **times, **training[split]}, split, path)


def _of_folds(run: StepRun, metrics: Mapping[str, Any]) -> _Results:
    folders = {fold["name"]: fold_folder(run.run, number) for number, fold in enumerate(metrics["folds"], 1)}
    chosen = {"name": CHOSEN, "pooled": metrics["pooled"]}
    for row in (*metrics["members"], *metrics["ensembles"], chosen):
        name = row["name"]
        costs = {key: row.get(key) for key in ("parameters", "seconds") if row.get(key) is not None}
        path = run.run.predictions(name, "pooled")
        yield name, MeasuredResult({**costs, **row["pooled"]}, "held-out folds", path)
        for fold, scores in row.get("folds", {}).items():
            yield (
                f"{FOLD}{fold}: {name}",
                MeasuredResult(scores, "held-out fold", folders[fold].predictions(name, "test")),
            )
    for fold in metrics["folds"]:
        path = folders[fold["name"]].predictions(fold["chosen"], "test")
        yield f"{FOLD}{fold['name']}", MeasuredResult(fold, "held-out fold", path)
    if metrics["test"]:
        yield FOLD_MEAN, MeasuredResult(metrics["test"], "test", run.run.predictions(FOLD_MEAN, "test"))


_READERS: Mapping[str, Callable[[StepRun, Mapping[str, Any]], _Results]] = {
    "train": _of_run,
    "ensemble": _of_run,
    "compare": _of_comparison,
    "crossval": _of_folds,
}


def find_measurement(source: ResultSource, measurements: Measurements) -> Sequence[MeasuredResult]:
    """Return the repetitions of a result; empty if its step has not been run, or failed.

    Results of folds may be missing: folds are named after the groups of the data, and their mean needs a labelled test
    split, which replacement images may not have.

    Raises:
        ConfigError: The step was run and has no result of that name.
    """
    results = measurements.get(source)
    names = [other.name for other in measurements if other.step == source.step]
    if results is None and names and not _depends_on_data(source.name, names):
        raise ConfigError(
            f"step {source.step} has no result '{source.name}'{did_you_mean(source.name, names)} ({', '.join(names)})"
        )
    return results or ()


def _depends_on_data(name: str, names: Sequence[str]) -> bool:
    """Return whether a result can be missing from a cross-validation because of its data."""
    folds = {other for other in names if other.startswith(FOLD)}
    fold = name.partition(": ")[0]
    return bool(folds) and (name == FOLD_MEAN or (fold.startswith(FOLD) and fold not in folds))


def aggregate(repetitions: Sequence[MeasuredResult], metric: str) -> dict[str, Any] | None:
    """Return mean, sd, n, number of images and split of a metric; with one repetition also the accuracy's interval."""
    values = [float(result.scores[metric]) for result in repetitions if result.scores.get(metric) is not None]
    spread = spread_of(values)
    if spread is None:
        return None
    single = repetitions[0].scores if len(values) == 1 and metric == "accuracy" else {}
    return {
        **spread,
        "low": single.get("accuracy_low"),
        "high": single.get("accuracy_high"),
        "images": repetitions[0].scores.get("n"),
        "split": repetitions[0].split,
    }


def compare_pair(pair: PublishedPair, measurements: Measurements) -> SeededComparison | None:
    """Compare two results on their common images; None if one has not been measured.

    A result without repetitions is paired with every repetition of the other.
    """
    a, b = (find_measurement(source, measurements) for source in (pair.a, pair.b))
    if not a or not b:
        return None
    count = max(len(a), len(b))
    sides = [[Predictions.load(result.predictions) for result in results] for results in (a, b)]
    first, second = (side * count if len(side) == 1 else side for side in sides)
    return compare_seeds(first[:count], second[:count])


_COLUMNS = (
    "what", "metric", "published", "source", "measured", "sd", "n", "low", "high", "images", "split", "data",
    "difference", "result",
)  # fmt: skip


def table_rows(
    recipe: Recipe, scale: Scale, measurements: Measurements, *, replaced: str | None = None
) -> list[dict[str, Any]]:
    """Return the rows of the recipe that have a measured result at this scale, or a published number.

    Args:
        recipe: The recipe.
        scale: The scale.
        measurements: Results.
        replaced: Images that replace those of the recipe; a result on them has no difference from a published number.
    """
    rows, setting = [], recipe.scales[scale]
    for row in recipe.rows:
        source = row.result_source(scale)
        if source is None and row.published is None:
            continue
        result = aggregate(find_measurement(source, measurements), row.metric) if source else None
        if result and source and row.per is not None:
            base = find_measurement(ResultSource(source.step, row.per), measurements)
            result = _ratio(result, aggregate(base, row.metric))
        number = row.published if isinstance(row.published, int | float) else None
        data = (replaced or setting.steps[source.step].data or setting.data) if result and source else None
        rows.append(
            {
                "what": row.what,
                "metric": row.metric if row.per is None else f"{row.metric}, ratio",
                "published": row.published,
                "source": row.source,
                "measured": result and result["mean"],
                **{key: result[key] if result else None for key in ("sd", "n", "low", "high", "images", "split")},
                "data": None if data is None else Path(data).name,
                "difference": result["mean"] - number if result and number is not None and replaced is None else None,
                "result": str(source) if source else None,
            }
        )
    return rows


def pair_rows(recipe: Recipe, scale: Scale, measurements: Measurements) -> list[dict[str, Any]]:
    """Return the recipe's paired tests for which both results have been measured."""
    rows = []
    for pair in recipe.scales[scale].pairs:
        comparison = compare_pair(pair, measurements)
        if comparison is not None:
            rows.append({"what": pair.what, "a": str(pair.a), "b": str(pair.b), **comparison.to_dict()})
    return rows


def all_results(measurements: Measurements) -> list[dict[str, Any]]:
    """Return all measured results, including those that are not in the recipe's table."""
    metrics = [*metric_names("single", Detail.RESULTS), "parameters", "flops", "seconds"]
    rows = []
    for source, repetitions in measurements.items():
        scores = {metric: value for metric in metrics if (value := aggregate(repetitions, metric)) is not None}
        rows.append({"step": source.step, "name": source.name, **scores})
    return rows


def table_text(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as text."""
    return published_table(rows, title=title).to_text()


def pairs_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the paired tests as text, one paragraph per test."""
    return "\n".join(
        wrap(
            f"{row['what']}: {100 * row['difference']:+.2f} points ({100 * row['low']:+.2f} to "
            f"{100 * row['high']:+.2f}), p = {row['p_value']:.2g} ({row['test']}; {row['n']} images, "
            f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''})"
        )
        for row in rows
    )


def wrap(line: str) -> str:
    """Wrap a line at 80 columns with a hanging indent."""
    return textwrap.fill(printable(line), 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def table_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as CSV."""
    cells = ([escape_formula(row[key]) if isinstance(row[key], str) else row[key] for key in _COLUMNS] for row in rows)
    return csv_text([_COLUMNS, *cells])


def _ratio(result: Mapping[str, Any], base: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the ratio of two means, without a spread: the two were measured independently."""
    if base is None or not base["mean"]:
        return None
    return {**result, "mean": result["mean"] / base["mean"], "sd": None, "low": None, "high": None}
