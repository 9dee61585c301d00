"""Small networks: a linear baseline, two CNNs, recurrent classifiers of pixel rows, MobileNetV1.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import tercet.core.torchvision_ops  # noqa: F401  # isort: skip  (before timm and lightning)

from collections import OrderedDict
from dataclasses import replace
from functools import partial
from typing import Any, cast

from timm.models import generate_default_cfgs, register_model
from timm.models.efficientnet import EfficientNet, _gen_mobilenet_v1
from torch import nn

from tercet.core.errors import ConfigError
from tercet.models.classifier import Classifier
from tercet.models.heads import FITTED, HEADS
from tercet.models.layers import dense_layer
from tercet.models.recurrent import Cell, PixelScan, PixelSequence, RecurrentStack
from tercet.models.registry import NETWORKS, BuildRequest, ModelEntry, plain_spec

_FILTERS = 32


def build_small_cnn(request: BuildRequest) -> Classifier:
    """Return the notebook's small CNN: 697,130 parameters for 28 x 28 x 1 and 10 classes.

    Convolution (32 filters 3 x 3, no padding, ReLU), 2 x 2 max-pooling, dense 128 (ReLU), dropout, dense 32 (ReLU),
    dropout, classes. Initial weights are those of Keras.

    Raises:
        ConfigError: The images are smaller than 4 x 4 pixels, so that no feature is left.
    """
    config, spec = request.config, plain_spec(request)
    height, width = (spec.size[0] - 2) // 2, (spec.size[1] - 2) // 2
    if min(height, width) < 1:
        raise ConfigError(
            f"small-cnn needs images of at least 4 x 4 pixels, got {spec.size[0]} x {spec.size[1]}: set --input.size"
        )
    convolution = nn.Conv2d(spec.channels, _FILTERS, 3)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    layers = {
        "convolution": convolution,
        "activation": nn.ReLU(),
        "pooling": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),  # B 32 h w to B (32 h w)
    }
    dropout, hidden_dim = 0.2 if config.dropout is None else config.dropout, config.head_hidden_dim or 32
    head = {
        "wide": dense_layer(_FILTERS * height * width, 128),
        "wide_activation": nn.ReLU(),
        "wide_dropout": nn.Dropout(dropout),
        "dense": dense_layer(128, hidden_dim),
        "activation": nn.ReLU(),
        "dropout": nn.Dropout(dropout),
        "classes": dense_layer(hidden_dim, request.num_classes),
    }
    return Classifier(
        request.network,
        spec=spec,
        num_classes=request.num_classes,
        features=nn.Sequential(OrderedDict(layers)),
        head=nn.Sequential(OrderedDict(head)),
    )


_PIXELS_SIDE = 32


def build_pixels(request: BuildRequest) -> Classifier:
    """Return a fitted classifier of the pixels, reduced to 32 x 32 if the images are larger or differ in size."""
    size, config = request.image_size, request.config
    if config.input.size is None and (size is None or max(size) > 2 * _PIXELS_SIDE):
        config = replace(config, input=replace(config.input, size=(_PIXELS_SIDE,)))
    spec = plain_spec(replace(request, config=config))
    count = spec.channels * spec.size[0] * spec.size[1]
    return Classifier(
        request.network,
        spec=spec,
        num_classes=request.num_classes,
        features=nn.Flatten(),  # B C H W to B (C H W)
        head=HEADS[config.head if config.head in FITTED else "logistic"](count, request.num_classes, config),
    )


_LEAF_CONVOLUTIONS = ((16, 7, 2), (64, 5, 2), (128, 3, 1), (256, 3, 1))
"""Filters, kernel size and stride of the leaf CNN's convolutions."""


def build_leaf_cnn(request: BuildRequest) -> Classifier:
    """Return the CNN baseline of the leaf report, table 1: 2,171,568 parameters with three channels and 176 classes.

    Four convolutions without padding, each followed by ReLU, the first three by batch normalisation, the first two by
    max-pooling (3, stride 2); global average pooling, dense 4096 (ReLU), classes, and batch normalisation of the
    logits. Images of 224 pixels become maps of 109, 54, 25, 12, 10 and 8. Initial weights are those of PyTorch, as in
    the report.

    Raises:
        ConfigError: The images are too small, so that no feature is left.
    """
    spec, hidden_dim = plain_spec(request), request.config.head_hidden_dim or 4096
    layers: dict[str, nn.Module] = {}
    channels, map_size = spec.channels, spec.size
    for number, (filters, kernel, stride) in enumerate(_LEAF_CONVOLUTIONS, 1):
        layers[f"convolution{number}"] = nn.Conv2d(channels, filters, kernel, stride)
        layers[f"activation{number}"] = nn.ReLU()
        channels, map_size = filters, _output_size(map_size, kernel, stride)
        if number < 4:
            layers[f"norm{number}"] = nn.BatchNorm2d(filters)
        if number < 3:
            layers[f"pooling{number}"] = nn.MaxPool2d(3, 2)
            map_size = _output_size(map_size, 3, 2)
    if min(map_size) < 1:
        raise ConfigError(
            f"leaf-cnn needs images of at least 107 x 107 pixels, got {spec.size[0]} x {spec.size[1]}: "
            "set --input.size, such as 224"
        )
    layers |= {"pooling": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}  # B 256 h w to B 256
    head = {
        "dense": nn.Linear(channels, hidden_dim),
        "activation": nn.ReLU(),
        "classes": nn.Linear(hidden_dim, request.num_classes),
        "classes_norm": nn.BatchNorm1d(request.num_classes),
    }
    return Classifier(
        request.network,
        spec=spec,
        num_classes=request.num_classes,
        features=nn.Sequential(OrderedDict(layers)),
        head=nn.Sequential(OrderedDict(head)),
    )


