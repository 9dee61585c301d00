"""Test-time augmentation of a run: members predict without and with it, and validation decides whether to use it.

The run uses one level for all members: the one at which their plain average, which needs no fitting, scores best on the
monitored split. Ensembles are fitted to and scored on predictions at that level. Predictions at the other levels stay
in `members/NAME/tta/`; `predictions/` holds those at the selected level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.config.training import Monitor
from tercet.config.tta import TTAConfig
from tercet.core.files import write_bytes
from tercet.core.predictions import Predictions
from tercet.core.run_folder import MemberFolder, RunFolder
from tercet.data.data_module import DataModule, Rows
from tercet.ensemble.bundle import load_bundle
from tercet.ensemble.combine import average
from tercet.ensemble.cross_fit import rank
from tercet.experiments.frozen import FrozenBackbone, without_backbone
from tercet.experiments.plan import Plan
from tercet.experiments.selection import members_at_chance
from tercet.metrics.classification import score
from tercet.metrics.metric import Scores, rank_key
from tercet.metrics.significance import Comparison, compare
from tercet.metrics.tables import comparison_text, tta_table
from tercet.models.classifier import Classifier
from tercet.models.forward import predict
from tercet.models.tta import FeatureTTAModel, TTAModel, enlarged_input_spec, predict_levels

_HELD_OUT = "held-out"


def predict_rows(
    classifier: Classifier, plan: Plan, prepared: DataModule, rows: Rows, frozen: FrozenBackbone | None = None
) -> dict[TTAConfig, Predictions]:
    """Return the predictions for some rows: without TTA, and at every level of the run's TTA option."""
    spec, classes, workers = classifier.spec, plan.classes, plan.data_config.num_workers
    loader = prepared.loader(rows, (spec,), num_workers=workers)
    module, loader = without_backbone(classifier, loader, frozen)
    predictions = {TTAConfig(seed=plan.run.seed): predict(module, loader, classes=classes, device=plan.device)}
    views = plan.run.views
    if not views.plain:
        model: TTAModel | FeatureTTAModel = TTAModel(classifier, views, spec)
        loader = prepared.loader(rows, (enlarged_input_spec(spec, views),), num_workers=workers)
        features = None if frozen is None else frozen.of_views(rows, views)
        if frozen is not None and features is not None:
            model, loader = FeatureTTAModel(frozen.module, views), loader.with_features(features)
        predictions |= predict_levels(model, loader, classes=classes, device=plan.device)
    return predictions


def store_predictions(
    levels: Mapping[TTAConfig, Predictions], path: Path, folder: MemberFolder, split: str = _HELD_OUT
) -> None:
    """Save predictions: a single level at `path`; several in the member's folder until one is selected."""
    for level, predictions in levels.items():
        predictions.save(path if len(levels) == 1 else folder.level(str(level), split))


@dataclass(frozen=True)
class TTALevel:
    """Scores at one level of test-time augmentation, on the monitored split."""

    views: TTAConfig
    ensemble: Predictions
    """Average of the members."""
    scores: Scores
    """Scores of the average."""
    members: dict[str, Scores]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        members = {name: scores.to_dict() for name, scores in self.members.items()}
        return {"views": str(self.views), "passes": self.views.passes, **self.scores.to_dict(), "members": members}


@dataclass(frozen=True)
class TTAChoice:
    """The selected level, and the scores that selected it."""

    requested: TTAConfig
    levels: tuple[TTALevel, ...]
    """No TTA first, then the requested levels by number of forward passes."""
    chosen: TTALevel
    monitor: Monitor
    split: str

    @property
    def alternative(self) -> TTALevel:
        """The level to compare with no TTA: the chosen one, or the best of the others if no TTA was chosen."""
        others = {str(level.views): level for level in self.levels[1:]}
        best = rank({name: level.scores for name, level in others.items()}, self.monitor)[0]
        return others[best] if self.chosen is self.levels[0] else self.chosen

    def comparison(self) -> Comparison:
        """Compare it with no TTA."""
        return compare(self.alternative.ensemble, self.levels[0].ensemble)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "requested": str(self.requested),
            "chosen": str(self.chosen.views),
            "seed": self.requested.seed,
            "split": self.split,
            "monitor": self.monitor,
            "levels": [level.to_dict() for level in self.levels],
            "gain": {"of": str(self.alternative.views), "against": "none", **self.comparison().to_dict()},
        }

    def to_text(self) -> str:
        """Return the section of the report."""
        names = list(self.chosen.members)
        model = "average of the members" if len(names) > 1 else names[0]
        levels, title = [level.to_dict() for level in self.levels], f"test-time augmentation: {model} on {self.split}"
        table = tta_table(levels, str(self.chosen.views), title=title)
        return f"{table.to_text()}{comparison_text(self.comparison(), str(self.alternative.views), 'plain')}\n"


def choose_tta(run: RunFolder, plan: Plan) -> TTAChoice | None:
    """Select the level and install its predictions and bundles; None if TTA was not requested. Idempotent.

    A level is selected only if its monitored score is better than that of every level with fewer forward passes.
    """
    requested = plan.run.views
    if requested.plain:
        return None
    levels = [_measure(run, plan, level) for level in (TTAConfig(seed=requested.seed), *requested.levels())]
    chosen = levels[0]
    for level in levels[1:]:  # ascending number of passes
        # a gain in the monitored metric: a lower loss alone does not pay for more passes
        if rank_key(plan.monitor, level.scores)[0] < rank_key(plan.monitor, chosen.scores)[0]:
            chosen = level
    _install(run, plan, chosen.views)
    return TTAChoice(requested, tuple(levels), chosen, plan.monitor, plan.monitor_split)


def is_tta_chosen(run: RunFolder, plan: Plan) -> bool:
    """Whether the predictions of every finished training of the run are installed."""
    folds = [fold for member in plan.members for fold in run.member(member.name).folds()]
    paths = [run.predictions(member.name, "validation") for member in plan.members]
    return all(path.is_file() for path in [*paths, *(fold.predictions for fold in folds if fold.finished())])


def _measure(run: RunFolder, plan: Plan, views: TTAConfig) -> TTALevel:
    plain, predictions = (
        {
            member.name: Predictions.load(run.member(member.name).level(str(level), plan.monitor_split))
            for member in plan.members
        }
        for level in (TTAConfig(seed=views.seed), views)
    )
    members = {name: score(member) for name, member in predictions.items()}
    chance = members_at_chance(plan, plain)  # at every level the same members
    best = rank({name: row for name, row in members.items() if chance.keeps(name)}, plan.monitor)
    best = best[: plan.fusion.num_members or None]
    ensemble = average([predictions[name] for name in predictions if name in best])
    return TTALevel(views, ensemble, score(ensemble), members)


def _install(run: RunFolder, plan: Plan, views: TTAConfig) -> None:
    folders = {member.name: run.member(member.name) for member in plan.members}
    for folder in folders.values():
        bundle = load_bundle(folder.bundle)
        if bundle.members[0].views != views:
            bundle.with_tta(views).save(folder.bundle)
    for name, folder in folders.items():
        for source in sorted(folder.level(str(views), "*").parent.glob("*.npz")):
            write_bytes(run.predictions(name, source.stem), source.read_bytes())
        for fold in folder.folds():
            if fold.finished():
                write_bytes(fold.predictions, fold.level(str(views), _HELD_OUT).read_bytes())
