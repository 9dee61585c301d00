"""Train one member."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from tercet.config.model import ModelConfig
from tercet.config.training import TrainingConfig
from tercet.config.tta import TTAConfig
from tercet.core.errors import to_tercet_error
from tercet.core.files import write_text
from tercet.core.predictions import Predictions
from tercet.core.run_folder import MemberFolder, RunFolder
from tercet.core.runtime import seed_everything
from tercet.core.types import Batch
from tercet.data.data_module import DataModule, Rows
from tercet.data.splits import stratified_folds
from tercet.ensemble.bundle import Bundle, Member
from tercet.experiments.data_summary import trained_on
from tercet.experiments.multilabel import multilabel_objective, save_multilabel
from tercet.experiments.plan import Plan
from tercet.experiments.tensorboard import stage_images
from tercet.experiments.tta import predict_rows, store_predictions
from tercet.metrics.classification import Scorer, score, validation_scores
from tercet.metrics.multilabel import validation_multilabel_scores
from tercet.models.build import build
from tercet.models.classifier import Classifier
from tercet.models.forward import images_per_second, predict
from tercet.models.summary import summarize
from tercet.training.callbacks import Callback, EpochLog, EventStream, tensorboard
from tercet.training.checkpoint import TrainingResult
from tercet.training.fabric import bf16_fault, choose_precision, require_bf16
from tercet.training.losses import CrossEntropy, Objective, balanced_class_weights
from tercet.training.trainer import Trainer

SPEED_BATCH = 64
"""Images a forward pass, at most, where prediction is timed."""


def measure_member(classifier: Classifier, plan: Plan, prepared: DataModule) -> dict[str, Any]:
    """Return `train_accuracy` (best weights, evaluation mode, images as they are) and `images_per_second`."""
    workers, specs = plan.data_config.num_workers, (classifier.spec,)
    learned = prepared.loader(prepared.rows("train"), specs, num_workers=workers)
    said = predict(classifier, learned, classes=plan.classes, device=plan.device)
    some = prepared.loader(prepared.rows("validation")[:SPEED_BATCH], specs)
    return {
        "train_accuracy": score(said).accuracy,
        "images_per_second": images_per_second(classifier, next(iter(some.epoch(0))), device=plan.device),
    }


_SUMMARISED = ("parameters", "trainable", "buffers", "flops", "input")


def fold_rows(prepared: DataModule, plan: Plan) -> list[Rows]:
    """Return the training rows that each fold holds out; the same ones for every member."""
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
    """Train a member to the end, going on where an earlier attempt stopped; nothing if it is finished.

    Args:
        run: The run, with its plan.
        name: The member.
        fold: Train without this fold of the training rows and predict it; None trains the member itself.
        callbacks: Told how it goes.
        prepared: The run's data, if it is at hand.
        keep: Leave predictions and a bundle too, not only how good and how large the member is.
    """
    folder = run.member(name) if fold is None else run.member(name).fold(fold)
    if folder.finished():
        return
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    plan = Plan.load(run)
    work = _Work(run, folder, plan, prepared or plan.open_data(run), name, fold)
    classifier, summary = work.train(callbacks)
    if fold is None:
        summary |= {key: value for key, value in summarize(classifier).items() if key in _SUMMARISED}
        if keep:
            summary |= work.leave_member(classifier)
        if plan.compared:
            summary |= measure_member(classifier, plan, work.prepared)
    else:
        store_predictions(work.predict(classifier, work.held_out()), folder.predictions, folder)
    folder.finish(summary)


def check_bf16(plan: Plan, prepared: DataModule) -> None:
    """Find members that were to be trained in bf16 and cannot be on this machine, before any of them is trained.

    Raises:
        ConfigError: There is one.
    """
    seen: list[tuple[str, ModelConfig]] = []
    for member in plan.members:
        if member.training.precision != "bf16" or (member.network, member.model) in seen:
            continue
        seen.append((member.network, member.model))
        classifier = build(
            member.network,
            num_classes=len(plan.classes),
            config=member.model,
            channels=plan.channels,
            image_size=plan.image_size,
            load_weights=False,
        )
        rows = prepared.rows("train")[:2]
        batch = next(iter(prepared.loader(rows, (classifier.spec,)).epoch(0)))
        counts = prepared.table.take(rows).class_counts() if plan.sets else None
        objective = CrossEntropy() if counts is None else multilabel_objective(member.model.labels, counts)
        require_bf16(classifier, batch, objective, device=plan.device, name=member.name)


@dataclass(frozen=True)
class _Work:
    """One training of a run, and what it is to leave."""

    run: RunFolder
    folder: MemberFolder
    plan: Plan
    prepared: DataModule
    name: str
    fold: int | None

    def held_out(self) -> Rows:
        """Return the training rows that this training must not see."""
        if self.fold is None:
            return np.array([], dtype=np.int64)
        return fold_rows(self.prepared, self.plan)[self.fold]

    def train(self, callbacks: Sequence[Callback]) -> tuple[Classifier, dict[str, Any]]:
        """Build the network and train it; return it with its best weights, and what its training was."""
        plan, member = self.plan, self.plan.member(self.name)
        seed = plan.seed(self.name, self.fold)
        seed_everything(seed)
        classifier = build(
            member.network,
            num_classes=len(plan.classes),
            config=member.model,
            channels=plan.channels,
            image_size=plan.image_size,
        )
        rows = np.setdiff1d(self.prepared.rows("train"), self.held_out())
        specs, config = (classifier.spec,), member.training
        batches = self.prepared.training_loader(rows, specs, training=config, data=plan.data_config, seed=seed)
        chooser = self.prepared.rows(plan.monitor_split)
        workers = plan.data_config.num_workers
        objective = self.objective(config, rows)
        if config.precision != "32":
            batch = next(iter(batches.epoch(0)))
            config = replace(config, precision=self.precision(config, classifier, batch, objective))
        scorer, watching = self.watch(chooser, config)
        training = Trainer(
            classifier,
            batches,
            self.prepared.loader(chooser, specs, num_workers=workers),
            config=config,
            folder=self.folder.checkpoints,
            device=plan.device,
            objective=objective,
            scorer=scorer,
            callbacks=[*watching, *callbacks],
        )
        training.resume()
        result = training.run()
        result.history.save(self.folder.path / "history.jsonl")
        return classifier, _describe(result, config)

    def precision(
        self, config: TrainingConfig, classifier: Classifier, batch: Batch, objective: Objective
    ) -> Literal["32", "bf16"]:
        """Return the precision to train in; `auto` writes its choice and the reason into the member's log.

        Raises:
            ConfigError: bf16 was asked for, and this machine cannot compute it.
        """
        device, log = self.plan.device, EpochLog(self.folder.path / "train.log")
        if config.precision == "bf16":
            require_bf16(classifier, batch, objective, device=device, name=self.name)
            return "bf16"
        measured = self.folder.path / "precision.txt"
        if not measured.is_file():  # measured once: a resumed training must go on as it began
            chosen, reason = choose_precision(classifier, batch, objective, device=device)
            log.note(f"precision {chosen}: {reason}")
            write_text(measured, chosen)
        elif measured.read_text("utf-8") == "bf16" and (
            fault := bf16_fault(classifier, batch, objective, device=device)
        ):
            log.note(f"precision 32: begun in bf16 on another machine, and this one cannot compute it: {fault}")
            return "32"
        return "bf16" if measured.read_text("utf-8") == "bf16" else "32"

    def watch(self, chooser: Rows, config: TrainingConfig) -> tuple[Scorer, list[Callback]]:
        """Return what scores the rows that choose, and those who write the member's own records."""
        plan, wanted = self.plan, self.plan.run.tensorboard and self.fold is None
        log = EpochLog(self.folder.path / "train.log", split=plan.monitor_split)
        boards = tensorboard(self.folder.path / "tensorboard", enabled=wanted)
        if plan.sets:
            return validation_multilabel_scores, [log, *boards]
        scorer, callbacks = stage_images(
            boards,
            validation_scores,
            classes=plan.classes,
            store=self.prepared.images,
            rows=chooser,
            monitor=config.monitor,
        )
        return scorer, [log, *callbacks]

    def objective(self, config: TrainingConfig, rows: Rows) -> Objective:
        """Return what is minimised on the training rows."""
        if self.plan.sets:
            counts = self.prepared.table.take(rows).class_counts()
            return multilabel_objective(self.plan.member(self.name).model.labels, counts)
        return CrossEntropy(class_weights=self.class_weights(config, rows), label_smoothing=config.label_smoothing)

    def class_weights(self, config: TrainingConfig, rows: Rows) -> list[float] | None:
        """Return a weight a class where the classes are to be balanced."""
        if config.class_weights == "none":
            return None
        counts = np.bincount(self.prepared.table.labels[rows], minlength=len(self.plan.classes))
        return balanced_class_weights(counts.tolist())

    def predict(self, classifier: Classifier, rows: Rows) -> dict[TTAConfig, Predictions]:
        """Return what the network says of some rows, plainly and with test-time augmentation."""
        return predict_rows(classifier, self.plan, self.prepared, rows)

    def leave_member(self, classifier: Classifier) -> dict[str, Any]:
        """Store the predictions that fusing needs, and the member's own bundle; return what else is to be recorded."""
        member = Member(
            self.name, classifier, self.plan.member(self.name).model, TTAConfig(seed=self.plan.run.views.seed)
        )
        if self.plan.sets:
            return save_multilabel(self.run, self.plan, self.prepared, member, self.folder)
        for split in self.plan.predicted_splits():
            if len(rows := self.prepared.rows(split)):
                store_predictions(
                    self.predict(classifier, rows), self.run.predictions(self.name, split), self.folder, split
                )
        card = {"data": trained_on(self.plan, self.prepared.table)}
        Bundle(self.plan.classes, (member,), card=card).save(self.folder.bundle)
        return {}


def _describe(result: TrainingResult, config: TrainingConfig) -> dict[str, Any]:
    best = result.best
    return {
        "seconds": result.seconds,
        "steps": result.steps,
        "epochs": len(result.history),
        "best": {"stage": best.stage + 1, "epoch": best.epoch + 1, **best.scores},
        "precision": config.precision,
        "threads": torch.get_num_threads(),
    }


def main() -> int:
    """Train one member as a process of its own, reporting events on standard output."""
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


def report_to_parent(work: Callable[[EventStream], None]) -> int:
    """Do work that reports its events on standard output, and return the exit code of this process."""
    events = EventStream(sys.stdout)
    try:
        work(events)
    except BrokenPipeError:
        os._exit(1)  # the process that reads the events is gone
    except Exception as error:
        known = to_tercet_error(error)
        if known is None:
            raise
        events.error(str(known), known.exit_code)
        return known.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
