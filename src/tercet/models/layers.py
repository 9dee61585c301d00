"""Layers of heads: Gaussian noise, scaling to norm 1, and linear layers initialized as in Keras."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_SMALLEST_NORM = 1e-6  # below it a row has the norm 0: it is as far from all others


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


class UnitNorm(nn.Module):
    """Subtracts a centre from features B F and scales each row to norm 1, for cosine similarities.

    Args:
        num_features: F.
    """

    center: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(num_features))

    def forward(self, features: Tensor) -> Tensor:
        """Map B F to B F."""
        return functional.normalize(features - self.center, dim=1, eps=_SMALLEST_NORM)


def dense_layer(num_inputs: int, num_outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer with the initial weights of Keras."""
    layer = nn.Linear(num_inputs, num_outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
