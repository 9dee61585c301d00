"""Train one member: build, fit, predict, and leave a bundle; in this process or as a process of its own."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from tercet.data.splits import stratified_folds
from tercet.deploy.bundle import Bundle, Member
from tercet.evaluation.predict import predict
from tercet.ground.errors import explain
from tercet.ground.runtime import seed_everything
from tercet.models.build import build
from tercet.models.summary import summarize
from tercet.records.contracts import BatchSource
from tercet.records.predictions import Predictions
from tercet.training.fabric import choose_precision
from tercet.training.loop import Training
from tercet.training.losses import CrossEntropy, balanced_class_weights
from tercet.training.observers import EpochLog, EventStream, Observer, tensorboard
from tercet.workflows.plan import Plan
from tercet.workflows.prepared import PreparedData, Rows
from tercet.workflows.run_folder import RunFolder

PREDICT_BATCH = 256


def fold_rows(prepared: PreparedData, plan: Plan) -> list[Rows]:
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
    observers: Sequence[Observer] = (),
    prepared: PreparedData | None = None,
) -> None:
    """Train a member to the end, going on where an earlier attempt stopped.

    Args:
        run: The run, with its plan.
        name: The member.
        fold: Train without this fold of the training rows and predict it; None trains the member itself.
        observers: Told how it goes.
        prepared: The run's data, if it is at hand.
    """
    plan = Plan.load(run)
    prepared = prepared or plan.open_data(run)
    member = plan.member(name)
    folder = run.member(name) if fold is None else run.member(name).fold(fold)
    if folder.finished():
        return
    folder.checkpoints.mkdir(parents=True, exist_ok=True)

    seed = plan.seed(name, fold)
    seed_everything(seed)
    classes = prepared.table.classes
    classifier = build(
        member.network,
        num_classes=len(classes),
        config=member.model,
        channels=plan.channels,
        image_size=plan.image_size,
    )
    held_out = fold_rows(prepared, plan)[fold] if fold is not None else np.array([], dtype=np.int64)
    rows = np.setdiff1d(prepared.rows("train"), held_out)
    choose_with = "test" if member.training.selection == "test" else "validation"
    workers = plan.data_config.num_workers
    specs = (classifier.spec,)
    batches = prepared.training_loader(rows, specs, training=member.training, data=plan.data_config, seed=seed)
    validation = prepared.loader(prepared.rows(choose_with), specs, batch_size=PREDICT_BATCH, num_workers=workers)

    objective = CrossEntropy(
        label_smoothing=member.training.label_smoothing,
        class_weights=_class_weights(member.training.class_weights, prepared, rows),
    )
    config = member.training
    if config.precision == "auto":
        precision = choose_precision(classifier, next(iter(batches.epoch(0))), objective, device=plan.device)
        config = replace(config, precision=precision)  # type: ignore[arg-type]
    training = Training(
        classifier,
        batches,
        validation,
        config=config,
        folder=folder.checkpoints,
        device=plan.device,
        objective=objective,
        observers=[
            EpochLog(folder.path / "train.log"),
            *tensorboard(folder.path / "tensorboard", wanted=plan.run.tensorboard and fold is None),
            *observers,
        ],
    )
    training.resume()
    result = training.run()

    def predicted(part: Rows) -> Predictions:
        source: BatchSource = prepared.loader(part, specs, batch_size=PREDICT_BATCH, num_workers=workers)
        return predict(classifier, source, classes=classes, device=plan.device)

    summary = {
        "seconds": result.seconds,
        "steps": result.steps,
        "epochs": len(result.history),
        "best": {"stage": result.best.stage + 1, "epoch": result.best.epoch + 1, **result.best.scores},
        "precision": config.precision,
        "threads": torch.get_num_threads(),
    }
    result.history.save(folder.path / "history.jsonl")
    if fold is not None:
        predicted(held_out).save(folder.path / "predictions.npz")
        folder.finish(summary)
        return
    for split in wanted_splits(plan):
        if len(prepared.rows(split)):
            predicted(prepared.rows(split)).save(run.predictions(name, split))
    counts = summarize(classifier)
    Bundle(classes, (Member(name, classifier, member.model),)).save(folder.bundle)
    folder.finish({**summary, **{key: counts[key] for key in ("parameters", "trainable", "buffers", "flops", "input")}})


def wanted_splits(plan: Plan) -> tuple[str, ...]:
    """Return the splits that are predicted: the training rows only where the fusion learns from them."""
    learns_from_train = "e2e" in plan.run.fuse and plan.fusion.regime == "cached" and plan.fusion.data == "train"
    return ("validation", "test", "train") if learns_from_train else ("validation", "test")


def _class_weights(kind: str, prepared: PreparedData, rows: Rows) -> list[float] | None:
    if kind == "none":
        return None
    counts = np.bincount(prepared.table.labels[rows], minlength=len(prepared.table.classes))
    return balanced_class_weights(counts.tolist())


def main() -> int:
    """Train one member as a process of its own, reporting events on standard output."""
    parser = argparse.ArgumentParser(prog="python -m tercet.workflows.member")
    parser.add_argument("run")
    parser.add_argument("name")
    parser.add_argument("--fold", type=int)
    arguments = parser.parse_args()
    events = EventStream(sys.stdout)
    try:
        run = RunFolder.open(arguments.run)
        torch.set_num_threads(Plan.load(run).threads)
        train_member(run, arguments.name, fold=arguments.fold, observers=[events])
    except BrokenPipeError:
        os._exit(1)  # the process that reads the events is gone
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        events.error(str(known), known.exit_code)
        return known.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
