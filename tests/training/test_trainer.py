import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tercet.config.training import StageConfig, TrainingConfig
from tercet.core.errors import DivergedError, Interrupted, ModelError
from tercet.core.history import EpochRow, History
from tercet.core.types import Batch
from tercet.training.callbacks import TrainingProgress
from tercet.training.trainer import Trainer
from tests.training.toy import Net, Points, make_net, weights


def config(**changes: Any) -> TrainingConfig:
    stages = (StageConfig(lr=1e-2, epochs=3), StageConfig(lr=1e-3, epochs=2))
    return TrainingConfig(**{"stages": stages, "batch_size": 16, **changes})


def training(folder: Path, module: nn.Module | None = None, **changes: Any) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    observers = changes.pop("observers", ())
    return Trainer(
        module or make_net(),
        changes.pop("train", None) or Points(),
        changes.pop("validation", Points(48, seed=1, shuffle=False)),
        config=config(**changes),
        folder=folder,
        observers=observers,
    )


class StopAt:
    """Sends a signal to this process at a step, as a user or a scheduler would."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.at, self.number = step, number

    def step(self, progress: TrainingProgress) -> None:
        if progress.step == self.at:
            os.kill(os.getpid(), self.number)

    def epoch(self, row: EpochRow) -> None:
        pass


def test_it_learns_and_returns_the_best_weights(tmp_path: Path) -> None:
    run = training(tmp_path)
    result = run.run()
    assert result.best.scores["accuracy"] > 0.8
    assert run.validate() == pytest.approx(result.best.scores)
    assert [row.stage for row in result.history] == [0, 0, 0, 1, 1]
    assert result.history.rows[2].note == "stage complete"


def test_two_runs_with_one_seed_give_the_same_weights(tmp_path: Path) -> None:
    first, second = (training(tmp_path / name) for name in "ab")
    torch.manual_seed(3)
    first.run()
    torch.manual_seed(3)
    second.run()
    assert torch.equal(weights(first.raw), weights(second.raw))


@pytest.mark.parametrize("step", [1, 4, 6, 7, 18, 19, 25, 30])
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_resumed_training_is_bit_equal_to_an_uninterrupted_one(
    tmp_path: Path, step: int, ema_decay: float | None
) -> None:
    torch.manual_seed(3)
    whole = training(tmp_path / "whole", ema_decay=ema_decay)
    expected = whole.run()

    torch.manual_seed(3)
    with pytest.raises(Interrupted) as stopped:
        training(tmp_path / "parts", ema_decay=ema_decay, observers=[StopAt(step)]).run()
    assert stopped.value.exit_code == 143
    torch.manual_seed(12345)  # whatever the new process starts with
    rest = training(tmp_path / "parts", Net(), ema_decay=ema_decay)
    assert rest.resume()
    result = rest.run()

    assert torch.equal(weights(rest.raw), weights(whole.raw))
    assert result.best.scores == expected.best.scores
    columns = ("stage", "epoch", "step", "rate", "train_loss", "train_accuracy", "validation", "best", "note")
    for mine, theirs in zip(result.history, expected.history, strict=True):
        assert [getattr(mine, name) for name in columns] == [getattr(theirs, name) for name in columns]


def test_ctrl_c_has_its_own_exit_code(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="--resume") as stopped:
        training(tmp_path, observers=[StopAt(2, signal.SIGINT)]).run()
    assert stopped.value.exit_code == 130


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_signal_during_validation_loses_nothing(tmp_path: Path, ema_decay: float | None) -> None:
    class Loud(Points):
        armed = True

        def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
            for batch in super().epoch(number, start):
                if Loud.armed:
                    os.kill(os.getpid(), signal.SIGTERM)
                    Loud.armed = False
                yield batch

    torch.manual_seed(3)
    whole = training(tmp_path / "whole", ema_decay=ema_decay)
    whole.run()
    torch.manual_seed(3)
    with pytest.raises(Interrupted):
        training(tmp_path / "parts", validation=Loud(48, seed=1, shuffle=False), ema_decay=ema_decay).run()
    rest = training(tmp_path / "parts", Net(), ema_decay=ema_decay)
    rest.resume()
    rest.run()
    assert torch.equal(weights(rest.raw), weights(whole.raw))


def test_a_stage_starts_from_the_best_weights_so_far(tmp_path: Path) -> None:
    class Watch:
        def __init__(self) -> None:
            self.first: torch.Tensor | None = None

        def step(self, progress: TrainingProgress) -> None:
            if progress.stage == 1 and self.first is None:
                self.first = weights(run.raw)

        def epoch(self, row: EpochRow) -> None:
            pass

    watch = Watch()
    stages = (StageConfig(lr=0.5, epochs=4, schedule="constant"), StageConfig(lr=1e-9, epochs=1, schedule="constant"))
    run = training(tmp_path, stages=stages, observers=[watch], optimizer="sgd")
    result = run.run()
    # with a rate of 1e-9 the weights after stage 2's first step are those it began with
    best_of_stage_1 = max((row for row in result.history if row.stage == 0), key=lambda row: row.validation["accuracy"])
    assert result.history.rows[-1].validation["accuracy"] >= best_of_stage_1.validation["accuracy"] - 1e-9
    assert watch.first is not None
    assert torch.allclose(watch.first, weights(run.raw), atol=1e-6)


def test_a_worse_later_stage_does_not_replace_the_global_best(tmp_path: Path) -> None:
    stages = (StageConfig(lr=1e-2, epochs=4), StageConfig(lr=50.0, epochs=1, schedule="constant"))
    result = training(tmp_path, stages=stages, optimizer="sgd", clip_grad_norm=1.0, monitor="loss").run()
    assert result.best.stage == 0
    assert result.history.rows[-1].validation["loss"] > result.best.scores["loss"]
    assert not result.history.rows[-1].best


def test_accumulated_parts_equal_the_whole_batch(tmp_path: Path) -> None:
    class Count(torch.optim.SGD):
        steps = 0

        def step(self, closure: Any = None) -> Any:
            Count.steps += 1
            return super().step(closure)

    results = []
    for parts in (1, 4):
        run = training(tmp_path / str(parts), make_net(dropout=0.0), micro_batches=parts, optimizer="sgd")
        results.append((weights(run.run() and run.raw), run.state.step))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    assert results[0][1] == results[1][1] == 5 * len(Points())


def test_clipping_bounds_the_gradient_at_the_step(tmp_path: Path) -> None:
    norms = []

    class Norm:
        def step(self, progress: TrainingProgress) -> None:
            gradients = [parameter.grad for parameter in run.raw.parameters() if parameter.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(gradients)))

        def epoch(self, row: EpochRow) -> None:
            pass

    run = training(tmp_path, clip_grad_norm=0.05, observers=[Norm()])
    run.run()
    assert max(norms) <= 0.05 + 1e-6
    assert max(norms) > 0.049


def test_a_loss_that_is_not_finite_stops_and_names_the_images(tmp_path: Path) -> None:
    points = Points()
    points.points[5] = math.nan
    run = training(tmp_path, train=points)
    with pytest.raises(DivergedError, match="point-5") as error:
        run.run()
    assert "step" in str(error.value)
    assert torch.isfinite(weights(run.raw)).all()


def test_patience_ends_a_stage_and_says_so(tmp_path: Path) -> None:
    stages = (StageConfig(lr=1e-12, epochs=50, patience=2, schedule="constant"),)
    result = training(tmp_path, stages=stages).run()
    assert len(result.history) == 3
    assert result.history.rows[-1].note == "no better for 2 epochs"


def test_patience_works_on_a_criterion_that_falls(tmp_path: Path) -> None:
    stages = (StageConfig(lr=1e-2, epochs=8, patience=3),)
    result = training(tmp_path, stages=stages, monitor="loss").run()
    assert result.best.scores["loss"] == min(result.history.column("loss"))


def test_steps_may_end_within_an_epoch(tmp_path: Path) -> None:
    result = training(tmp_path, stages=(StageConfig(lr=1e-2, steps=8),)).run()
    assert result.steps == 8
    assert [row.step for row in result.history] == [6, 8]


def test_the_time_limit_ends_the_whole_training(tmp_path: Path) -> None:
    result = training(tmp_path, max_time=1e-6).run()
    assert result.steps == 1
    assert result.history.rows[-1].note == "training time limit"


def test_a_last_batch_of_one_does_not_break_batch_norm(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    result = training(tmp_path, module, train=Points(33, batch_size=16)).run()
    assert result.steps == 5 * 3
    assert module[1].training is False or module[1].num_batches_tracked == 5 * 2


def test_soft_targets_are_scored_by_their_labels(tmp_path: Path) -> None:
    class Soft(Points):
        def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
            for batch in super().epoch(number, start):
                soft = torch.nn.functional.one_hot(batch.targets, 3).float() * 0.9 + 0.1 / 3
                yield Batch(batch.images, soft, batch.ids, batch.targets)

    result = training(tmp_path, train=Soft()).run()
    assert result.history.rows[-1].train_accuracy > 0.5


def test_without_validation_the_last_epoch_is_kept(tmp_path: Path) -> None:
    run = training(tmp_path, validation=None)
    result = run.run()
    assert (result.best.stage, result.best.epoch) == (1, 1)


def test_train_scores_cover_every_sample_of_the_epoch(tmp_path: Path) -> None:
    run = training(tmp_path, make_net(dropout=0.0), stages=(StageConfig(lr=1e-12, epochs=1),), train=Points(40))
    row = run.run().history.rows[0]
    points = run.train
    assert isinstance(points, Points)
    with torch.no_grad():
        logits = run.raw(points.points)
    assert row.train_accuracy == pytest.approx(float((logits.argmax(1) == points.labels).double().mean()))
    assert row.train_loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, points.labels)), rel=1e-4)


def test_the_average_is_what_is_evaluated_and_kept(tmp_path: Path) -> None:
    plain, averaged = training(tmp_path / "a"), training(tmp_path / "b", ema_decay=0.95)
    torch.manual_seed(3)
    plain.run()
    torch.manual_seed(3)
    averaged.run()
    assert not torch.equal(weights(plain.raw), weights(averaged.raw))


def test_a_checkpoint_of_another_plan_or_network_is_refused(tmp_path: Path) -> None:
    training(tmp_path).run()
    with pytest.raises(ModelError, match="another plan"):
        training(tmp_path, stages=(StageConfig(lr=1.0, epochs=1),)).resume()
    with pytest.raises(ModelError, match="another network"):
        training(tmp_path, nn.Linear(6, 3)).resume()


def test_only_files_that_a_checkpoint_names_are_kept(tmp_path: Path) -> None:
    run = training(tmp_path)
    run.run()
    assert run.state.best is not None
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "history.jsonl", run.state.best.file}
    assert History.load(tmp_path / "history.jsonl").to_list() == run.history.to_list()


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_frozen_parameters_stay_bit_identical(tmp_path: Path, optimizer: str) -> None:
    module = make_net()
    first = module.layers[0]
    for parameter in first.parameters():
        parameter.requires_grad_(False)
    before = weights(first).clone()
    training(tmp_path, module, optimizer=optimizer, weight_decay=0.1).run()
    assert torch.equal(weights(first), before)


def test_bf16_trains_and_leaves_the_images_in_32_bits(tmp_path: Path) -> None:
    class Witness(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = make_net(), set()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(images)
            self.seen |= {images.dtype, logits.dtype}
            return logits

    witness = Witness()
    assert training(tmp_path, witness, precision="bf16").run().best.scores["accuracy"] > 0.7
    assert witness.seen == {torch.float32, torch.bfloat16}
