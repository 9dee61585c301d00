"""Layers of heads: Gaussian noise, and linear layers initialized as in Keras."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
