"""The training loop: stages, best weights, resume, signals, and the training step."""

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tercet.config.training import StageConfig, TrainingConfig
from tercet.core.errors import DivergedError, Interrupted, ModelError
from tercet.core.history import EpochRow, History
from tercet.core.types import Batch
from tercet.training.callbacks import TrainingProgress
from tercet.training.checkpoint import TrainingResult
from tercet.training.parts import epochs_without_improvement
from tercet.training.trainer import Trainer
from tests.training.toy import Net, Points, StopAt, make_net, weights


def config(**changes: Any) -> TrainingConfig:
    stages = (StageConfig(lr=1e-2, epochs=3), StageConfig(lr=1e-3, epochs=2))
    return TrainingConfig(**{"stages": stages, "batch_size": 16, **changes})


def make_trainer(folder: Path, module: nn.Module | None = None, **changes: Any) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(
        module or make_net(),
        changes.pop("train", None) or Points(),
        changes.pop("validation", Points(48, seed=1, shuffle=False)),
        callbacks=changes.pop("callbacks", ()),
        config=config(**changes),
        folder=folder,
    )


def test_training_learns_and_returns_the_best_weights(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    result = trainer.run()
    assert result.best.scores["accuracy"] > 0.8
    assert trainer.validate() == pytest.approx(result.best.scores)
    assert [row.stage for row in result.history] == [0, 0, 0, 1, 1]
    assert result.history.rows[2].note == "stage complete"


def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    first, second = (make_trainer(tmp_path / name) for name in "ab")
    torch.manual_seed(3)
    first.run()
    torch.manual_seed(3)
    second.run()
    assert torch.equal(weights(first.module), weights(second.module))


class Uninterrupted(NamedTuple):
    """An uninterrupted training: its weights and its result."""

    weights: torch.Tensor
    result: TrainingResult


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[float | None, Uninterrupted]:
    """Return uninterrupted trainings by EMA decay."""
    trainings = {}
    for ema_decay in (None, 0.9):
        torch.manual_seed(3)
        trainer = make_trainer(tmp_path_factory.mktemp("uninterrupted"), ema_decay=ema_decay)
        result = trainer.run()
        trainings[ema_decay] = Uninterrupted(weights(trainer.module), result)
    return trainings


# 6 steps per epoch, 3 epochs in the first stage and 2 in the second: within an epoch, at its end, at the end of a stage
@pytest.mark.parametrize(
    ("step", "ema_decay"),
    [(1, None), (4, 0.9), (6, None), (7, 0.9), (18, None), (18, 0.9), (19, None), (25, 0.9), (30, None)],
)
def test_resume_equals_uninterrupted(
    tmp_path: Path, uninterrupted: dict[float | None, Uninterrupted], step: int, ema_decay: float | None
) -> None:
    expected = uninterrupted[ema_decay]
    torch.manual_seed(3)
    with pytest.raises(Interrupted) as stopped:
        make_trainer(tmp_path, ema_decay=ema_decay, callbacks=[StopAt(step)]).run()
    assert stopped.value.exit_code == 143
    torch.manual_seed(12345)  # the generators of the new process differ
    resumed = make_trainer(tmp_path, Net(), ema_decay=ema_decay)
    assert resumed.resume()
    result = resumed.run()

    assert torch.equal(weights(resumed.module), expected.weights)
    assert result.best.scores == expected.result.best.scores
    columns = ("stage", "epoch", "step", "rate", "train_loss", "train_accuracy", "validation", "best", "note")
    for row, expected_row in zip(result.history, expected.result.history, strict=True):
        assert [getattr(row, name) for name in columns] == [getattr(expected_row, name) for name in columns]


def test_ctrl_c_exits_with_130(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="--resume") as stopped:
        make_trainer(tmp_path, callbacks=[StopAt(2, signal.SIGINT)]).run()
    assert stopped.value.exit_code == 130


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_resume_after_a_signal_during_validation_equals_uninterrupted(
    tmp_path: Path, uninterrupted: dict[float | None, Uninterrupted], ema_decay: float | None
) -> None:
    class SignalOnce(Points):
        sent = False

        def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
            for batch in super().epoch(number, start):
                if not SignalOnce.sent:
                    SignalOnce.sent = True
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

    torch.manual_seed(3)
    with pytest.raises(Interrupted):
        make_trainer(tmp_path, validation=SignalOnce(48, seed=1, shuffle=False), ema_decay=ema_decay).run()
    resumed = make_trainer(tmp_path, Net(), ema_decay=ema_decay)
    resumed.resume()
    resumed.run()
    assert torch.equal(weights(resumed.module), uninterrupted[ema_decay].weights)


def test_a_stage_starts_from_the_best_weights_so_far(tmp_path: Path) -> None:
    class FirstWeights:
        def __init__(self) -> None:
            self.first: torch.Tensor | None = None

        def on_train_batch_end(self, progress: TrainingProgress) -> None:
            if progress.stage == 1 and self.first is None:
                self.first = weights(trainer.module)

        def on_epoch_end(self, row: EpochRow) -> None:
            pass

    callback = FirstWeights()
    stages = (StageConfig(lr=0.5, epochs=4, schedule="constant"), StageConfig(lr=1e-9, epochs=1, schedule="constant"))
    trainer = make_trainer(tmp_path, stages=stages, callbacks=[callback], optimizer="sgd")
    result = trainer.run()
    # with a rate of 1e-9 the weights after stage 2's first step are those it began with
    best_of_stage_1 = max((row for row in result.history if row.stage == 0), key=lambda row: row.validation["accuracy"])
    assert result.history.rows[-1].validation["accuracy"] >= best_of_stage_1.validation["accuracy"] - 1e-9
    assert callback.first is not None
    assert torch.allclose(callback.first, weights(trainer.module), atol=1e-6)


def test_a_worse_later_stage_does_not_replace_the_global_best(tmp_path: Path) -> None:
    stages = (StageConfig(lr=1e-2, epochs=4), StageConfig(lr=50.0, epochs=1, schedule="constant"))
    result = make_trainer(tmp_path, stages=stages, optimizer="sgd", clip_grad_norm=1.0, monitor="loss").run()
    assert result.best.stage == 0
    assert result.history.rows[-1].validation["loss"] > result.best.scores["loss"]
    assert not result.history.rows[-1].best


def test_micro_batches_equal_the_batch(tmp_path: Path) -> None:
    results = []
    for parts in (1, 4):
        trainer = make_trainer(tmp_path / str(parts), make_net(dropout=0.0), micro_batches=parts, optimizer="sgd")
        trainer.run()
        results.append((weights(trainer.module), trainer.state.step))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    assert results[0][1] == results[1][1] == 5 * len(Points())


def test_clip_grad_norm_bounds_the_gradient_norm(tmp_path: Path) -> None:
    norms = []

    class Norm:
        def on_train_batch_end(self, progress: TrainingProgress) -> None:
            gradients = [parameter.grad for parameter in trainer.module.parameters() if parameter.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(gradients)))

        def on_epoch_end(self, row: EpochRow) -> None:
            pass

    trainer = make_trainer(tmp_path, clip_grad_norm=0.05, callbacks=[Norm()])
    trainer.run()
    assert max(norms) <= 0.05 + 1e-6
    assert max(norms) > 0.049


