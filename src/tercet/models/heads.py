"""Classification heads: features B D to logits B K.

Linear layers are initialized as in Keras: Glorot-uniform weights, zero biases.

Shapes: B images, D features, K classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tercet.config.model import ModelConfig
from tercet.core.registry import PARTS, Registry

HeadBuilder = Callable[[int, int, ModelConfig], nn.Module]
HEADS: Registry[HeadBuilder] = PARTS["head"]
"""Builders by name: (D, K, options) to a module."""


class GaussianNoise(nn.Module):
    """Adds zero-mean Gaussian noise in training; the identity in evaluation mode.

    Args:
        std: Standard deviation.
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, features: Tensor) -> Tensor:
        """Map any shape to itself."""
        if not self.training or self.std == 0:
            return features
        return features + self.std * torch.randn_like(features)

    def extra_repr(self) -> str:
        """Return the standard deviation for `repr`."""
        return f"std={self.std}"


def dense_layer(num_inputs: int, num_outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer with the initial weights of Keras."""
    layer = nn.Linear(num_inputs, num_outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


@HEADS.register("paper")
def paper_head(num_features: int, num_classes: int, config: ModelConfig) -> nn.Module:
    """Gaussian noise, hidden layer (1024 units by default) with ReLU, linear: the head of the paper."""
    width = config.head_hidden_dim or 1024
    layers = {
        "noise": GaussianNoise(config.noise),
        "dense": dense_layer(num_features, width),
        "activation": nn.ReLU(),
        "classes": dense_layer(width, num_classes),
    }
    return nn.Sequential(OrderedDict(layers))


@HEADS.register("linear")
def linear_head(num_features: int, num_classes: int, config: ModelConfig) -> nn.Module:
    """A single linear layer."""
    return nn.Sequential(OrderedDict({"classes": dense_layer(num_features, num_classes)}))


@HEADS.register("mlp")
def mlp_head(num_features: int, num_classes: int, config: ModelConfig) -> nn.Module:
    """Hidden layer (512 units by default) with ReLU, dropout (0.3 by default), linear."""
    width = config.head_hidden_dim or 512
    layers = {
        "dense": dense_layer(num_features, width),
        "activation": nn.ReLU(),
        "dropout": nn.Dropout(0.3 if config.dropout is None else config.dropout),
        "classes": dense_layer(width, num_classes),
    }
    return nn.Sequential(OrderedDict(layers))
