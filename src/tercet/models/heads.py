"""From features to classes: the three heads that `--head` names. All return logits.

Dense layers start as Keras' do: Glorot-uniform weights, zero biases.

Shapes: B images, D features, K classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tercet.config.model import ModelConfig
from tercet.core.registry import Registry

HeadBuilder = Callable[[int, int, ModelConfig], nn.Module]
HEADS: Registry[HeadBuilder] = Registry("head")
"""Builders that take the number of features, the number of classes and the options."""


class GaussianNoise(nn.Module):
    """Adds zero-mean Gaussian noise in training and nothing in evaluation; keeps the shape.

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
    """Return a linear layer with Keras' initial weights."""
    layer = nn.Linear(num_inputs, num_outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


@HEADS.register("paper")
def paper_head(num_features: int, num_classes: int, config: ModelConfig) -> nn.Module:
    """Gaussian noise, dense layer (`head_hidden_dim`, by default 1024) with ReLU, classes: B D to B K."""
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
    """One linear layer: B D to B K."""
    return nn.Sequential(OrderedDict({"classes": dense_layer(num_features, num_classes)}))


@HEADS.register("mlp")
def mlp_head(num_features: int, num_classes: int, config: ModelConfig) -> nn.Module:
    """Dense layer (512 wide unless told otherwise) with ReLU, dropout (0.3), classes: B D to B K."""
    width = config.head_hidden_dim or 512
    layers = {
        "dense": dense_layer(num_features, width),
        "activation": nn.ReLU(),
        "dropout": nn.Dropout(0.3 if config.dropout is None else config.dropout),
        "classes": dense_layer(width, num_classes),
    }
    return nn.Sequential(OrderedDict(layers))
