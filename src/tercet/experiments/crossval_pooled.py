"""What the folds of a cross-validation say together: of all held-out rows, and of the rows that all left alone.

Every held-out row was predicted once, by networks that never saw it, combined in a way that it did not choose.
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
from tercet.data.image_cache import open_cache
from tercet.data.run_reader import CHOSEN
from tercet.data.table import load_samples
from tercet.ensemble.bundle import Bundle, Member, load_bundle
from tercet.ensemble.combiners import FOLD_MEAN, FoldCombiner, FoldMean
from tercet.experiments.fold_runs import FoldRun, FoldRuns
from tercet.metrics.classification import Scores, score
from tercet.metrics.tables import RowKind, spread


@dataclass(frozen=True)
class PooledResult:
    """What a member, a way to fuse, or each fold's choice said of held-out rows."""

    name: str
    """Its name in tables and files."""
    kind: RowKind
    """What the name stands for."""
    by_fold: Mapping[str, Predictions]
    """By fold, for the folds that have it."""
    seconds: float | None = None
    """What its trainings cost, all folds together."""
    parameters: int | None = None
    """Its learnable numbers in the fold that has most."""

    @cached_property
    def pooled(self) -> Predictions:
        """The rows of all folds."""
        return concatenate(list(self.by_fold.values()))

    @cached_property
    def overall(self) -> Scores:
        """The scores of the rows of all folds together."""
        return score(self.pooled)

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """The scores of each fold."""
        return {fold: score(said) for fold, said in self.by_fold.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "name": self.name,
            "seconds": self.seconds,
            "parameters": self.parameters,
            "pooled": self.overall.to_dict(),
            **spread(list(self.scores.values())),
            "folds": {fold: scores.to_dict() for fold, scores in self.scores.items()},
        }


@dataclass(frozen=True)
class PooledResults:
    """All that came out of the folds."""

    runs: FoldRuns
    """The folds."""
    documents: Mapping[str, Any]
    """Each fold's `metrics.json`, by fold."""
    members: tuple[PooledResult, ...]
    """Every member."""
    ensembles: tuple[PooledResult, ...]
    """Every way to fuse; where a fold has one member, that member stands for all of them."""
    chosen: PooledResult
    """What each fold chose, on rows of its own."""
    best: PooledResult
    """The member that each fold found best, on the same rows."""
    whole: DataModule
    """The table, and the images, of all folds."""
    bundle: Bundle
    """The mean of the folds' choices."""
    test: Mapping[str, Predictions]
    """What each fold's choice, and their mean, say of the data's own test split; empty where there is none."""
    validation: Predictions | None = None
    """What the mean says of the images that were kept for calibrating; None where there are none."""


def pool(runs: FoldRuns) -> PooledResults:
    """Read what the concluded folds left, and let their mean predict the rows that all of them left alone."""
    documents = {fold.name: read_json(fold.run.metrics) for fold in runs.folds}
    table = load_samples(runs.whole.samples, name=Path(runs.plan.data).name, classes=runs.plan.classes)
    whole = DataModule(table, open_cache(runs.whole.images), fingerprint=runs.plan.fingerprint)
    bundle = fold_mean(runs)
    kept = _predict(runs, bundle, whole, "validation")
    return PooledResults(
        runs,
        documents,
        _results(runs, documents, "member"),
        _results(runs, documents, "ensemble"),
        _picked(runs, documents, CHOSEN, "chosen"),
        _picked(runs, documents, "best member", "best_member"),
        whole,
        bundle,
        _predict(runs, bundle, whole, "test"),
        kept.get(FOLD_MEAN),
    )


def fold_mean(runs: FoldRuns) -> Bundle:
    """Return one bundle that answers with the mean of what the folds' bundles answer."""
    members: list[Member] = []
    parts: list[FoldCombiner] = []
    for fold in runs.folds:
        loaded = load_bundle(fold.run.bundle)
        members += [replace(member, name=f"{fold.name}/{member.name}") for member in loaded.members]
        parts.append(FoldCombiner(len(loaded.members), loaded.combiner))  # type: ignore[arg-type]  # a run's is no fold mean
    return Bundle(runs.plan.classes, tuple(members), FoldMean(tuple(parts)))


def _predict(runs: FoldRuns, bundle: Bundle, whole: DataModule, split: str) -> dict[str, Predictions]:
    """Return what each fold's choice, and their mean, say of a split that no fold saw."""
    rows = whole.rows(split)
    if not len(rows):
        return {}
    source = whole.loader(rows, bundle.specs, num_workers=runs.plan.data_config.num_workers)
    members = bundle.predict_member_batches(source, device=runs.plan.device)
    assert isinstance(bundle.combiner, FoldMean)
    said = dict(zip((fold.title for fold in runs.folds), bundle.combiner.fold_predictions(members), strict=True))
    return {**said, FOLD_MEAN: bundle.combine(members)}


def _held_out(fold: FoldRun, name: str) -> Predictions:
    return Predictions.load(fold.run.predictions(name, "test"))


def _results(runs: FoldRuns, documents: Mapping[str, Any], kind: RowKind) -> tuple[PooledResult, ...]:
    rows = {
        fold.name: {row["name"]: row for row in documents[fold.name]["members" if kind == "member" else "ensembles"]}
        for fold in runs.folds
    }
    results = []
    for name in dict.fromkeys(name for some in rows.values() for name in some):
        by_fold = {}
        for fold in runs.folds:
            if name in rows[fold.name]:
                by_fold[fold.name] = _held_out(fold, name)
            elif kind == "ensemble":
                by_fold[fold.name] = _held_out(fold, documents[fold.name]["chosen"])
        found = [some[name] for some in rows.values() if name in some]
        seconds, parameters = sum(row["seconds"] for row in found), max(row["parameters"] for row in found)
        results.append(PooledResult(name, kind, by_fold, seconds, parameters))
    return tuple(results)


def _picked(runs: FoldRuns, documents: Mapping[str, Any], name: str, key: str) -> PooledResult:
    return PooledResult(
        name, "ensemble", {fold.name: _held_out(fold, documents[fold.name][key]) for fold in runs.folds}
    )
