"""From members' predictions to fused ones: every way asked for, scored honestly, and the one to ship.

What is fitted on validation rows (weights, greedy choice, fusion head) is scored there by cross-fitting; only such
scores choose. The test split is looked at once, after the choice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tercet.config.run import Method
from tercet.config.training import Monitor
from tercet.core.errors import ConfigError
from tercet.core.predictions import Predictions, concatenate
from tercet.core.run_folder import MemberFolder, RunFolder
from tercet.data.data_module import DataModule
from tercet.ensemble.bundle import Bundle, Member, load_bundle
from tercet.ensemble.combine import Combiner
from tercet.ensemble.cross_fit import choose, cross_fitted, rank
from tercet.ensemble.weights import fit_combiner, is_fitted
from tercet.experiments.end_to_end import EndToEndFitter
from tercet.experiments.plan import Plan
from tercet.metrics.classification import Scores, score
from tercet.models.fusion_head import FusionHead
from tercet.models.summary import summarize


@dataclass(frozen=True)
class TrainedMember:
    """A finished member: its stored predictions and what it cost."""

    name: str
    """Name in tables and in the ensemble."""
    folder: MemberFolder
    """Where its files are."""
    predictions: dict[str, Predictions]
    """By split."""
    summary: dict[str, Any]
    """What its training recorded."""

    @property
    def seconds(self) -> float:
        """What its training cost."""
        return float(self.summary["seconds"])

    @property
    def parameters(self) -> int:
        """Its learnable numbers."""
        return int(self.summary["parameters"])

    def load(self) -> Member:
        """Load the network."""
        return replace(load_bundle(self.folder.bundle).members[0], name=self.name)


@dataclass(frozen=True)
class FittedEnsemble:
    """One way to fuse, finished."""

    method: str
    members: tuple[str, ...]
    combiner: Combiner | FusionHead
    predictions: dict[str, Predictions]
    """By split; on validation they are fit to be scored (cross-fitted where something was fitted there)."""
    fitted_on: str
    """What the combiner learned from, for the report."""
    seconds: float
    parameters: int
    retrained: tuple[Member, ...] = ()
    """The members, where the fusion changed them."""


def read_members(run: RunFolder, names: Sequence[str], splits: Sequence[str]) -> list[TrainedMember]:
    """Read the finished members of a run."""
    members = []
    for name in names:
        folder = run.member(name)
        stored = {split: Predictions.load(path) for split in splits if (path := run.predictions(name, split)).is_file()}
        if parts := [Predictions.load(fold.predictions) for fold in folder.folds() if fold.predictions.is_file()]:
            stored["out-of-fold"] = concatenate(parts)
        members.append(TrainedMember(name, folder, stored, folder.summary()))
    return members


def select_members(members: Sequence[TrainedMember], top: int, monitor: Monitor) -> list[TrainedMember]:
    """Return the best `top` members by their validation scores (Algorithm 1, step 3), in their own order; 0 is all."""
    if not top or top >= len(members):
        return list(members)
    order = rank({member.name: score(member.predictions["validation"]) for member in members}, monitor)
    return [member for member in members if member.name in order[:top]]


def fit_ensembles(
    members: Sequence[TrainedMember], methods: Sequence[Method], *, plan: Plan, prepared: DataModule | None
) -> list[FittedEnsemble]:
    """Fuse the members in every way asked for.

    Args:
        members: Those to fuse, with predictions on validation and, where there is one, on test.
        methods: Ways to fuse.
        plan: Options and seeds.
        prepared: The images, which only the regimes frozen and joint need.

    Raises:
        ConfigError: A regime needs images that are not there.
    """
    groups = validation_groups(members, prepared)
    return [
        _fuse_end_to_end(members, plan, prepared, groups)
        if method == "e2e"
        else _fuse_simply(members, method, plan, groups)
        for method in methods
    ]


def validation_groups(members: Sequence[TrainedMember], prepared: DataModule | None) -> tuple[str, ...] | None:
    """Return the groups of the validation rows, in the order of the members' predictions; None where there are none."""
    return groups_of(members[0].predictions["validation"], prepared)


