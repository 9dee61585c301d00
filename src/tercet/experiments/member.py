"""Train one member of a run; as a module, the child process that the pool starts for it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from tercet.config.training import TrainingConfig
from tercet.config.tta import TTAConfig
from tercet.core.files import write_text
from tercet.core.history import History
from tercet.core.registry import PARTS
from tercet.core.run_folder import MemberFolder, RunFolder
from tercet.core.runtime import seed_everything, seeded_generators
from tercet.core.types import Batch
from tercet.data.data_module import DataModule, Rows
from tercet.data.splits import stratified_folds
from tercet.ensemble.bundle import Member
from tercet.experiments.frozen import FrozenBackbone, RunFeatures, fit_head, frozen_backbone, without_backbone
from tercet.experiments.head_init import initialize_head, linear_layer
from tercet.experiments.plan import Plan
from tercet.experiments.pool import report_to_parent
from tercet.experiments.task import task_of
from tercet.experiments.tta import predict_rows, store_predictions
from tercet.metrics.classification import Scorer, score
from tercet.models.backbone import backbone_origin
from tercet.models.classifier import Classifier
from tercet.models.forward import images_per_second, predict
from tercet.models.registry import has_fitted_head
from tercet.models.summary import summarize
from tercet.training.callbacks import Callback, CustomCallbacks, EpochLog, EventStream, notify, tensorboard
from tercet.training.fabric import bf16_fault, choose_precision, require_bf16
from tercet.training.losses import Objective
from tercet.training.trainer import Trainer

SPEED_BATCH = 64
"""Largest batch size for measuring prediction speed."""
_SUMMARY_KEYS = ("parameters", "trainable", "buffers", "flops", "input")


def measure_member(
    classifier: Classifier, plan: Plan, prepared: DataModule, frozen: FrozenBackbone | None
) -> dict[str, Any]:
    """Return `train_accuracy` (best weights, no augmentation) and `images_per_second`."""
    workers, specs = plan.data_config.num_workers, (classifier.spec,)
    train_loader = prepared.loader(prepared.rows("train"), specs, num_workers=workers)
    module, train_loader = without_backbone(classifier, train_loader, frozen)
    predictions = predict(module, train_loader, classes=plan.classes, device=plan.device)
    speed_loader = prepared.loader(prepared.rows("validation")[:SPEED_BATCH], specs)
    return {
        "train_accuracy": score(predictions).accuracy,
        "images_per_second": images_per_second(classifier, next(iter(speed_loader.epoch(0))), device=plan.device),
    }


def fold_rows(prepared: DataModule, plan: Plan) -> list[Rows]:
    """Return the training rows held out by each fold; identical for all members."""
    rows = prepared.rows("train")
    table = prepared.table.take(rows)
    seed = plan.data_config.split_seed
    folds = stratified_folds(table.labels, plan.fusion.folds, seed=seed, groups=table.groups)
    return [rows[held_out] for held_out in folds]


def train_member(
    run: RunFolder,
    name: str,
    *,
    fold: int | None = None,
    callbacks: Sequence[Callback] = (),
    prepared: DataModule | None = None,
    keep: bool = True,
) -> None:
    """Train a member, continuing from its checkpoint if there is one; do nothing if it is finished.

    Args:
        run: The run, with its plan.
        name: The member.
        fold: Train without this fold of the training rows and predict it; None trains the member itself.
        callbacks: Callbacks.
        prepared: The run's data, if already loaded.
        keep: Also save predictions and a bundle, not only scores and size.
    """
    folder = run.member(name) if fold is None else run.member(name).fold(fold)
    if folder.finished():
        return
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    plan = Plan.load(run)
    trainer = _MemberTrainer(run, folder, plan, prepared or plan.open_data(run), name, fold)
    classifier, frozen, summary = trainer.train(callbacks)
    if (origin := backbone_origin(classifier)) is not None:
        summary["pretrained"] = origin.weights
    if fold is None:
        summary |= {key: value for key, value in summarize(classifier).items() if key in _SUMMARY_KEYS}
        if keep:
            summary |= trainer.save(classifier, frozen)
        if plan.compared:
            summary |= measure_member(classifier, plan, trainer.prepared, frozen)
    else:
        predictions = predict_rows(classifier, plan, trainer.prepared, trainer.held_out(), frozen)
        store_predictions(predictions, folder.predictions, folder)
    if frozen is not None:
        summary["features"] = frozen.counts
    folder.finish(summary)


@dataclass(frozen=True)
class _MemberTrainer:
    """One training of a run and the files that it writes."""

    run: RunFolder
    folder: MemberFolder
    plan: Plan
    prepared: DataModule
    name: str
    fold: int | None

    def held_out(self) -> Rows:
        """Return the training rows that are not used in this training."""
        if self.fold is None:
            return np.array([], dtype=np.int64)
        return fold_rows(self.prepared, self.plan)[self.fold]

    def train(self, callbacks: Sequence[Callback]) -> tuple[Classifier, FrozenBackbone | None, dict[str, Any]]:
        """Build and train the network.

        Returns:
            The network with its best weights, the features if its backbone is frozen, and a summary of the training.
        """
        plan, member = self.plan, self.plan.member(self.name)
        seed = plan.seed(self.name, self.fold)
        seed_everything(seed)
        classifier = plan.build(member)
        rows = np.setdiff1d(self.prepared.rows("train"), self.held_out())
        specs, config = (classifier.spec,), member.training
        batches = self.prepared.training_loader(rows, specs, training=config, data=plan.data_config, seed=seed)
        monitor_rows = self.prepared.rows(plan.monitor_split)
        validation = self.prepared.loader(monitor_rows, specs, num_workers=plan.data_config.num_workers)
        scorer, logs = self.logging(monitor_rows)
        observers = [*logs, *callbacks, CustomCallbacks(PARTS["callback"].custom().values())]
        frozen = frozen_backbone(classifier, member, plan, self.prepared, self.run, observers)
        module, validation = without_backbone(classifier, validation, frozen)
        if frozen is not None and has_fitted_head(member.network, member.model):
            row = fit_head(frozen, self.prepared, rows, validation, config=config, scorer=scorer, seed=seed)
            history, summary = History([row]), _summary(row.validation, seconds=row.seconds)
            notify(observers, "on_epoch_end", row)
        else:
            module, batches = without_backbone(classifier, batches, frozen)
            objective = task_of(plan).objective(member, self.prepared.table.take(rows))
            if config.precision != "32":
                batch = next(iter(batches.epoch(0)))
                config = replace(config, precision=self.precision(config, module, batch, objective))
            training = Trainer(
                module,
                batches,
                validation,
                config=config,
                folder=self.folder.checkpoints,
                device=plan.device,
                objective=objective,
                scorer=scorer,
                callbacks=observers,
                name=self.name if self.fold is None else f"{self.name}, fold {self.fold + 1}",
            )
            counts: dict[str, int] | None = None
            if not training.resume() and config.head_init == "logistic":
                counts = self.initialize_head(classifier, rows, frozen, observers, seed=seed)
            result = training.run()
            history = result.history
            best = result.best
            summary = _summary(
                best.scores,
                best.stage,
                best.epoch,
                seconds=result.seconds,
                steps=result.steps,
                epochs=len(history),
                precision=config.precision,
            )
            summary |= {} if counts is None else {"features": counts}
        history.save(self.folder.path / "history.jsonl")
        return classifier, frozen, summary

    def initialize_head(
        self,
        classifier: Classifier,
        rows: Rows,
        frozen: FrozenBackbone | None,
        observers: Sequence[Callback],
        *,
        seed: int,
    ) -> dict[str, int] | None:
        """Fit the head to features of the training rows; return the numbers of features, if they are new."""
        plan, model, counts = self.plan, self.plan.member(self.name).model, None
        linear_layer(classifier)  # an error before the features are computed
        if frozen is None:
            reader = RunFeatures.of(plan, self.prepared, self.run, observers)
            with seeded_generators(seed):  # the training is the same whether the features are stored or not
                features = reader.compute(classifier, model, rows).view(0)
            counts = reader.images.cache.counts
        else:
            features = frozen.features
        training = plan.member(self.name).training
        initialize_head(classifier, training, self.prepared.table.take(rows), features[rows], seed=seed)
        return counts

    def precision(
        self, config: TrainingConfig, module: nn.Module, batch: Batch, objective: Objective
    ) -> Literal["32", "bf16"]:
        """Return the precision to train in; for `auto`, log the choice and its reason.

        Raises:
            ConfigError: bf16 is required, but this machine cannot compute it.
        """
        device, log = self.plan.device, EpochLog(self.folder.path / "train.log")
        if config.precision == "bf16":
            require_bf16(module, batch, objective, device=device, name=self.name)
            return "bf16"
        choice_file = self.folder.path / "precision.txt"
        if not choice_file.is_file():  # measured once: a resumed training must keep its precision
            choice, reason = choose_precision(module, batch, objective, device=device)
            log.note(f"precision {choice}: {reason}")
            write_text(choice_file, choice)
        elif choice_file.read_text("utf-8") == "bf16" and (
            fault := bf16_fault(module, batch, objective, device=device)
        ):
            log.note(f"precision 32: started in bf16 on another machine, but this one cannot compute it: {fault}")
            return "32"
        return "bf16" if choice_file.read_text("utf-8") == "bf16" else "32"

    def logging(self, monitor_rows: Rows) -> tuple[Scorer, list[Callback]]:
        """Return the scorer of the monitored rows and the callbacks that write the member's logs."""
        plan = self.plan
        log = EpochLog(self.folder.path / "train.log", split=plan.monitor_split)
        member = plan.member(self.name)
        has_curves = self.fold is None and not has_fitted_head(member.network, member.model)
        boards = tensorboard(self.folder.path / "tensorboard", enabled=plan.run.tensorboard and has_curves)
        scorer, callbacks = task_of(plan).scoring(boards, plan, self.prepared, monitor_rows)
        return scorer, [log, *callbacks]

    def save(self, classifier: Classifier, frozen: FrozenBackbone | None) -> dict[str, Any]:
        """Save the member's predictions and bundle; return additions to its summary."""
        member = Member(
            self.name, classifier, self.plan.member(self.name).model, TTAConfig(seed=self.plan.run.views.seed)
        )
        return task_of(self.plan).save(self.run, self.plan, self.prepared, member, self.folder, frozen)


def _summary(
    scores: dict[str, float],
    stage: int = 0,
    epoch: int = 0,
    *,
    seconds: float,
    steps: int = 0,
    epochs: int = 0,
    precision: str = "32",
) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "steps": steps,
        "epochs": epochs,
        "best": {"stage": stage + 1, "epoch": epoch + 1, **scores},
        "precision": precision,
        "threads": torch.get_num_threads(),
    }


def main() -> int:
    """Train one member and write its events to standard output."""
    parser = argparse.ArgumentParser(prog="python -m tercet.experiments.member")
    parser.add_argument("run")
    parser.add_argument("name")
    parser.add_argument("--fold", type=int)
    arguments = parser.parse_args()

    def work(events: EventStream) -> None:
        run = RunFolder.open(arguments.run)
        torch.set_num_threads(Plan.load(run).threads)
        train_member(run, arguments.name, fold=arguments.fold, callbacks=[events])

    return report_to_parent(work)


if __name__ == "__main__":
    sys.exit(main())
