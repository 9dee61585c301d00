"""Estimates of the time of trainings, from timed steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tercet.config.run import MemberConfig
from tercet.core.runtime import seeded_generators, torch_threads
from tercet.data.data_module import DataModule
from tercet.experiments.frozen import has_fixed_images
from tercet.experiments.plan import Plan
from tercet.experiments.task import task_of
from tercet.models.registry import has_fitted_head
from tercet.training.fabric import step_seconds

PLANNED = 0.9
"""Part of the remaining time that trainings are planned for."""
LEAST_EPOCHS = 2.0
"""Fewer epochs are not worth a training."""
_IMAGES = 8  # of a timed step
_FORWARD = 1 / 3  # of a training step: a backward pass costs about two forward passes


@dataclass
class Estimator:
    """Estimates how long trainings on some data take; each network is timed once."""

    prepared: DataModule
    timed: dict[tuple[str, str], float] = field(default_factory=dict)

    def seconds(self, plan: Plan, member: MemberConfig, *, epochs: float | None = None) -> float:
        """Return the estimated seconds of a training with its predictions.

        Args:
            plan: The plan of the run.
            member: The member.
            epochs: Its number of epochs (default: the planned one); without effect on heads that are trained on stored
                features, since these take most of the time.
        """
        step = self._step(plan, member)
        train, validation, test = (len(self.prepared.rows(split)) for split in ("train", "validation", "test"))
        predictions = step * _FORWARD * (train + validation + test)
        if _has_fixed_features(member):
            return predictions
        return predictions + step * self._epochs(member, epochs) * (train + _FORWARD * validation)

    def least_seconds(self, plan: Plan, member: MemberConfig) -> float:
        """Return the seconds of the shortest training that is worth its time."""
        return self.seconds(plan, member, epochs=min(LEAST_EPOCHS, self._epochs(member, None)))

    def shorten(self, plan: Plan, member: MemberConfig, seconds: float) -> MemberConfig | None:
        """Return a member with as many epochs as fit into a time; None if too few do."""
        if self.least_seconds(plan, member) > seconds:
            return None
        if _has_fixed_features(member):
            return member
        training = replace(member.training, max_time=min(seconds, member.training.max_time or seconds))
        rest = self.seconds(plan, member, epochs=0.0)
        epochs = int((seconds - rest) / (self.seconds(plan, member, epochs=1.0) - rest))
        if training.epochs is not None and epochs < training.epochs:
            training = replace(training, epochs=float(epochs))
        return replace(member, training=training)

    def _epochs(self, member: MemberConfig, epochs: float | None) -> float:
        return sum(stage.epochs or 1.0 for stage in member.training.stage_list()) if epochs is None else epochs

    def _step(self, plan: Plan, member: MemberConfig) -> float:
        """Return the seconds of a training step per image."""
        key = member.network, repr(member.model.input)
        if key not in self.timed:
            rows = self.prepared.rows("train")
            config = replace(member.training, batch_size=min(_IMAGES, len(rows)), micro_batches=1)
            data = replace(plan.data_config, num_workers=0)
            with seeded_generators(0), torch_threads(plan.threads):
                classifier = plan.build(member, load_weights=False)
                specs = (classifier.spec,)
                loader = self.prepared.training_loader(rows[:_IMAGES], specs, training=config, data=data, seed=0)
                batch = next(iter(loader.epoch(0)))
                objective = task_of(plan).objective(member, self.prepared.table.take(rows))
                self.timed[key] = step_seconds(classifier, batch, objective, device=plan.device) / len(batch)
        return self.timed[key]


def _has_fixed_features(member: MemberConfig) -> bool:
    """Whether the backbone computes the features of each image once."""
    fitted = has_fitted_head(member.network, member.model)
    return fitted or (member.model.freezes_backbone and has_fixed_images(member))


def members_within(
    plan: Plan, members: Sequence[MemberConfig], seconds: float, estimator: Estimator
) -> list[MemberConfig]:
    """Return the members that fit into a time, each with as many epochs as fit into its share of it."""
    if seconds == math.inf:
        return list(members)
    left, fitting = PLANNED * seconds, []
    for position, member in enumerate(members):
        shorter = estimator.shorten(plan, member, left / (len(members) - position))
        if shorter is not None:
            fitting.append(shorter)
            left -= estimator.seconds(plan, shorter)
    return fitting
