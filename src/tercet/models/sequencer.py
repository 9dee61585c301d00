"""Sequencer2D with other cells: timm's sequencer2d_s, m and l with GRUs or simple RNNs instead of LSTMs.

Sequencer (Tatsunami and Taki 2022, arXiv:2205.01972) replaces attention by two bidirectional recurrent layers, one
along the columns and one along the rows of the feature map. Importing this module registers the networks with timm;
there are no pretrained weights for them.

Shapes: B images, H x W feature map, D features.
"""

from __future__ import annotations

import tercet.core.torchvision_ops  # noqa: F401  # isort: skip  (before timm and lightning)

from collections.abc import Callable
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs, register_model
from timm.models.sequencer import RNN2dBase, Sequencer2d, _create_sequencer2d
from torch import nn


class _Recurrent2d(RNN2dBase):  # type: ignore[misc]
    """Recurrent layers along both axes of B H W D, joined and projected back to D.

    Args:
        input_size: D.
        hidden_size: Units per direction.
        num_layers: Number of layers.
        bias: Whether gates have biases.
        bidirectional: Whether each axis is scanned in both directions.
        union: How the axes are joined (cat, add), or the only axis (vertical, horizontal).
        with_fc: Whether a linear layer projects back to D.
        **options: `device` and `dtype`.
    """

    kernel: Callable[..., nn.RNNBase]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        bidirectional: bool = True,
        union: str = "cat",
        with_fc: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, bidirectional, union, with_fc, **options)
        arguments = {"bias": bias, "bidirectional": bidirectional, "batch_first": True, **options}
        for axis, enabled in (("rnn_v", self.with_vertical), ("rnn_h", self.with_horizontal)):
            if enabled:
                setattr(self, axis, type(self).kernel(input_size, hidden_size, num_layers, **arguments))


class GRU2d(_Recurrent2d):
    """GRUs along both axes."""

    kernel = nn.GRU


class RNN2d(_Recurrent2d):
    """Simple RNNs (tanh) along both axes."""

    kernel = nn.RNN


_DEPTHS = {"s": (4, 3, 8, 3), "m": (4, 3, 14, 3), "l": (8, 8, 16, 4)}
_LAYERS = {"gru": GRU2d, "rnn": RNN2d}
default_cfgs = generate_default_cfgs(
    {
        f"sequencer2d_{size}_{cell}": {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "fixed_input_size": True,
            "pool_size": None,
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "stem.proj",
            "classifier": "head.fc",
        }
        for size in _DEPTHS
        for cell in _LAYERS
    }
)


def _register(size: str, cell: str) -> None:
    """Register a network with timm, which takes the name of the function and this module's `default_cfgs`."""

    def create(pretrained: bool = False, **kwargs: Any) -> Sequencer2d:
        architecture = {"layers": _DEPTHS[size], "patch_sizes": (7, 2, 1, 1), "rnn_layer": _LAYERS[cell]}
        return _create_sequencer2d(create.__name__, pretrained=pretrained, **{**architecture, **kwargs})

    create.__name__ = f"sequencer2d_{size}_{cell}"
    register_model(create)


for _size in _DEPTHS:
    for _cell in _LAYERS:
        _register(_size, _cell)
