"""Test-time augmentation in a run: members predict plainly and with it, and validation says which of the two is used.

One level holds for the whole run: the one at which the members' plain average, to which nothing was fitted, is best on
the split that chooses. Fusion then learns from, and is scored on, predictions of that level. The other levels stay in
`members/NAME/tta/`; `predictions/` holds what the members that are shipped say.
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
from tercet.experiments.plan import Plan
from tercet.metrics.classification import Scores, score
from tercet.metrics.significance import Comparison, compare
from tercet.metrics.tables import TTARow, as_text, comparison_text, tta_table
from tercet.models.classifier import Classifier
from tercet.models.forward import predict
from tercet.models.tta import enlarged_input_spec, predict_levels

_HELD_OUT = "held-out"


def predict_rows(classifier: Classifier, plan: Plan, prepared: DataModule, rows: Rows) -> dict[TTAConfig, Predictions]:
    """Return what a network says of some rows: plainly, and at every level that the run asks for."""
    spec, classes, workers = classifier.spec, plan.classes, plan.data_config.num_workers
    plain = prepared.loader(rows, (spec,), num_workers=workers)
    said = {TTAConfig(seed=plan.run.seed): predict(classifier, plain, classes=classes, device=plan.device)}
    views = plan.run.views
    if not views.plain:
        pictures = prepared.loader(rows, (enlarged_input_spec(spec, views),), num_workers=workers)
        said |= predict_levels(classifier, pictures, views=views, spec=spec, classes=classes, device=plan.device)
    return said


def store_predictions(
    said: Mapping[TTAConfig, Predictions], place: Path, folder: MemberFolder, split: str = _HELD_OUT
) -> None:
    """Save predictions: in their `place`, or each level in the member's folder until one of them is chosen."""
    for level, predictions in said.items():
        predictions.save(place if len(said) == 1 else folder.level(str(level), split))


@dataclass(frozen=True)
class TTALevel:
    """One level of test-time augmentation, measured where levels are chosen."""

    views: TTAConfig
    """What each image is shown as."""
    fused: Predictions
    """The average of the members there."""
    scores: Scores
    """How good it is."""
    members: dict[str, Scores]
    """How good each member is."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        members = {name: scores.to_dict() for name, scores in self.members.items()}
        return {"views": str(self.views), "passes": self.views.passes, **self.scores.to_dict(), "members": members}


@dataclass(frozen=True)
class TTAChoice:
    """What was chosen, and why."""

    asked: TTAConfig
    """What was to be tried."""
    levels: tuple[TTALevel, ...]
    """Plain prediction, then all that was tried, in ascending number of passes."""
    chosen: TTALevel
    """What the run uses."""
    monitor: Monitor
    """What was compared."""
    split: str
    """Where it was measured."""

    @property
    def rival(self) -> TTALevel:
        """Return what stands against plain: the level chosen, or the best of those that were not."""
        others = {str(level.views): level for level in self.levels[1:]}
        best = rank({name: level.scores for name, level in others.items()}, self.monitor)[0]
        return others[best] if self.chosen is self.levels[0] else self.chosen

    def comparison(self) -> Comparison:
        """Compare it with plain prediction."""
        return compare(self.rival.fused, self.levels[0].fused)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "asked": str(self.asked),
            "chosen": str(self.chosen.views),
            "seed": self.asked.seed,
            "split": self.split,
            "monitor": self.monitor,
            "levels": [level.to_dict() for level in self.levels],
            "gain": {"of": str(self.rival.views), "against": "none", **self.comparison().to_dict()},
        }

    def to_text(self) -> str:
        """Return what people read."""
        names = list(self.chosen.members)
        what = "the members' average" if len(names) > 1 else names[0]
        rows = [
            TTARow(str(level.views), level.views.passes, level.scores, level is self.chosen) for level in self.levels
        ]
        table = as_text(tta_table(rows, title=f"test-time augmentation: {what} on {self.split}"))
        return f"{table}{comparison_text(self.comparison(), str(self.rival.views), 'plain')}\n"


def choose_tta(run: RunFolder, plan: Plan) -> TTAChoice | None:
    """Choose the run's level and put its predictions and bundles in their places; None where none was asked for.

    A level is used only where its monitor is better than that of every level with fewer forward passes. Doing it
    again changes nothing.
    """
    asked = plan.run.views
    if asked.plain:
        return None
    levels = [_measure(run, plan, level) for level in (TTAConfig(seed=asked.seed), *asked.levels())]
    chosen = levels[0]
    for level in levels[1:]:  # ascending number of passes
        if _value(level, plan.monitor) > _value(chosen, plan.monitor):
            chosen = level
    _adopt(run, plan, chosen.views)
    return TTAChoice(asked, tuple(levels), chosen, plan.monitor, plan.monitor_split)


def is_tta_chosen(run: RunFolder, plan: Plan) -> bool:
    """Tell whether every finished training of the run has its predictions in their place."""
    folds = [fold for member in plan.members for fold in run.member(member.name).folds()]
    places = [run.predictions(member.name, "validation") for member in plan.members]
    return all(place.is_file() for place in [*places, *(fold.predictions for fold in folds if fold.finished())])


def _measure(run: RunFolder, plan: Plan, views: TTAConfig) -> TTALevel:
    """Score a level on the split that chooses: the members, and the average of those that would be fused."""
    said = {
        member.name: Predictions.load(run.member(member.name).level(str(views), plan.monitor_split))
        for member in plan.members
    }
    members = {name: score(predictions) for name, predictions in said.items()}
    best = rank(members, plan.monitor)[: plan.fusion.num_members or None]
    fused = average([said[name] for name in said if name in best])
    return TTALevel(views, fused, score(fused), members)


def _value(level: TTALevel, monitor: Monitor) -> float:
    value = level.scores.monitored()[monitor]
    return -value if monitor == "loss" else value


def _adopt(run: RunFolder, plan: Plan, views: TTAConfig) -> None:
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
