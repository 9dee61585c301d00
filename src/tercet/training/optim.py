"""Optimizers and parameter groups, learning-rate schedules, and the moving average of the weights (EMA)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tercet.config.training import StageConfig, TrainingConfig


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups in which matrices and kernels decay, but not biases and normalization."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not weight_decay:
        return [{"params": trainable, "weight_decay": 0.0}]
    matrices = [parameter for parameter in trainable if parameter.ndim > 1]
    vectors = [parameter for parameter in trainable if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def make_optimizer(module: nn.Module, config: TrainingConfig, *, lr: float) -> torch.optim.Optimizer:
    """Return a new optimizer over the trainable parameters.

    Adam's epsilon is 1e-7 as in Keras, with whose defaults the paper trained. PyTorch adds it after the bias
    correction, so the first steps differ from Keras in the seventh digit.
    """
    groups = parameter_groups(module, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    optimizer = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    # fused: one kernel over all tensors, with a tenth of the overhead per parameter
    return optimizer(groups, lr=lr, eps=1e-7, fused=_supports_fused(module.parameters()))


def _supports_fused(parameters: Iterable[nn.Parameter]) -> bool:
    return all(parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda") for parameter in parameters)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


_PLATEAU_THRESHOLD = 1e-4  # relative; the default of PyTorch's `ReduceLROnPlateau`


def stage_steps(stage: StageConfig, steps_per_epoch: int) -> int:
    """Return the number of optimizer steps of a stage, at least 1."""
    if stage.steps is not None:
        return stage.steps
    assert stage.epochs is not None  # StageConfig checks that one of the two is given
    return max(1, round(stage.epochs * steps_per_epoch))


def learning_rate(
    stage: StageConfig, step: int, *, steps_per_epoch: int, validation_losses: Iterable[float] = ()
) -> float:
    """Return the learning rate of a step of a stage.

    The schedule `time` is Keras' decay, lr / (1 + decay * step) with decay = lr / epochs (the paper's equation 26,
    with steps counted from the start of the stage); `cosine` is that of Loshchilov and Hutter, arXiv:1608.03983,
    without restarts.

    Args:
        stage: The stage.
        step: Step within the stage, from 0.
        steps_per_epoch: Steps per epoch.
        validation_losses: Losses of the stage's epochs so far, read by `plateau` only.
    """
    warmup = min(1.0, (step + 1) / (stage.warmup_steps + 1))
    total = stage_steps(stage, steps_per_epoch)
    if stage.schedule == "time":
        epochs = stage.epochs if stage.epochs is not None else total / steps_per_epoch
        decay = stage.decay if stage.decay is not None else stage.lr / epochs
        return warmup * stage.lr / (1 + decay * step)
    if stage.schedule == "cosine":
        fraction = max(0, step - stage.warmup_steps) / max(1, total - stage.warmup_steps)
        return warmup * stage.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
    if stage.schedule == "plateau":
        return warmup * stage.lr * stage.factor ** _plateaus(validation_losses, stage.plateau_patience)
    return warmup * stage.lr


def _plateaus(losses: Iterable[float], patience: int) -> int:
    """Count the plateaus as PyTorch's `ReduceLROnPlateau` does: more than `patience` epochs without improvement."""
    best, bad_epochs, count = math.inf, 0, 0
    for loss in losses:
        if loss < best * (1 - _PLATEAU_THRESHOLD):
            best, bad_epochs = loss, 0
        elif (bad_epochs := bad_epochs + 1) > patience:
            bad_epochs, count = 0, count + 1
    return count


class WeightAverage:
    """Exponential moving average (EMA) of a module's parameters and buffers.

    Args:
        module: The module in training.
        decay: Weight of the old average at each step; None disables averaging.
    """

    def __init__(self, module: nn.Module, decay: float | None) -> None:
        self.module = module
        self.decay = decay
        self.weights: dict[str, Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Restart from the module's current weights."""
        if self.decay is not None:
            self.weights = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights; integer buffers are copied."""
        if self.decay is None:
            return
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - self.decay)
            else:
                self.weights[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the module the averaged weights within the `with` block."""
        if self.decay is None:
            yield
            return
        trained = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.weights)
        try:
            yield
        finally:
            self.module.load_state_dict(trained)
