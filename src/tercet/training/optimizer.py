"""Optimizers of a training: parameter groups with their own learning rates, and the optimizers of timm by name."""

from __future__ import annotations

import tercet.core.torchvision_ops  # noqa: F401  # isort: skip  (before timm)

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import timm.optim
import torch
from torch import nn

from tercet.config.training import StageConfig, TrainingConfig
from tercet.core.errors import ConfigError, naming_part
from tercet.models.classifier import Classifier
from tercet.training.parts import OPTIMIZERS, ParameterGroups

_NOT_RESUMABLE = ("kron",)  # these draw from a generator whose state is not in their state dict


def timm_optimizers() -> list[str]:
    """Return the names of timm's optimizers, without those that need second derivatives or cannot be resumed."""
    return [
        name
        for name in timm.optim.list_optimizers()
        if not timm.optim.get_optimizer_info(name).second_order and not name.startswith(_NOT_RESUMABLE)
    ]


def make_optimizer(module: nn.Module, config: TrainingConfig, stage: StageConfig) -> torch.optim.Optimizer:
    """Return a new optimizer over the trainable parameters, with the initial learning rates of a stage.

    Args:
        module: The network, or the part after its backbone.
        config: Optimizer, weight decay and layer decay.
        stage: Learning rates.

    Raises:
        ConfigError: The optimizer is unknown, or the network lacks the layers that `head_lr` or `layer_decay` is about.
        PartError: The optimizer raises an exception.
    """
    name, lr = config.optimizer, stage.lr
    groups = parameter_groups(module, config, head_scale=1.0 if stage.head_lr is None else stage.head_lr / lr)
    with naming_part(f"optimizer '{name}'"):
        if name in OPTIMIZERS or name not in timm_optimizers():
            return OPTIMIZERS[name](groups, lr=lr)
        return cast(
            "torch.optim.Optimizer",
            timm.optim.create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=config.weight_decay),
        )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group: `lr` times the `lr_scale` of the group, if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def parameter_groups(module: nn.Module, config: TrainingConfig, *, head_scale: float = 1.0) -> ParameterGroups:
    """Return parameter groups in which matrices and kernels decay, but not biases and normalization.

    Groups whose learning rate differs from that of the training have it as the factor `lr_scale`.

    Args:
        module: The network, or the part after its backbone.
        config: Weight decay and layer decay.
        head_scale: Factor of the learning rate of the layers after the backbone.

    Raises:
        ConfigError: The network lacks the layers that `head_scale` or the layer decay is about.
    """
    scales = {} if config.layer_decay is None else _layer_scales(module, config.layer_decay)
    if head_scale != 1.0:
        scales |= {id(parameter): head_scale for parameter in _after_backbone(module)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            key = scales.get(id(parameter), 1.0), config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": groups[scale, decay], "weight_decay": decay, **({} if scale == 1.0 else {"lr_scale": scale})}
        for scale, decay in sorted(groups, reverse=True)
    ]


def _after_backbone(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters after the backbone; all, if the module takes features."""
    if not isinstance(module, Classifier):
        return list(module.parameters())
    parameters = [*module.recurrent.parameters(), *module.head.parameters()]
    classifier = getattr(module.features, "get_classifier", None)  # of a timm network that the caller gives
    if not parameters and classifier is not None and isinstance(head := classifier(), nn.Module):
        parameters = list(head.parameters())
    if not parameters:
        raise ConfigError(f"head_lr: network '{module.network}' has no layers after a backbone: omit --head-lr")
    return parameters


@dataclass(frozen=True)
class _Layers:
    """A timm network and the layers after it, as `param_groups_layer_decay` reads them."""

    network: nn.Module
    after: nn.ModuleList

    @property
    def group_matcher(self) -> Callable[..., Any]:
        """Return the patterns of the layer groups; names that match none, as those of a head, are the last group."""
        return cast("Callable[..., Any]", self.network.group_matcher)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters from the input to the logits."""
        yield from self.network.named_parameters()
        yield from self.after.named_parameters(prefix="after_backbone")


def _layer_scales(module: nn.Module, layer_decay: float) -> dict[int, float]:
    """Return the factor of the learning rate of each trainable parameter, by its `id`; none without a backbone."""
    if not isinstance(module, Classifier):
        return {}
    network = getattr(module.features, "network", module.features)
    if not hasattr(network, "group_matcher"):
        raise ConfigError(
            f"layer_decay: network '{module.network}' is not a timm network with layer groups: omit --layer-decay"
        )
    layers = _Layers(network, nn.ModuleList([module.recurrent, module.head]))
    groups = timm.optim.param_groups_layer_decay(cast("nn.Module", layers), layer_decay=layer_decay)
    return {id(parameter): float(group["lr_scale"]) for group in groups for parameter in group["params"]}
