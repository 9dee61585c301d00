"""Parameter groups, learning-rate schedules and the moving average of weights (EMA)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tercet.config.training import StageConfig, TrainingConfig


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters: matrices and kernels decay, biases and normalisation do not."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not weight_decay:
        return [{"params": trained, "weight_decay": 0.0}]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def make_optimizer(module: nn.Module, config: TrainingConfig, *, lr: float) -> torch.optim.Optimizer:
    """Return a fresh optimizer over the trainable parameters.

    Adam's epsilon is 1e-7 as in Keras, whose defaults the paper trained with; PyTorch adds it after the
    bias correction, so the first steps differ from Keras in the seventh digit.
    """
    groups = parameter_groups(module, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    # one kernel over all tensors: a tenth of the per-parameter overhead, and the same on every device it exists on
    return kind(groups, lr=lr, eps=1e-7, fused=_all_float(module.parameters()))


def _all_float(parameters: Iterable[nn.Parameter]) -> bool:
    return all(parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda") for parameter in parameters)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


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


class WeightAverage:
    """Moving average of all parameters and buffers of a module.

    Args:
        module: The module that is trained.
        decay: Share of the old average kept at each update; None turns averaging off.
    """

    def __init__(self, module: nn.Module, decay: float | None) -> None:
        self.module = module
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Start again from the module's present weights."""
        if self.decay is not None:
            self.average = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights; buffers that are no floats are copied."""
        if self.decay is None:
            return
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - self.decay)
            else:
                self.average[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the module carry the averaged weights inside the block."""
        if self.decay is None:
            yield
            return
        trained = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.average)
        try:
            yield
        finally:
            self.module.load_state_dict(trained)
