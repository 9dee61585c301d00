"""End-to-end ensemble (E2E-3M): softmax outputs of the members -> dense -> LeakyReLU -> dropout -> classes.

Three regimes: `cached` trains the fusion head on stored member predictions, `frozen` trains it in one graph with
augmented images and fixed members, `joint` trains head and members. If the head is trained on validation rows, its
validation scores are cross-fitted. Shapes: N rows, B batch size, M members, K classes.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tercet.config.run import FusionConfig
from tercet.config.training import StageConfig, TrainingConfig
from tercet.core.errors import ConfigError
from tercet.core.predictions import Predictions
from tercet.core.runtime import seed_everything
from tercet.core.types import Batch, BatchSource
from tercet.data.data_module import DataModule, Rows
from tercet.ensemble.bundle import Bundle, Member
from tercet.ensemble.combiners import apply_head, stack_probabilities
from tercet.ensemble.cross_fit import cross_fit
from tercet.experiments.plan import Plan
from tercet.models.fusion_head import EndToEnd, FusionHead
from tercet.training.losses import Objective, SingleLabel
from tercet.training.trainer import Trainer


@dataclass(frozen=True)
class EndToEndResult:
    """A trained fusion head and its predictions."""

    head: FusionHead
    members: tuple[Member, ...]
    validation: Predictions
    test: Predictions | None
    fitted_on: str


class ProbabilitySource:
    """Batches of stored member predictions (B M K); their order is a pure function of seed and epoch."""

    def __init__(self, members: Sequence[Predictions], *, batch_size: int, seed: int) -> None:
        first = members[0]
        self.probabilities = stack_probabilities(members)  # N M K
        self.labels = torch.from_numpy(first.labels)
        self.ids, self.batch_size, self.seed = first.ids, batch_size, seed

    def __len__(self) -> int:
        return -(-len(self.ids) // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from batch `start` on."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + number)
        order = torch.randperm(len(self.ids), generator=generator)
        for offset in range(start * self.batch_size, len(order), self.batch_size):
            rows = order[offset : offset + self.batch_size]
            yield Batch(self.probabilities[rows], self.labels[rows], tuple(self.ids[row] for row in rows.tolist()))


@dataclass(frozen=True)
class EndToEndFitter:
    """Trains the fusion head of some members of a run.

    Args:
        plan: The run's plan.
        prepared: The run's data.
        members: The members, with their networks.
        predictions: Stored predictions of the members by split; `out-of-fold` if the folds were trained.
        fusion: The options.
        groups: Groups of the validation rows; cross-fitting does not split them.
    """

    plan: Plan
    prepared: DataModule
    members: tuple[Member, ...]
    predictions: dict[str, list[Predictions]]
    fusion: FusionConfig
    groups: tuple[str, ...] | None = None

    def fit(self) -> EndToEndResult:
        """Train the head in the configured regime.

        Raises:
            ConfigError: The members have no predictions for `fusion.data`.
        """
        if self.fusion.regime == "joint":
            return self._fit_joint()
        fit_rows = self._fit_frozen if self.fusion.regime == "frozen" else self._fit_cached
        validation = self.predictions["validation"]
        if self.fusion.data == "validation":
            predictions = cross_fit(
                lambda rows, held_out: apply_head(fit_rows(rows), [member.take(held_out) for member in validation]),
                validation[0].labels,
                folds=self.fusion.folds,
                seed=self.plan.run.seed,
                groups=self.groups,
            )
            head = fit_rows(np.arange(len(validation[0])))
        else:
            head = fit_rows(None)
            predictions = apply_head(head, validation)
        return self._result(head, predictions)

    def _result(self, head: FusionHead, validation: Predictions) -> EndToEndResult:
        test = self.predictions.get("test")
        fitted_on = f"{self.fusion.data} rows, {self.fusion.regime}"
        if self.fusion.data == "out-of-fold":
            fitted_on += "; the members of the bundle were trained on all training rows"
        return EndToEndResult(head, self.members, validation, apply_head(head, test) if test else None, fitted_on)

    # ------------------------------------------------------------------------------------------ regimes

    def _fit_cached(self, rows: Rows | None) -> FusionHead:
        """Train on stored predictions: of some validation rows, or of all rows in `fusion.data`."""
        split = "validation" if rows is not None else self.fusion.data
        if split not in self.predictions:
            raise ConfigError(f"these members have no {split} predictions: train them with --fusion.data {split}")
        members = self.predictions[split]
        train = self._source(members if rows is None else [member.take(rows) for member in members])
        validation = None if rows is not None else self._source(self.predictions["validation"])
        head = self._new_head()
        self._train(head, train, validation)
        return head

    def _fit_frozen(self, rows: Rows | None) -> FusionHead:
        """Train the head in one graph with augmented images; the members do not change."""
        head = self._new_head()
        graph = EndToEnd([member.classifier for member in self.members], head, train_branches=False)
        split = "validation" if rows is not None else "train"
        table_rows = self.prepared.rows(split)
        train = self._images(table_rows if rows is None else table_rows[rows], graph, augmented=True)
        validation = None if rows is not None else self._images(self.prepared.rows("validation"), graph)
        self._train(graph, train, validation)
        return head

    def _fit_joint(self) -> EndToEndResult:
        """Train head and members together on the training rows, starting from the trained members."""
        head = self._new_head()
        members = tuple(replace(member, classifier=copy.deepcopy(member.classifier)) for member in self.members)
        graph = EndToEnd([member.classifier for member in members], head, train_branches=True)
        train = self._images(self.prepared.rows("train"), graph, augmented=True)
        validation = self._images(self.prepared.rows("validation"), graph)
        self._train(graph, train, validation, joint_objective(self.fusion.aux_loss_weight))
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
        return EndToEndResult(head, members, predictions["validation"], predictions.get("test"), "train rows, joint")

    # ------------------------------------------------------------------------------------------ components

    def _new_head(self) -> FusionHead:
        seed_everything(self.plan.run.seed)
        fusion = self.fusion
        return FusionHead(
            len(self.members),
            len(self.prepared.table.classes),
            width=fusion.width,
            slope=fusion.slope,
            dropout=fusion.dropout,
        )

    def _source(self, members: Sequence[Predictions]) -> ProbabilitySource:
        return ProbabilitySource(members, batch_size=self.fusion.batch_size, seed=self.plan.run.seed)

    def _images(self, rows: Rows, graph: EndToEnd, *, augmented: bool = False) -> BatchSource:
        specs = [member.classifier.spec for member in self.members]
        workers = self.plan.data_config.num_workers
        if not augmented:
            return self.prepared.loader(rows, specs, num_workers=workers)
        first = self.plan.members[0].training  # one augmentation: all branches get the same augmented image
        training = TrainingConfig(
            batch_size=self.fusion.batch_size, augment=first.augment, random_erasing=first.random_erasing
        )
        seed = self.plan.run.seed
        return self.prepared.training_loader(rows, specs, training=training, data=self.plan.data_config, seed=seed)

    def _train(
        self, module: nn.Module, train: BatchSource, validation: BatchSource | None, objective: Objective | None = None
    ) -> None:
        stage = StageConfig(lr=self.fusion.lr, steps=self.fusion.steps, schedule="cosine")
        monitor = self.plan.monitor
        config = TrainingConfig(stages=(stage,), batch_size=self.fusion.batch_size, monitor=monitor)
        with tempfile.TemporaryDirectory() as folder:
            Trainer(
                module,
                train,
                validation,
                config=config,
                folder=Path(folder),
                device=self.plan.device,
                objective=objective,
            ).run()


def joint_objective(aux_loss_weight: float) -> Objective:
    """Return the loss (1 - aux_loss_weight) * CE(ensemble) + aux_loss_weight * mean of CE(member)."""
    entropy = SingleLabel()

    def objective(module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.targets is not None
        fused, members = _joint_forward(module)(batch.images)  # B K, B M K
        aux_loss = torch.stack([entropy.loss(logits, batch.targets) for logits in members.unbind(1)]).mean()
        return (1 - aux_loss_weight) * entropy.loss(fused, batch.targets) + aux_loss_weight * aux_loss, fused

    return objective


def _joint_forward(module: nn.Module) -> Callable[[Tensor | tuple[Tensor, ...]], tuple[Tensor, Tensor]]:
    """Return the method that computes ensemble and member logits."""
    mark = getattr(module, "mark_forward_method", None)
    if mark is not None:  # wrapped by Fabric, which must route this method through its own forward pass
        mark("joint")
    joint: Callable[[Tensor | tuple[Tensor, ...]], tuple[Tensor, Tensor]] = module.joint  # type: ignore[assignment]
    return joint
