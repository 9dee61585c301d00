"""Held-out predictions of all folds pooled, and predictions of the folds' average on images that no fold used.

Every held-out row is predicted once, by networks trained without it and an ensemble chosen without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tercet.core.files import read_json
from tercet.core.predictions import Predictions, concatenate
from tercet.data.data_module import DataModule
from tercet.data.image_store import open_cache
from tercet.data.run_reader import CHOSEN
from tercet.data.table import load_samples
from tercet.ensemble.bundle import Bundle, Member, load_bundle
from tercet.ensemble.combiners import FOLD_MEAN, FoldCombiner, FoldMean
from tercet.experiments.fold_runs import FoldRun, FoldRuns
from tercet.experiments.frozen import RunFeatures, predict_members, sum_counts
from tercet.metrics.classification import score
from tercet.metrics.metric import Scores, fold_spread


@dataclass(frozen=True)
class PooledResult:
    """Held-out predictions of a member, an ensemble method, or each fold's chosen model."""

    name: str
    """Name in tables and files."""
    kind: str
    """member or ensemble."""
    by_fold: Mapping[str, Predictions]
    """By fold, for the folds that have it."""
    seconds: float | None = None
    """Training time of all folds in seconds."""
    parameters: int | None = None
    """Largest number of parameters of all folds."""

    @cached_property
    def pooled(self) -> Predictions:
        """The rows of all folds."""
        return concatenate(list(self.by_fold.values()))

    @cached_property
    def overall(self) -> Scores:
        """Scores of the rows of all folds."""
        return score(self.pooled)

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Scores per fold."""
        return {fold: score(predictions) for fold, predictions in self.by_fold.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "name": self.name,
            "seconds": self.seconds,
            "parameters": self.parameters,
            "pooled": self.overall,
            **fold_spread(list(self.scores.values())),
            "folds": self.scores,
        }


@dataclass(frozen=True)
class PooledResults:
    """Predictions of all folds, and their average as a bundle."""

    runs: FoldRuns
    fold_metrics: Mapping[str, Any]
    """Content of `metrics.json` by fold."""
    members: tuple[PooledResult, ...]
    ensembles: tuple[PooledResult, ...]
    """One per ensemble method; a fold with a single member contributes that member."""
    chosen: PooledResult
    """Each fold's chosen model."""
    best: PooledResult
    """Each fold's best member."""
    data: DataModule
    """All samples and images."""
    bundle: Bundle
    """Average of the folds' chosen models."""
    test: Mapping[str, Predictions]
    """Predictions of the data's test split by fold and by their average; empty without a test split."""
    validation: Predictions | None
    """Predictions by their average of the images set aside for calibration; None without such images."""
    features: Mapping[str, int]
    """Numbers of computed and reused features."""


def pool(runs: FoldRuns) -> PooledResults:
    """Read the results of the finished folds, and predict the images that no fold used with their average."""
    fold_metrics = {fold.name: read_json(fold.run.metrics) for fold in runs.folds}
    table = load_samples(runs.root.samples, name=Path(runs.plan.data).name, classes=runs.plan.classes)
    data = DataModule(table, open_cache(runs.root.images), fingerprint=runs.plan.fingerprint)
    bundle = fold_mean(runs)
    features = RunFeatures.of(runs.plan, data, runs.folds[0].run)
    return PooledResults(
        runs,
        fold_metrics,
        _results(runs, fold_metrics, "member"),
        _results(runs, fold_metrics, "ensemble"),
        _selected(runs, fold_metrics, CHOSEN, "chosen"),
        _selected(runs, fold_metrics, "best member", "best_member"),
        data,
        bundle,
        _predict(runs, bundle, data, "test", features),
        _predict(runs, bundle, data, "validation", features).get(FOLD_MEAN),
        sum_counts([features.images.cache.counts, *(fold.get("features", {}) for fold in fold_metrics.values())]),
    )


def fold_mean(runs: FoldRuns) -> Bundle:
    """Return the average of the folds' bundles as one bundle."""
    members: list[Member] = []
    combiners: list[FoldCombiner] = []
    for fold in runs.folds:
        bundle = load_bundle(fold.run.bundle)
        members += [replace(member, name=f"{fold.name}/{member.name}") for member in bundle.members]
        combiners.append(FoldCombiner(len(bundle.members), bundle.combiner))  # type: ignore[arg-type]  # never FoldMean
    return Bundle(runs.plan.classes, tuple(members), FoldMean(tuple(combiners)))


def _predict(
    runs: FoldRuns, bundle: Bundle, data: DataModule, split: str, features: RunFeatures
) -> dict[str, Predictions]:
    """Return the predictions of a split by fold and by their average."""
    rows = data.rows(split)
    if not len(rows):
        return {}
    members = predict_members(bundle.members, runs.plan, data, rows, features)
    assert isinstance(bundle.combiner, FoldMean)
    by_fold = dict(zip((fold.title for fold in runs.folds), bundle.combiner.fold_predictions(members), strict=True))
    return {**by_fold, FOLD_MEAN: bundle.combine(members)}


def _held_out(fold: FoldRun, name: str) -> Predictions:
    return Predictions.load(fold.run.predictions(name, "test"))


def _results(runs: FoldRuns, fold_metrics: Mapping[str, Any], kind: str) -> tuple[PooledResult, ...]:
    key = "members" if kind == "member" else "ensembles"
    rows = {fold.name: {row["name"]: row for row in fold_metrics[fold.name][key]} for fold in runs.folds}
    results = []
    for name in dict.fromkeys(name for fold_rows in rows.values() for name in fold_rows):
        by_fold = {}
        for fold in runs.folds:
            if name in rows[fold.name]:
                by_fold[fold.name] = _held_out(fold, name)
            elif kind == "ensemble":
                by_fold[fold.name] = _held_out(fold, fold_metrics[fold.name]["chosen"])
        costs = [fold_rows[name] for fold_rows in rows.values() if name in fold_rows]
        seconds, parameters = sum(row["seconds"] for row in costs), max(row["parameters"] for row in costs)
        results.append(PooledResult(name, kind, by_fold, seconds, parameters))
    return tuple(results)


def _selected(runs: FoldRuns, fold_metrics: Mapping[str, Any], name: str, key: str) -> PooledResult:
    by_fold = {fold.name: _held_out(fold, fold_metrics[fold.name][key]) for fold in runs.folds}
    return PooledResult(name, "ensemble", by_fold)
