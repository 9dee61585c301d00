"""Learning-rate schedules: pure functions of the step, so they can be printed and drawn without training."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tercet.records.training_config import StageConfig

_LEAST_FALL = 1e-4  # relative; `ReduceLROnPlateau`'s own threshold


def stage_steps(stage: StageConfig, steps_per_epoch: int) -> int:
    """Return the length of a stage in updates, at least one."""
    if stage.steps is not None:
        return stage.steps
    assert stage.epochs is not None  # StageConfig checks that one of the two is given
    return max(1, round(stage.epochs * steps_per_epoch))


def learning_rate(
    stage: StageConfig, step: int, *, steps_per_epoch: int, validation_losses: Iterable[float] = ()
) -> float:
    """Return the rate of update `step` (from 0) of a stage.

    Args:
        stage: The stage; `time` is Keras' decay lr / (1 + decay * step) with decay = lr / epochs (the paper's
            equation 26, which counts updates since the stage began).
        step: Updates made since the stage began.
        steps_per_epoch: Updates in one epoch.
        validation_losses: Losses of the stage's epochs so far, which only `plateau` goes through.
    """
    warmup = min(1.0, (step + 1) / (stage.warmup_steps + 1))
    total = stage_steps(stage, steps_per_epoch)
    if stage.schedule == "time":
        epochs = stage.epochs if stage.epochs is not None else total / steps_per_epoch
        decay = stage.decay if stage.decay is not None else stage.lr / epochs
        return warmup * stage.lr / (1 + decay * step)
    if stage.schedule == "cosine":
        done = max(0, step - stage.warmup_steps) / max(1, total - stage.warmup_steps)
        return warmup * stage.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if stage.schedule == "plateau":
        return warmup * stage.lr * stage.factor ** _plateaus(validation_losses, stage.plateau_patience)
    return warmup * stage.lr


def _plateaus(losses: Iterable[float], patience: int) -> int:
    """Count how often the loss failed to fall for more than `patience` epochs in a row, as PyTorch's scheduler counts.

    A loss falls where it is lower than the lowest so far by more than a ten-thousandth of it.
    """
    best, waited, count = math.inf, 0, 0
    for loss in losses:
        if loss < best * (1 - _LEAST_FALL):
            best, waited = loss, 0
        elif (waited := waited + 1) > patience:
            waited, count = 0, count + 1
    return count
