"""Small convolutional networks without a past.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from tercet.ground.errors import ConfigError
from tercet.models.classifier import Classifier
from tercet.models.heads import dense
from tercet.models.networks import NETWORKS, NamedNetwork, Request, plain_spec

_FILTERS = 32


def build_small_cnn(request: Request) -> Classifier:
    """Return the notebook's small CNN: 697,130 parameters on 28 x 28 x 1 with 10 classes.

    B C H W, convolution (32 filters 3 x 3, no padding, ReLU), max-pooling by 2, flattened, dense 128 (ReLU), dropout,
    dense 32 (ReLU), dropout, classes: B K. Initial weights are Keras'.

    Raises:
        ConfigError: Images under 4 x 4 pixels leave nothing after convolution and pooling.
    """
    config, spec = request.config, plain_spec(request)
    height, width = (spec.size[0] - 2) // 2, (spec.size[1] - 2) // 2
    if min(height, width) < 1:
        raise ConfigError(f"small-cnn needs images of at least 4 x 4 pixels, got {spec.size[0]} x {spec.size[1]}")
    convolution = nn.Conv2d(spec.channels, _FILTERS, 3)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    trunk = {
        "convolution": convolution,
        "activation": nn.ReLU(),
        "pooling": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),  # B 32 h w to B (32 h w)
    }
    drop, narrow = 0.2 if config.dropout is None else config.dropout, config.dense or 32
    head = {
        "wide": dense(_FILTERS * height * width, 128),
        "wide_activation": nn.ReLU(),
        "wide_dropout": nn.Dropout(drop),
        "dense": dense(128, narrow),
        "activation": nn.ReLU(),
        "dropout": nn.Dropout(drop),
        "classes": dense(narrow, request.num_classes),
    }
    return Classifier(
        request.network,
        spec=spec,
        num_classes=request.num_classes,
        features=nn.Sequential(OrderedDict(trunk)),
        head=nn.Sequential(OrderedDict(head)),
    )


NETWORKS.register("small-cnn")(
    NamedNetwork(
        "one convolution, pooling and two dense layers (128, 32)",
        frozenset({"input", "bias", "dense", "dropout"}),
        build_small_cnn,
    )
)
