"""Wide residual networks for small images (Zagoruyko and Komodakis 2016, arXiv:1605.07146), by names wrn-D-K.

Depth D = 6 n + 4 and width K: a convolution to 16 channels, then three groups of n blocks with 16 K, 32 K and 64 K
channels, the second and third at half the size of the one before; batch normalisation, ReLU, global average, classes.
Blocks normalise before they convolve. Convolutions have no bias and start as He et al. (2015) propose.

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
from tercet.models.heads import dense_layer
from tercet.models.registry import FAMILIES, BuildRequest, ModelEntry, NetworkFamily, plain_spec

_STEM = 16
_NAME = re.compile(r"wrn-([1-9]\d{0,2})-([1-9]\d?)")


class WideBlock(nn.Module):
    """BN, ReLU, 3 x 3 convolution, BN, ReLU, dropout, 3 x 3 convolution, and a shortcut: B C H W to B C' H' W'.

    Where the shape changes the shortcut is a 1 x 1 convolution of the normalised input, else the input itself.

    Args:
        num_inputs: C.
        num_outputs: C'.
        stride: H / H', 1 or 2.
        dropout: Drop probability between the convolutions.
    """

    def __init__(self, num_inputs: int, num_outputs: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(num_inputs)
        self.conv1 = _convolution(num_inputs, num_outputs, stride=stride)
        self.norm2 = nn.BatchNorm2d(num_outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _convolution(num_outputs, num_outputs)
        same = num_inputs == num_outputs and stride == 1
        self.shortcut = None if same else _convolution(num_inputs, num_outputs, side=1, stride=stride)

    def forward(self, images: Tensor) -> Tensor:
        """Map B C H W to B C' H' W'."""
        normalised = functional.relu(self.norm1(images))
        change = self.conv1(normalised)
        change = self.conv2(self.dropout(functional.relu(self.norm2(change))))
        kept = images if self.shortcut is None else self.shortcut(normalised)
        return cast("Tensor", kept + change)


def _convolution(num_inputs: int, num_outputs: int, *, side: int = 3, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(num_inputs, num_outputs, side, stride=stride, padding=side // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def build_wide_resnet(request: BuildRequest, *, depth: int, width: int) -> Classifier:
    """Return wrn-D-K: 36,479,194 parameters for D = 28, K = 10, three channels and 10 classes.

    Args:
        request: What is to be built.
        depth: D.
        width: K.
    """
    spec, dropout = plain_spec(request), request.config.dropout or 0.0
    trunk: dict[str, nn.Module] = {"stem": _convolution(spec.channels, _STEM)}
    channels = _STEM
    for group in range(3):
        blocks = []
        for index in range((depth - 4) // 6):
            wide, stride = _STEM * 2**group * width, 2 if group and not index else 1
            blocks.append(WideBlock(channels, wide, stride=stride, dropout=dropout))
            channels = wide
        trunk[f"group{group + 1}"] = nn.Sequential(*blocks)
    trunk |= {
        "norm": nn.BatchNorm2d(channels),
        "activation": nn.ReLU(),
        "pooling": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),  # B C 1 1 to B C
    }
    return Classifier(
        request.network,
        spec=spec,
        num_classes=request.num_classes,
        features=nn.Sequential(OrderedDict(trunk)),
        head=nn.Sequential(OrderedDict({"classes": dense_layer(channels, request.num_classes)})),
    )


def wide_resnet(name: str) -> ModelEntry:
    """Return the network called wrn-D-K.

    Raises:
        ConfigError: The depth is not 6 n + 4, or there is no depth and width.
    """
    match = _NAME.fullmatch(name)
    depth, width = (int(match[1]), int(match[2])) if match else (0, 0)
    if depth < 10 or depth % 6 != 4:
        raise ConfigError(
            f"there is no '{name}': wide residual networks are called wrn-D-K, with a depth D of 10, 16, 22, 28, 34, "
            "40, ... (6 n + 4) and a width K of 1 to 99, such as wrn-16-4, wrn-28-10 or wrn-40-4"
        )
    return ModelEntry(
        f"wide residual network of depth {depth} and width {width}, for small images; any wrn-D-K with D = 6 n + 4",
        frozenset({"input", "dropout"}),
        partial(build_wide_resnet, depth=depth, width=width),
    )


FAMILIES.register("wrn-D-K")(NetworkFamily("wrn-", ("wrn-16-4", "wrn-28-10", "wrn-40-4"), wide_resnet))