def test_a_non_finite_loss_raises_with_the_image_names(tmp_path: Path) -> None:
    points = Points()
    points.points[5] = math.nan
    trainer = make_trainer(tmp_path, train=points)
    with pytest.raises(DivergedError, match="point-5") as error:
        trainer.run()
    assert "step" in str(error.value)
    assert torch.isfinite(weights(trainer.module)).all()


def test_patience_ends_a_stage_with_a_note(tmp_path: Path) -> None:
    stages = (StageConfig(lr=1e-12, epochs=50, patience=2, schedule="constant"),)
    result = make_trainer(tmp_path, stages=stages).run()
    assert len(result.history) == 3
    assert result.history.rows[-1].note == "no better for 2 epochs"


def test_patience_counts_by_the_metric_alone_while_the_lower_loss_selects_weights(tmp_path: Path) -> None:
    accuracies = iter([0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.7])
    losses = iter([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    stages = (StageConfig(lr=1e-2, epochs=7, patience=2),)
    trainer = make_trainer(tmp_path, stages=stages)
    trainer.scorer = lambda *_: {"accuracy": next(accuracies), "loss": next(losses)}
    result = trainer.run()
    assert [row.validation["accuracy"] for row in result.history] == [0.5, 0.6, 0.6, 0.6]
    assert result.history.rows[-1].note == "no better for 2 epochs"
    assert (result.best.epoch, result.best.scores["loss"]) == (3, 0.7)


@given(
    values=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, math.nan]), min_size=1, max_size=8),
    monitor=st.sampled_from(["accuracy", "loss"]),
)
def test_epochs_without_improvement_are_those_since_the_first_best_value(values: list[float], monitor: str) -> None:
    numbers = [value for value in values if not math.isnan(value)]
    best = (max if monitor == "accuracy" else min)(numbers, default=math.nan)
    first = values.index(best) if numbers else 0
    scores = [{monitor: value} for value in values]
    assert epochs_without_improvement(scores, monitor) == len(values) - 1 - first


