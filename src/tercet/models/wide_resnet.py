"""Wide residual networks for small images (Zagoruyko and Komodakis 2016, arXiv:1605.07146), with names wrn-D-K.

Depth D = 6 n + 4 and width K: a convolution to 16 channels; three groups of n blocks with 16 K, 32 K and 64 K channels,
of which the second and third halve the size; batch normalisation, ReLU, global average pooling, classes. The blocks are
pre-activation residual blocks (He et al., arXiv:1603.05027). Convolutions have no bias and are initialized as in He et
al. (arXiv:1502.01852).

Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from tercet.core.errors import ConfigError
from tercet.models.classifier import Classifier
from tercet.models.layers import dense_layer
from tercet.models.registry import FAMILIES, BuildRequest, ModelEntry, NetworkFamily, plain_spec

_STEM = 16
_NAME = re.compile(r"wrn-([1-9]\d{0,2})-([1-9]\d?)")


class WideBlock(nn.Module):
    """BN, ReLU, 3 x 3 convolution, BN, ReLU, dropout, 3 x 3 convolution, plus shortcut: B C H W to B C' H' W'.

    The shortcut is the identity, or a 1 x 1 convolution of the activated input if the shape changes.

    Args:
        num_inputs: C.
        num_outputs: C'.
        stride: H / H', 1 or 2.
        dropout: Dropout probability between the convolutions.
    """

    def __init__(self, num_inputs: int, num_outputs: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(num_inputs)
        self.conv1 = _convolution(num_inputs, num_outputs, stride=stride)
        self.norm2 = nn.BatchNorm2d(num_outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _convolution(num_outputs, num_outputs)
        same_shape = num_inputs == num_outputs and stride == 1
        self.shortcut = None if same_shape else _convolution(num_inputs, num_outputs, kernel=1, stride=stride)

    def forward(self, images: Tensor) -> Tensor:
        """Map B C H W to B C' H' W'."""
        activated = functional.relu(self.norm1(images))
        residual = self.conv1(activated)
        residual = self.conv2(self.dropout(functional.relu(self.norm2(residual))))
        shortcut = images if self.shortcut is None else self.shortcut(activated)
        return cast("Tensor", shortcut + residual)


def _convolution(num_inputs: int, num_outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(num_inputs, num_outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def build_wide_resnet(request: BuildRequest, *, depth: int, width: int) -> Classifier:
    """Return wrn-D-K: 36,479,194 parameters for D = 28, K = 10, three channels and 10 classes.

    Args:
        request: Size, channels, classes and options.
        depth: D.
        width: K.
    """
    spec, dropout = plain_spec(request), request.config.dropout or 0.0
    layers: dict[str, nn.Module] = {"stem": _convolution(spec.channels, _STEM)}
    channels = _STEM
    for group in range(3):
        blocks = []
        for index in range((depth - 4) // 6):
            num_outputs, stride = _STEM * 2**group * width, 2 if group and not index else 1
            blocks.append(WideBlock(channels, num_outputs, stride=stride, dropout=dropout))
            channels = num_outputs
        layers[f"group{group + 1}"] = nn.Sequential(*blocks)
    layers |= {
        "norm": nn.BatchNorm2d(channels),
        "activation": nn.ReLU(),
        "pooling": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),  # B C 1 1 to B C
    }
    return Classifier(
        request.network,
        spec=spec,
        num_classes=request.num_classes,
        features=nn.Sequential(OrderedDict(layers)),
        head=nn.Sequential(OrderedDict({"classes": dense_layer(channels, request.num_classes)})),
    )


def wide_resnet(name: str) -> ModelEntry:
    """Return the entry of a network wrn-D-K.

    Raises:
        ConfigError: The name has no depth and width, or the depth is not 6 n + 4.
    """
    match = _NAME.fullmatch(name)
    depth, width = (int(match[1]), int(match[2])) if match else (0, 0)
    if depth < 10 or depth % 6 != 4:
        raise ConfigError(
            f"unknown network '{name}': wide residual networks are named wrn-D-K, with a depth D of 10, 16, 22, 28, "
            "34, 40, ... (6 n + 4) and a width K of 1 to 99, such as wrn-16-4, wrn-28-10 or wrn-40-4"
        )
    return ModelEntry(
        f"wide residual network of depth {depth} and width {width}, for small images; any wrn-D-K with D = 6 n + 4",
        frozenset({"input", "dropout"}),
        partial(build_wide_resnet, depth=depth, width=width),
    )


FAMILIES.register("wrn-D-K")(NetworkFamily("wrn-", ("wrn-16-4", "wrn-28-10", "wrn-40-4"), wide_resnet))
