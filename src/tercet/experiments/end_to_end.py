"""End-to-end ensemble (E2E-3M): softmax outputs of the members -> dense -> LeakyReLU -> dropout -> classes.

Three regimes: `cached` trains the fusion head on stored predictions from anywhere; `frozen` trains it on the outputs of
fixed members, in one graph with augmented images if there is an augmentation; `joint` trains head and members. If the
head is trained on validation rows, its validation scores are cross-fitted. Shapes: N rows, B batch size, M members,
K classes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from tercet.config.run import FusionConfig
from tercet.config.training import TrainingConfig
from tercet.config.tta import NO_TTA
from tercet.core.errors import ConfigError
from tercet.core.predictions import Predictions
from tercet.core.progress import next_phase
from tercet.core.types import Batch
from tercet.data.data_module import DataModule, Rows
from tercet.data.feature_table import FeatureTable
from tercet.data.loader import ImageLoader
from tercet.ensemble.bundle import Bundle, Member
from tercet.ensemble.combiners import apply_head, stack_probabilities
from tercet.experiments.frozen import RunFeatures, predict_members
from tercet.experiments.fusion_training import HeadFitter
from tercet.experiments.plan import Plan
from tercet.models.fusion_head import EndToEnd, FusionHead
from tercet.training.losses import Objective, SingleLabel


@dataclass(frozen=True)
class EndToEndResult:
    """A trained fusion head, its members and their combined predictions by split."""

    head: FusionHead
    members: tuple[Member, ...]
    predictions: dict[str, Predictions]
    fusion: FusionConfig
    """Options with the width and the steps that were used."""
    note: str = ""
    """Whether the time limit ended a training."""


@dataclass(frozen=True)
class EndToEndFitter:
    """Trains the fusion head of some members of a run.

    Args:
        plan: The run's plan, with the options.
        prepared: The run's data.
        members: The members, with their networks.
        predictions: Stored predictions of the members by split; `out-of-fold` if the folds were trained.
        groups: Groups of the validation rows; cross-fitting does not split them.
        seconds: Time that training the members took. Training the heads takes no longer, unless their width and steps
            are given.
    """

    plan: Plan
    prepared: DataModule
    members: tuple[Member, ...]
    predictions: dict[str, list[Predictions]]
    groups: tuple[str, ...] | None = None
    seconds: float | None = None

    @cached_property
    def heads(self) -> HeadFitter:
        """The fitter with the options of the run."""
        fusion, plan = self.plan.fusion, self.plan
        rows = len(self.prepared.rows("validation" if fusion.data == "validation" else "train"))
        limited = fusion.width is None or fusion.steps is None
        seconds = self.seconds if limited else None
        return HeadFitter(fusion.sized(rows), plan.run.seed, plan.monitor, plan.device, seconds)

    def fit(self) -> EndToEndResult:
        """Train the head in the configured regime.

        Raises:
            ConfigError: The members have no predictions for `fusion.data`.
        """
        fusion = self.heads.fusion
        count = f"{fusion.folds + 1} heads, {fusion.folds} of them" if fusion.data == "validation" else "a head"
        purpose = " for cross-fitting" if fusion.data == "validation" else ""
        limit = "" if self.heads.max_seconds is None else f", at most {self.heads.max_seconds:.0f} s"
        width = f"{fusion.width} hidden units, {fusion.steps} steps"
        next_phase(f"e2e: training {count}{purpose} ({width}{limit})")
        if fusion.regime == "joint":
            return self._fit_joint()
        fit_rows = self._fit_frozen if fusion.regime == "frozen" else self._fit_cached
        validation = self.predictions["validation"]
        if fusion.data == "validation":
            combined = self.heads.cross_fit(fit_rows, validation, self.groups)
            head = fit_rows(np.arange(len(validation[0])))
        else:
            head = fit_rows(None)
            combined = apply_head(head, validation)
        test = self.predictions.get("test")
        tested = {"test": apply_head(head, test)} if test else {}
        return self._result(head, self.members, {"validation": combined, **tested})

    def _result(
        self, head: FusionHead, members: tuple[Member, ...], predictions: dict[str, Predictions]
    ) -> EndToEndResult:
        stopped, fusion, note = self.heads.stopped, self.heads.fusion, ""
        if stopped:
            note = (
                f"training the head stopped after {min(stopped)} of {fusion.steps} steps, as it may not take longer "
                f"than training the members ({self.seconds or 0:.1f} s); set fusion.width and fusion.steps for no limit"
            )
        return EndToEndResult(head, members, predictions, fusion, note)

    def _fit_cached(self, rows: Rows | None) -> FusionHead:
        """Train on stored predictions: of some validation rows, or of all rows in `fusion.data`."""
        if rows is not None:
            return self.heads.fit([member.take(rows) for member in self.predictions["validation"]])
        split = self.plan.fusion.data
        if split not in self.predictions:
            raise ConfigError(f"these members have no {split} predictions: train them with --fusion.data {split}")
        return self.heads.fit(self.predictions[split], self.predictions["validation"])

    def _fit_frozen(self, rows: Rows | None) -> FusionHead:
        """Train the head on the members' outputs; they are computed once, unless images change at random."""
        first = self.plan.members[0].training
        random = first.augment != "none" or first.random_erasing
        return self._fit_graph(rows) if random else self._fit_outputs(rows)

    def _fit_graph(self, rows: Rows | None) -> FusionHead:
        """Train the head in one graph with augmented images; the members do not change."""
        head = self._new_head()
        graph = EndToEnd([member.classifier for member in self.members], head, train_branches=False)
        self.heads.train(graph, self._fit_images(rows), self._validation_images() if rows is None else None)
        return head

    def _fit_outputs(self, rows: Rows | None) -> FusionHead:
        """Train the head on the outputs of the members, in the same order as on images."""
        head, outputs = self._new_head(), self._outputs
        validation = self._validation_images().with_features(outputs) if rows is None else None
        self.heads.train(head, self._fit_images(rows).with_features(outputs), validation)
        return head

    @cached_property
    def _outputs(self) -> FeatureTable:
        """The members' probabilities for the rows of the table that the head uses (N M K); others are zero."""
        members = [replace(member, views=NO_TTA) for member in self.members]
        splits = ("validation",) if self.plan.fusion.data == "validation" else ("train", "validation")
        rows = np.concatenate([self.prepared.rows(split) for split in splits])
        features = RunFeatures.of(self.plan, self.prepared)
        outputs = stack_probabilities(predict_members(members, self.plan, self.prepared, rows, features)).numpy()
        return FeatureTable.of(outputs).at(rows, len(self.prepared.table))

    def _fit_images(self, rows: Rows | None) -> ImageLoader:
        table_rows = self.prepared.rows("train" if rows is None else "validation")
        return self._augmented_images(table_rows if rows is None else table_rows[rows])

    def _fit_joint(self) -> EndToEndResult:
        """Train head and members together on the training rows, starting from the trained members."""
        head = self._new_head()
        members = tuple(replace(member, classifier=copy.deepcopy(member.classifier)) for member in self.members)
        graph = EndToEnd([member.classifier for member in members], head, train_branches=True)
        train, objective = self._augmented_images(self.prepared.rows("train")), joint_objective(self.plan.fusion)
        self.heads.train(graph, train, self._validation_images(), objective)
        bundle = Bundle(self.prepared.table.classes, members, head)  # predicts as the saved bundle will
        workers = self.plan.data_config.num_workers
        predictions = {
            split: bundle.combine(
                bundle.predict_member_batches(
                    self.prepared.loader(rows, bundle.specs, num_workers=workers), device=self.plan.device
                )
            )
            for split in ("validation", "test")
            if len(rows := self.prepared.rows(split))
        }
        return self._result(head, members, predictions)

    def _new_head(self) -> FusionHead:
        return self.heads.new_head(len(self.members), len(self.prepared.table.classes))

    def _validation_images(self) -> ImageLoader:
        specs = [member.classifier.spec for member in self.members]
        workers = self.plan.data_config.num_workers
        return self.prepared.loader(self.prepared.rows("validation"), specs, num_workers=workers)

    def _augmented_images(self, rows: Rows) -> ImageLoader:
        specs = [member.classifier.spec for member in self.members]
        first = self.plan.members[0].training  # one augmentation: all branches get the same augmented image
        training = TrainingConfig(
            batch_size=self.plan.fusion.batch_size, augment=first.augment, random_erasing=first.random_erasing
        )
        data, seed = self.plan.data_config, self.plan.run.seed
        return self.prepared.training_loader(rows, specs, training=training, data=data, seed=seed)


def joint_objective(fusion: FusionConfig) -> Objective:
    """Return the loss (1 - a) * CE(ensemble) + a * mean of CE(member), where a is `fusion.aux_loss_weight`."""
    entropy, share = SingleLabel(), fusion.aux_loss_weight

    def objective(module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.targets is not None
        mark = getattr(module, "mark_forward_method", None)
        if mark is not None:  # wrapped by Fabric, which must route this method through its own forward pass
            mark("joint")
        fused, members = module.joint(batch.images)  # type: ignore[operator]  # B K, B M K
        aux_loss = torch.stack(
            [entropy.loss(logits, batch.targets, batch.weights) for logits in members.unbind(1)]
        ).mean()
        return (1 - share) * entropy.loss(fused, batch.targets, batch.weights) + share * aux_loss, fused

    return objective
