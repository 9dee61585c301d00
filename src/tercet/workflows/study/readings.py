"""Scores and prediction files of the parts of a reproduction, by part and name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.evaluation.repeated import SeededComparison, compare_seeds
from tercet.evaluation.spread import spread_of
from tercet.ground.errors import ConfigError
from tercet.ground.registry import nearest
from tercet.records.predictions import Predictions
from tercet.records.recipe import METRICS, Pair, Reading
from tercet.workflows.compare.grid import member_name
from tercet.workflows.crossval.fold_runs import fold_folder
from tercet.workflows.report.record import CHOSEN
from tercet.workflows.study.parts import Work

FOLD = "fold "
"""What the name of a fold's reading begins with."""
FOLD_MEAN = "mean of the folds"
"""The reading of all folds' networks together on a test split that no fold held."""
_TITLES = {CHOSEN: "chosen", "best": "best_member"}  # readings of what validation found best, all told and alone


@dataclass(frozen=True)
class Measured:
    """One repetition of one thing that was measured."""

    scores: Mapping[str, Any]
    """By metric, those that there are; `n` images; `accuracy_low` and `accuracy_high`."""
    split: str
    """What it was measured on: test, validation, or held-out folds."""
    predictions: Path
    """Where they are stored."""


Measurements = Mapping[Reading, Sequence[Measured]]
"""By part and name, every repetition."""


def read_measurements(works: Sequence[Work]) -> dict[Reading, list[Measured]]:
    """Read what finished works measured; repetitions of a part stand together."""
    found: dict[Reading, list[Measured]] = {}
    for work in works:
        for name, measured in _READERS[work.part.verb](work, work.metrics()):
            found.setdefault(Reading(work.name, name), []).extend([] if measured is None else [measured])
    return found


def _of_run(work: Work, metrics: Mapping[str, Any]) -> Iterator[tuple[str, Measured | None]]:
    for one in (*metrics["members"], *metrics["ensembles"]):
        split = "test" if "test" in one else "validation"
        costs = {key: one.get(key) for key in METRICS if one.get(key) is not None}
        measured = Measured({**costs, **one[split]}, split, work.run.predictions(one["name"], split))
        yield one["name"], measured
        for title in (title for title, key in _TITLES.items() if one["name"] == metrics.get(key)):
            yield title, measured


def _of_comparison(work: Work, metrics: Mapping[str, Any]) -> Iterator[tuple[str, Measured | None]]:
    split = metrics["tested_on"]
    for network in metrics["networks"]:
        yield network["name"], None  # known, also where no training of it succeeded
        fixed = {key: network[key] for key in ("parameters", "flops") if network.get(key) is not None}
        for training in network.get("trainings", ()):
            costs = {key: training[key] for key in ("seconds", "seconds_per_epoch")}
            path = work.run.predictions(member_name(network["name"], training["seed"]), split)
            yield network["name"], Measured({**fixed, **costs, **training[split]}, split, path)


def _of_folds(work: Work, metrics: Mapping[str, Any]) -> Iterator[tuple[str, Measured | None]]:
    folders = {fold["name"]: fold_folder(work.run, number) for number, fold in enumerate(metrics["folds"], 1)}
    chosen = {"name": CHOSEN, "pooled": metrics["pooled"]}
    for one in (*metrics["members"], *metrics["ensembles"], chosen):
        costs = {key: one.get(key) for key in ("parameters", "seconds") if one.get(key) is not None}
        yield (
            one["name"],
            Measured({**costs, **one["pooled"]}, "held-out folds", work.run.predictions(one["name"], "pooled")),
        )
        for fold, scores in one.get("folds", {}).items():
            path = folders[fold].predictions(one["name"], "test")
            yield f"{FOLD}{fold}: {one['name']}", Measured(scores, "held-out fold", path)
    for fold in metrics["folds"]:
        path = folders[fold["name"]].predictions(fold["chosen"], "test")
        yield f"{FOLD}{fold['name']}", Measured(fold, "held-out fold", path)
    if metrics["test"]:
        yield FOLD_MEAN, Measured(metrics["test"], "test", work.run.predictions("fold-mean", "test"))


_READERS: Mapping[str, Callable[[Work, Mapping[str, Any]], Iterator[tuple[str, Measured | None]]]] = {
    "train": _of_run,
    "ensemble": _of_run,
    "compare": _of_comparison,
    "crossval": _of_folds,
}


def find(reading: Reading, measurements: Measurements) -> Sequence[Measured]:
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
            f"part {reading.part} measured nothing called '{reading.name}'{nearest(reading.name, names)} "
            f"({', '.join(names)})"
        )
    return found or ()


def _rests_with_data(name: str, names: Sequence[str]) -> bool:
    """Tell whether a reading that a cross-validation has not may be missing for its data alone."""
    folds = {other for other in names if other.startswith(FOLD)}
    title = name.partition(": ")[0]
    return bool(folds) and (name == FOLD_MEAN or (title.startswith(FOLD) and title not in folds))


def summary(repetitions: Sequence[Measured], metric: str) -> dict[str, Any] | None:
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


def compare_readings(pair: Pair, measurements: Measurements) -> SeededComparison | None:
    """Compare two readings on the images of both; None where one of them has not been measured.

    A reading that was measured once stands beside every repetition of the other.
    """
    a, b = (find(reading, measurements) for reading in (pair.a, pair.b))
    if not a or not b:
        return None
    count = max(len(a), len(b))
    said = [[Predictions.load(one.predictions) for one in side] for side in (a, b)]
    first, second = (side * count if len(side) == 1 else side for side in said)
    return compare_seeds(first[:count], second[:count])