def test_without_validation_images_every_epoch_is_an_improvement(tmp_path: Path) -> None:
    stages = (StageConfig(lr=1e-2, epochs=4, patience=1),)
    assert len(make_trainer(tmp_path, stages=stages, validation=None).run().history) == 4


def test_patience_monitors_a_loss_to_its_minimum(tmp_path: Path) -> None:
    stages = (StageConfig(lr=1e-2, epochs=8, patience=3),)
    result = make_trainer(tmp_path, stages=stages, monitor="loss").run()
    assert result.best.scores["loss"] == min(result.history.column("loss"))


def test_a_stage_may_end_within_an_epoch(tmp_path: Path) -> None:
    result = make_trainer(tmp_path, stages=(StageConfig(lr=1e-2, steps=8),)).run()
    assert result.steps == 8
    assert [row.step for row in result.history] == [6, 8]


def test_max_time_ends_all_stages(tmp_path: Path) -> None:
    result = make_trainer(tmp_path, max_time=1e-6).run()
    assert result.steps == 1
    assert result.history.rows[-1].note == "training time limit"


def test_batch_norm_trains_with_a_last_batch_of_one_sample(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    result = make_trainer(tmp_path, module, train=Points(33, batch_size=16)).run()
    assert result.steps == 5 * 3
    assert module[1].training is False or module[1].num_batches_tracked == 5 * 2


def test_training_accuracy_of_soft_targets_uses_the_labels(tmp_path: Path) -> None:
    class Soft(Points):
        def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
            for batch in super().epoch(number, start):
                soft = torch.nn.functional.one_hot(batch.targets, 3).float() * 0.9 + 0.1 / 3
                yield Batch(batch.images, soft, batch.ids, batch.targets)

    result = make_trainer(tmp_path, train=Soft()).run()
    assert result.history.rows[-1].train_accuracy > 0.5


def test_without_validation_the_last_epoch_is_the_best(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, validation=None)
    result = trainer.run()
    assert (result.best.stage, result.best.epoch) == (1, 1)


def test_training_scores_are_means_over_all_samples(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_net(dropout=0.0), stages=(StageConfig(lr=1e-12, epochs=1),), train=Points(40))
    row = trainer.run().history.rows[0]
    points = trainer.train
    assert isinstance(points, Points)
    with torch.no_grad():
        logits = trainer.module(points.points)
    assert row.train_accuracy == pytest.approx(float((logits.argmax(1) == points.labels).double().mean()))
    assert row.train_loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, points.labels)), rel=1e-4)


def test_ema_changes_the_saved_weights(tmp_path: Path) -> None:
    plain, averaged = make_trainer(tmp_path / "a"), make_trainer(tmp_path / "b", ema_decay=0.95)
    torch.manual_seed(3)
    plain.run()
    torch.manual_seed(3)
    averaged.run()
    assert not torch.equal(weights(plain.module), weights(averaged.module))


def test_resume_raises_for_other_stages_or_another_network(tmp_path: Path) -> None:
    make_trainer(tmp_path).run()
    with pytest.raises(ModelError, match="other training stages"):
        make_trainer(tmp_path, stages=(StageConfig(lr=1.0, epochs=1),)).resume()
    with pytest.raises(ModelError, match="another network"):
        make_trainer(tmp_path, nn.Linear(6, 3)).resume()


def test_only_referenced_files_remain(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.run()
    assert trainer.state.best is not None
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "history.jsonl", trainer.state.best.file}
    assert History.load(tmp_path / "history.jsonl").to_list() == trainer.history.to_list()


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_frozen_parameters_stay_bit_identical(tmp_path: Path, optimizer: str) -> None:
    module = make_net()
    first = module.layers[0]
    for parameter in first.parameters():
        parameter.requires_grad_(False)
    before = weights(first).clone()
    make_trainer(tmp_path, module, optimizer=optimizer, weight_decay=0.1).run()
    assert torch.equal(weights(first), before)


def test_bf16_leaves_the_images_in_32_bits(tmp_path: Path) -> None:
    class RecordDtypes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.dtypes = make_net(), set()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(images)
            self.dtypes |= {images.dtype, logits.dtype}
            return logits

    module = RecordDtypes()
    assert make_trainer(tmp_path, module, precision="bf16").run().best.scores["accuracy"] > 0.7
    assert module.dtypes == {torch.float32, torch.bfloat16}
