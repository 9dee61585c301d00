"""Layers of heads: Gaussian noise, scaling to norm 1, attention pooling, and linear layers initialized as in Keras."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_MOST_HEADS = 8
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


class AttentionPooling(nn.Module):
    """Cross-attention of learned queries to the cells of a feature map, without a positional code.

    There is one query per attention head. It is compared with the normalized cells themselves: a projection of the keys
    would not change which functions the layer can represent, since it can be merged into the query (efficient probing,
    Psomas et al. 2025, arXiv:2506.10178). Each head projects its weighted mean of the cells to F = D / heads values,
    and each value is standardized over the batch.

    Args:
        num_features: D; there are 8 heads if it is a multiple of 8, else the greatest common divisor.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        heads = math.gcd(num_features, _MOST_HEADS)
        self.queries = nn.Parameter(torch.randn(heads, num_features))
        values = nn.init.xavier_uniform_(torch.empty(num_features, num_features))
        self.values = nn.Parameter(values.reshape(heads, num_features, -1))  # heads D F
        self.norm = nn.BatchNorm1d(num_features, affine=False)  # a frozen backbone's features can vary little

    def forward(self, cells: Tensor) -> Tensor:
        """Map B h w D or B N D to B D."""
        num_features = cells.shape[-1]
        cells = functional.layer_norm(cells.flatten(1, -2), (num_features,))
        scores = cells @ self.queries.mT / math.sqrt(num_features)  # B N heads
        means = scores.softmax(dim=1).mT @ cells  # B heads D
        values = means.transpose(0, 1) @ self.values  # heads B F
        pooled: Tensor = self.norm(values.transpose(0, 1).flatten(1))
        return pooled


def dense_layer(num_inputs: int, num_outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer with the initial weights of Keras."""
    layer = nn.Linear(num_inputs, num_outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
