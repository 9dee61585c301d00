"""Training of the end-to-end fusion head on member predictions or on images, and its cross-fitting.

Shapes: N images, M members, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from tercet.config.run import FusionConfig
from tercet.config.training import Monitor, StageConfig, TrainingConfig
from tercet.core.predictions import Predictions
from tercet.core.runtime import seed_everything
from tercet.core.types import Batch, BatchSource
from tercet.data.data_module import Rows
from tercet.ensemble.combiners import apply_head, stack_probabilities
from tercet.ensemble.cross_fit import cross_fit
from tercet.models.fusion_head import FusionHead
from tercet.training.checkpoint import BestEpoch, TrainingResult
from tercet.training.losses import Objective
from tercet.training.trainer import Trainer

MIN_SECONDS = 1e-3
"""Least time limit of one head."""


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


class FusionTrainer(Trainer):
    """Trains in one stage with the best weights in memory: fusion heads take seconds, and nothing resumes them."""

    def save(self) -> None:
        """Write no checkpoint: syncing one to disk in every epoch would take longer than the training."""

    def update_best(self, scores: dict[str, float], *, best: bool) -> None:
        """Keep the current weights."""
        state = self.state
        state.best = state.stage_best = BestEpoch(scores, state.stage, state.epoch, file="", digest="")
        self.best_weights = {name: value.clone() for name, value in self.module.state_dict().items()}

    def run(self) -> TrainingResult:
        """Train; the module then has the best weights."""
        with self.stop_signal:
            self.run_stage(self.stages[0])
        self.module.load_state_dict(self.best_weights)
        assert self.state.best is not None
        return TrainingResult(self.history, self.state.best, self.state.seconds, self.state.step)


@dataclass(frozen=True)
class HeadFitter:
    """Trains fusion heads on the predictions of M members, whatever made them."""

    fusion: FusionConfig
    seed: int = 0
    monitor: Monitor = "accuracy"
    device: str = "cpu"
    max_seconds: float | None = None
    """Time for all heads together; None for no limit."""
    stopped: list[int] = field(default_factory=list, compare=False)
    """Steps of the heads whose training the limit ended."""

    def fit(self, members: Sequence[Predictions], validation: Sequence[Predictions] | None = None) -> FusionHead:
        """Train a head on labelled rows; the best epoch on the validation rows counts, without them the last."""
        head = self.new_head(len(members), len(members[0].classes))
        self.train(head, self._source(members), None if validation is None else self._source(validation))
        return head

    def cross_fitted(self, members: Sequence[Predictions], groups: Sequence[str] | None = None) -> Predictions:
        """Return the predictions of labelled rows by heads that were trained on other folds."""
        return self.cross_fit(lambda rows: self.fit([member.take(rows) for member in members]), members, groups)

    def cross_fit(
        self, fit: Callable[[Rows], FusionHead], members: Sequence[Predictions], groups: Sequence[str] | None
    ) -> Predictions:
        """Return the predictions of all rows by heads that `fit` trained on other rows."""
        return cross_fit(
            lambda rows, held_out: apply_head(fit(rows), [member.take(held_out) for member in members]),
            members[0].labels,
            folds=self.fusion.folds,
            seed=self.seed,
            groups=groups,
        )

    def new_head(self, num_members: int, num_classes: int) -> FusionHead:
        """Return an untrained head."""
        seed_everything(self.seed)
        fusion = self.fusion
        assert fusion.width is not None  # set by `FusionConfig.sized`
        return FusionHead(num_members, num_classes, width=fusion.width, slope=fusion.slope, dropout=fusion.dropout)

    def train(
        self, module: nn.Module, train: BatchSource, validation: BatchSource | None, objective: Objective | None = None
    ) -> None:
        """Train a head, or a graph that contains it."""
        heads = self.fusion.folds + 1 if self.fusion.data == "validation" else 1
        max_time = None if self.max_seconds is None else max(self.max_seconds / heads, MIN_SECONDS)
        stage = StageConfig(lr=self.fusion.lr, steps=self.fusion.steps, schedule="cosine", max_time=max_time)
        config = TrainingConfig(stages=(stage,), batch_size=self.fusion.batch_size, monitor=self.monitor)
        trainer = FusionTrainer(
            module, train, validation, config=config, folder=Path(), device=self.device, objective=objective
        )
        result = trainer.run()
        if self.fusion.steps is not None and result.steps < self.fusion.steps:
            self.stopped.append(result.steps)

    def _source(self, members: Sequence[Predictions]) -> ProbabilitySource:
        return ProbabilitySource(members, batch_size=self.fusion.batch_size, seed=self.seed)