def _output_size(size: tuple[int, int], kernel: int, stride: int) -> tuple[int, int]:
    """Return height and width after a convolution or pooling without padding."""
    height, width = ((pixels - kernel) // stride + 1 for pixels in size)
    return height, width


NETWORKS.register("pixels")(
    ModelEntry(
        "logistic regression (or another fitted head) on the pixels, a baseline",
        frozenset({"input"}),
        build_pixels,
        fitted=True,
    )
)
NETWORKS.register("leaf-cnn")(
    ModelEntry(
        "four convolutions, dense 4096, batch normalisation of the logits, for photos of 224 pixels",
        frozenset({"input", "head_hidden_dim"}),
        build_leaf_cnn,
    )
)
NETWORKS.register("small-cnn")(
    ModelEntry(
        "one convolution, pooling and two dense layers (128, 32)",
        frozenset({"input", "num_biases", "head_hidden_dim", "dropout"}),
        build_small_cnn,
    )
)


def build_rows(request: BuildRequest, *, cell: Cell, bidirectional: bool = False) -> Classifier:
    """Return the notebook's row classifier: stacked recurrent layers over the pixel rows, dense (ReLU), classes.

    Args:
        request: Size, channels, classes and options.
        cell: Simple RNN, GRU or LSTM.
        bidirectional: Whether the sequence is read from its end as well, whatever the options.
    """
    config, spec = request.config, plain_spec(request)
    features = PixelSequence("rows" if config.scan == "pooled" else cast("PixelScan", config.scan))
    recurrent = RecurrentStack(
        features.num_inputs(spec.channels, *spec.size),
        cell=cell,
        hidden_size=config.hidden_size or 128,
        num_layers=config.num_layers or 2,
        bidirectional=bidirectional or config.bidirectional,
        activation=config.activation,
        recurrent_activation=config.recurrent_activation,
        reset_after=config.reset_after,
        num_biases=config.num_biases,
    )
    width = config.head_hidden_dim or 32
    layers = {
        "dense": dense_layer(recurrent.output_size, width),
        "activation": nn.ReLU(),
        "classes": dense_layer(width, request.num_classes),
    }
    return Classifier(
        request.network,
        spec=spec,
        num_classes=request.num_classes,
        features=features,
        recurrent=recurrent,
        head=nn.Sequential(OrderedDict(layers)),
    )


_OPTIONS = frozenset({"input", "scan", "hidden_size", "num_layers", "activation", "num_biases", "head_hidden_dim"})
_ROWS = "over pixel rows from top to bottom (or columns, or pixels), 2 layers of 128, dense 32"
_CELLS: tuple[tuple[Cell, str, frozenset[str]], ...] = (
    ("rnn", "simple RNN", frozenset()),
    ("gru", "GRU", frozenset({"recurrent_activation", "reset_after"})),
    ("lstm", "LSTM", frozenset({"recurrent_activation"})),
)
for _cell, _name, _own in _CELLS:
    NETWORKS.register(f"row-{_cell}")(
        ModelEntry(f"{_name} {_ROWS}", _OPTIONS | {"bidirectional"} | _own, partial(build_rows, cell=_cell))
    )
NETWORKS.register("row-bilstm")(
    ModelEntry(
        "LSTM over pixel rows in both directions, 2 layers of 2 x 128, dense 32",
        _OPTIONS | {"recurrent_activation"},
        partial(build_rows, cell="lstm", bidirectional=True),
    )
)


default_cfgs = generate_default_cfgs(
    {
        "mobilenetv1_075": {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "interpolation": "bicubic",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "conv_stem",
            "classifier": "classifier",
        }
    }
)


@register_model  # type: ignore[untyped-decorator]
def mobilenetv1_075(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """Return MobileNetV1 with 0.75 times the channels (Howard et al., arXiv:1704.04861), which timm lacks."""
    return _gen_mobilenet_v1("mobilenetv1_075", 0.75, pretrained=pretrained, **kwargs)
