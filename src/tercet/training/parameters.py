"""Which parameters are trained, and by which rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tercet.records.training_config import TrainingConfig


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
