"""A k-nearest-neighbours classifier as a module, so that bundles and exported files hold it like other heads.

Shapes: B images, F features, N training rows, K classes, k neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tercet.models.layers import UnitNorm

SMALLEST_SHARE = 1e-13
"""Share of the votes of a class without training rows."""
_BOUNDARY = 0.999


def neighbor_votes(similarities: Tensor, labels: Tensor, scale: Tensor, num_classes: int) -> Tensor:
    """Return the share of each class among the k nearest rows, B K.

    Weights are a softmax of scaled similarities, reduced so that they vanish at the neighbour k + 1: a change of the
    k-th neighbour by rounding, as between PyTorch and ONNX Runtime, then changes nothing.

    Args:
        similarities: B (k + 1), the largest first.
        labels: B (k + 1).
        scale: Factor of the similarities, the inverse of the temperature.
        num_classes: K.
    """
    weights = ((similarities - similarities[:, :1]) * scale).exp()
    weights = weights[:, :-1] - _BOUNDARY * weights[:, -1:]  # positive, also for k + 1 equal rows
    weights = weights / weights.sum(dim=1, keepdim=True)
    return weights.new_zeros(weights.shape[0], num_classes).scatter_add(1, labels[:, :-1], weights)


class NearestNeighbors(nn.Module):
    """Maps features B F to logits B K: logarithms of the votes of the most similar training rows (cosine).

    The number of rows and k depend on the training data.

    Args:
        num_features: F.
        num_classes: K.
    """

    resized = ("rows", "labels", "scale")
    """Names of the tensors whose number of rows is that of the loaded ones."""
    labels: Tensor
    scale: Tensor
    smallest: Tensor
    bias: Tensor

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.normalize = UnitNorm(num_features)
        self.rows = nn.Parameter(torch.zeros(2, num_features))  # N F, of norm 1
        self.register_buffer("labels", torch.zeros(2, dtype=torch.int64))  # N
        self.register_buffer("scale", torch.ones(2))  # k + 1 equal values: its length is the number of rows compared
        self.register_buffer("smallest", torch.full((num_classes,), SMALLEST_SHARE))  # K, added to the shares
        self.register_buffer("bias", torch.zeros(num_classes))  # K, logarithms of class weights

    def forward(self, features: Tensor) -> Tensor:
        """Map features to logits."""
        similarities, positions = (self.normalize(features) @ self.rows.T).topk(len(self.scale), dim=1)
        votes = neighbor_votes(similarities, self.labels[positions], self.scale, self.num_classes)
        return torch.log(votes + self.smallest) + self.bias

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        tensors = {name: state_dict.get(f"{prefix}{name}") for name in self.resized}
        sizes = {name: len(value) for name, value in tensors.items() if isinstance(value, Tensor) and value.ndim}
        if len(sizes) == len(tensors):
            labels = tensors["labels"]
            assert labels is not None
            if sizes["rows"] != sizes["labels"] or not 2 <= sizes["scale"] <= sizes["rows"]:
                error_msgs.append(f"{prefix}rows, labels and scale have {', '.join(map(str, sizes.values()))} rows")
            elif labels.is_floating_point() or labels.min() < 0 or labels.max() >= self.num_classes:
                error_msgs.append(f"{prefix}labels are not indices of {self.num_classes} classes")
            else:
                self.rows = nn.Parameter(self.rows.new_zeros(sizes["rows"], self.rows.shape[1]))
                self.labels = self.labels.new_zeros(sizes["labels"])
                self.scale = self.scale.new_zeros(sizes["scale"])
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
