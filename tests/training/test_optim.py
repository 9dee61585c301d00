"""Learning-rate schedules against the paper's runs and PyTorch's schedulers."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.config.training import PAPER_STAGES, StageConfig, TrainingConfig
from tercet.training.parts import learning_rate, stage_steps


def learning_rates(stage: StageConfig, steps_per_epoch: int = 10) -> list[float]:
    total = stage_steps(stage, steps_per_epoch)
    return [learning_rate(stage, step, steps_per_epoch=steps_per_epoch) for step in range(total)]


# factor at the end of the first stage in the paper's runs, with steps per epoch, epochs and learning rate
@pytest.mark.parametrize(
    ("steps", "epochs", "lr", "factor"),
    [
        (1500, 40, 1e-4, 0.87),
        (1250, 40, 1e-4, 0.89),
        (4722, 20, 1e-3, 0.175),
        (1664, 40, 1e-3, 0.375),
        (227, 10, 2e-4, 0.957),
    ],
)
def test_time_decay_reaches_the_factors_of_the_papers_runs(steps: int, epochs: int, lr: float, factor: float) -> None:
    stage = StageConfig(lr=lr, epochs=epochs)
    final = learning_rate(stage, steps * epochs, steps_per_epoch=steps) / lr
    assert final == pytest.approx(factor, abs=0.006)


def test_time_decay_restarts_with_each_stage() -> None:
    for stage in PAPER_STAGES:
        assert learning_rate(stage, 0, steps_per_epoch=100) == stage.lr


@given(
    st.sampled_from(["time", "constant", "cosine", "plateau"]),
    st.integers(0, 12),
    st.integers(1, 40),
    st.floats(1e-6, 1.0),
)
def test_rates_are_positive_and_at_most_that_of_the_stage(schedule: str, warmup: int, steps: int, lr: float) -> None:
    stage = StageConfig(lr=lr, steps=steps, schedule=schedule, warmup_steps=warmup)
    assert all(0 < rate <= lr * (1 + 1e-12) for rate in learning_rates(stage))


def test_warm_up_rises_to_the_full_rate() -> None:
    stage = StageConfig(lr=1.0, steps=10, schedule="constant", warmup_steps=4)
    assert learning_rates(stage)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "time"])
def test_a_warm_up_in_epochs_equals_one_in_steps(schedule: str) -> None:
    first = StageConfig(lr=1.0, epochs=4, schedule=schedule, warmup_epochs=1.5)
    second = StageConfig(lr=1.0, epochs=4, schedule=schedule, warmup_steps=15)
    assert learning_rates(first) == learning_rates(second)
    single = TrainingConfig(lr=1.0, epochs=4, schedule=schedule, warmup_epochs=1.5, head_lr=2.0)
    assert single.stage_list() == (dataclasses.replace(first, head_lr=2.0),)


def test_cosine_decreases_to_almost_zero() -> None:
    values = learning_rates(StageConfig(lr=1.0, steps=100, schedule="cosine"))
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.001


@settings(deadline=None)
@given(st.lists(st.sampled_from([1.0, 0.99995, 0.9998, 0.5, 2.0, math.inf, math.nan]), max_size=40), st.integers(0, 6))
def test_plateau_equals_pytorchs_scheduler(losses: list[float], patience: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", factor=0.5, patience=patience)
    stage = StageConfig(lr=1.0, epochs=50, schedule="plateau", plateau_patience=patience)
    for count, loss in enumerate(losses, 1):
        scheduler.step(loss)
        rate = learning_rate(stage, 0, steps_per_epoch=10, validation_losses=losses[:count])
        if rate > 1e-6:  # PyTorch's scheduler makes no smaller steps
            assert rate == optimizer.param_groups[0]["lr"]


def test_default_plateau_is_the_schedule_of_the_leaf_report() -> None:
    (stage,) = TrainingConfig(epochs=20, lr=3e-4, schedule="plateau").stage_list()
    assert (stage.factor, stage.plateau_patience) == (0.5, 5)


def test_plateau_reduces_only_after_its_patience() -> None:
    stage = StageConfig(lr=1.0, epochs=20, schedule="plateau", plateau_patience=2, factor=0.5)

    def rate(losses: list[float]) -> float:
        return learning_rate(stage, 0, steps_per_epoch=10, validation_losses=losses)

    assert rate([]) == 1.0
    assert rate([1.0, 1.0, 1.0]) == 1.0
    assert rate([1.0, 1.0, 1.0, 1.0]) == 0.5
    assert rate([1.0, 1.0, 1.0, 1.0, 0.5, 0.6, 0.6]) == 0.5
    assert rate([1.0, math.nan, math.nan, math.nan]) == 0.5
