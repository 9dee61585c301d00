"""Fit every requested ensemble method to the members' predictions, score it, and select one.

Whatever is fitted on validation rows (weights, greedy selection, fusion head) is scored there by cross-fitting; only
these scores select, see `selection`. The test split is scored once, after the selection.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tercet.config.run import FusionConfig, FusionData
from tercet.config.training import Monitor
from tercet.core.errors import ConfigError
from tercet.core.predictions import Predictions, concatenate
from tercet.core.run_folder import MemberFolder, RunFolder
from tercet.data.data_module import DataModule
from tercet.ensemble.bundle import Bundle, Member, load_bundle
from tercet.ensemble.combine import Combiner, ensemble_method
from tercet.ensemble.cross_fit import cross_fitted, rank
from tercet.ensemble.weights import fit_combiner
from tercet.experiments.end_to_end import EndToEndFitter
from tercet.experiments.plan import Plan
from tercet.metrics.classification import score
from tercet.models.fusion_head import FusionHead
from tercet.models.summary import summarize


@dataclass(frozen=True)
class TrainedMember:
    """A finished member with its stored predictions."""

    name: str
    folder: MemberFolder
    predictions: dict[str, Predictions]
    """By split."""
    summary: dict[str, Any]
    """Summary of its training (`member.json`)."""

    @property
    def seconds(self) -> float:
        """Training time in seconds."""
        return float(self.summary["seconds"])

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return int(self.summary["parameters"])

    def load(self) -> Member:
        """Load the network."""
        return replace(load_bundle(self.folder.bundle).members[0], name=self.name)


@dataclass(frozen=True)
class FittedEnsemble:
    """A fitted ensemble method with its predictions."""

    method: str
    members: tuple[str, ...]
    combiner: Combiner | FusionHead
    predictions: dict[str, Predictions]
    """By split; cross-fitted on validation if the method was fitted there."""
    fitted_on: FusionData | None
    """Data that the combiner was fitted on; None if nothing was fitted."""
    seconds: float
    """Time for training the members and fitting, in seconds."""
    parameters: int
    fusion: FusionConfig | None = None
    """Options of the fusion head, if there is one."""
    retrained: tuple[Member, ...] = ()
    """The members, if the method trained them further."""
    note: str = ""
    """How the fit differs from what was configured."""

    def describe_fit(self) -> str:
        """Return what was fitted on which data, for reports."""
        if self.fitted_on is None:
            return "nothing"
        text = f"{self.fitted_on} rows, {'cross-fitted' if self.fusion is None else self.fusion.regime}"
        folds = self.fitted_on == "out-of-fold"
        return f"{text}; the members of the bundle were trained on all training rows" if folds else text


def read_members(run: RunFolder, names: Sequence[str], splits: Sequence[str]) -> list[TrainedMember]:
    """Read finished members with their stored predictions on these splits, and on `out-of-fold` if available."""
    members = []
    for name in names:
        folder = run.member(name)
        stored = {split: Predictions.load(path) for split in splits if (path := run.predictions(name, split)).is_file()}
        if parts := [Predictions.load(fold.predictions) for fold in folder.folds() if fold.predictions.is_file()]:
            stored["out-of-fold"] = concatenate(parts)
        members.append(TrainedMember(name, folder, stored, folder.summary()))
    return members


def select_members(members: Sequence[TrainedMember], top: int, monitor: Monitor) -> list[TrainedMember]:
    """Return the `top` members with the best validation scores (Algorithm 1, step 3) in the given order; 0 for all."""
    if not top or top >= len(members):
        return list(members)
    order = rank({member.name: score(member.predictions["validation"]) for member in members}, monitor)
    return [member for member in members if member.name in order[:top]]


def fit_ensembles(
    members: Sequence[TrainedMember],
    methods: Sequence[str],
    *,
    plan: Plan,
    prepared: DataModule | None,
) -> list[FittedEnsemble]:
    """Fit every method to members with predictions on validation and, if there is one, on test.

    Raises:
        ConfigError: A head needs the images of the run, and there are none.
    """
    groups = groups_of(members[0].predictions["validation"], prepared)
    return [_fit(members, method, plan, prepared, groups) for method in methods]


def groups_of(predictions: Predictions, prepared: DataModule | None) -> tuple[str, ...] | None:
    """Return the group of each row; None if the data have no groups."""
    if prepared is None or prepared.table.groups is None:
        return None
    group_of = dict(zip(prepared.table.ids, prepared.table.groups, strict=True))
    return tuple(group_of[name] for name in predictions.ids)


def _fit(
    members: Sequence[TrainedMember],
    method: str,
    plan: Plan,
    prepared: DataModule | None,
    groups: tuple[str, ...] | None,
) -> FittedEnsemble:
    started = time.monotonic()
    names = tuple(member.name for member in members)
    splits = set.intersection(*(set(member.predictions) for member in members))
    stored = {split: [member.predictions[split] for member in members] for split in splits}
    combiner: Combiner | FusionHead
    fusion: FusionConfig | None
    retrained: tuple[Member, ...]
    if ensemble_method(method).operation == "head":
        if prepared is None:
            raise ConfigError(f"fusion.regime {plan.fusion.regime} needs the images of the run, which are missing")
        loaded, seconds = tuple(member.load() for member in members), sum(member.seconds for member in members)
        result = EndToEndFitter(plan, prepared, loaded, stored, groups, seconds).fit()
        combiner, predictions, fusion, note = result.head, result.predictions, result.fusion, result.note
        parameters = int(summarize(result.head)["parameters"])
        retrained = result.members if plan.fusion.regime == "joint" else ()
    else:
        options: dict[str, Any] = {"folds": plan.fusion.folds, "seed": plan.run.seed, "groups": groups}
        combiner = fit_combiner(method, stored["validation"], names=names, monitor=plan.monitor)
        predictions = {"validation": cross_fitted(method, stored["validation"], monitor=plan.monitor, **options)}
        predictions |= {"test": combiner.apply(stored["test"])} if "test" in stored else {}
        parameters, retrained, fusion, note = 0, (), None, ""
    return FittedEnsemble(
        method,
        names,
        combiner,
        predictions,
        plan.fusion_data(method),
        time.monotonic() - started + sum(member.seconds for member in members),
        parameters + sum(member.parameters for member in members),
        fusion,
        retrained,
        note,
    )


def is_fitted_on_one_group(ensemble: FittedEnsemble, groups: tuple[str, ...] | None) -> bool:
    """Whether an ensemble was fitted on validation rows of a single group, such as one person or one plant.

    Its cross-fitted scores are then too optimistic for other groups.
    """
    return groups is not None and len(set(groups)) == 1 and ensemble.fitted_on == "validation"


def bundle_of(ensemble: FittedEnsemble, members: Sequence[TrainedMember]) -> Bundle:
    """Return the ensemble as a bundle."""
    loaded = ensemble.retrained or tuple(member.load() for member in members if member.name in ensemble.members)
    return Bundle(ensemble.predictions["validation"].classes, loaded, ensemble.combiner)