def groups_of(predictions: Predictions, prepared: DataModule | None) -> tuple[str, ...] | None:
    """Return the group of each row; None where there are none."""
    if prepared is None or prepared.table.groups is None:
        return None
    group_of = dict(zip(prepared.table.ids, prepared.table.groups, strict=True))
    return tuple(group_of[name] for name in predictions.ids)


def _fuse_simply(
    members: Sequence[TrainedMember], method: str, plan: Plan, groups: tuple[str, ...] | None
) -> FittedEnsemble:
    started = time.monotonic()
    names = tuple(member.name for member in members)
    monitor = plan.monitor
    validation = [member.predictions["validation"] for member in members]
    combiner = fit_combiner(method, validation, names=names, monitor=monitor)
    seed = plan.run.seed
    scored = cross_fitted(method, validation, folds=plan.fusion.folds, seed=seed, monitor=monitor, groups=groups)
    said = {"validation": scored}
    if all("test" in member.predictions for member in members):
        said["test"] = combiner.apply([member.predictions["test"] for member in members])
    return FittedEnsemble(
        method,
        names,
        combiner,
        said,
        "validation rows, cross-fitted" if is_fitted(method) else "nothing",
        time.monotonic() - started + sum(member.seconds for member in members),
        sum(member.parameters for member in members),
    )


def _fuse_end_to_end(
    members: Sequence[TrainedMember], plan: Plan, prepared: DataModule | None, groups: tuple[str, ...] | None
) -> FittedEnsemble:
    started = time.monotonic()
    if prepared is None:
        raise ConfigError(f"fusion.regime {plan.fusion.regime} needs the run's images, and they are gone")
    splits = set.intersection(*(set(member.predictions) for member in members))
    fitter = EndToEndFitter(
        plan,
        prepared,
        tuple(member.load() for member in members),
        {split: [member.predictions[split] for member in members] for split in splits},
        plan.fusion,
        groups,
    )
    fused = fitter.fit()
    said = {"validation": fused.validation} | ({"test": fused.test} if fused.test is not None else {})
    head_parameters = int(summarize(fused.head)["parameters"])
    return FittedEnsemble(
        "e2e",
        tuple(member.name for member in members),
        fused.head,
        said,
        fused.learned_from,
        time.monotonic() - started + sum(member.seconds for member in members),
        sum(member.parameters for member in members) + head_parameters,
        fused.members if plan.fusion.regime == "joint" else (),
    )


def fitted_within_one_group(one: FittedEnsemble, groups: tuple[str, ...] | None) -> bool:
    """Tell whether an ensemble learned from validation rows of a single group, such as one hand or one plant.

    Nothing then says how it does on another group, and its score on these rows is flattering.
    """
    return groups is not None and len(set(groups)) == 1 and learned_from_validation(one)


def learned_from_validation(one: FittedEnsemble) -> bool:
    """Tell whether an ensemble was fitted on the validation rows."""
    return one.fitted_on.startswith("validation")


def choose_ensemble(
    ensembles: Sequence[FittedEnsemble], monitor: Monitor, *, split: str, groups: tuple[str, ...] | None = None
) -> FittedEnsemble:
    """Return the ensemble that scores best on the split that chooses; at equal scores the simpler one.

    On validation, what was fitted within one group is chosen only where there is nothing else.
    """
    flattered = {one.method for one in ensembles if split == "validation" and fitted_within_one_group(one, groups)}
    sound = [one for one in ensembles if one.method not in flattered] or ensembles
    scores: dict[str, Scores] = {one.method: score(one.predictions[split]) for one in sound}
    best = choose(scores, monitor)
    return next(one for one in ensembles if one.method == best)


def bundle_of(ensemble: FittedEnsemble, members: Sequence[TrainedMember]) -> Bundle:
    """Return the ensemble as a bundle."""
    loaded = ensemble.retrained or tuple(member.load() for member in members if member.name in ensemble.members)
    return Bundle(ensemble.predictions["validation"].classes, loaded, ensemble.combiner)
