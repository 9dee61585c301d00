"""Classification heads by name: features B D, or a feature map B h w D (attention), to logits B K.

PyTorch is imported when a head is built, because the command line lists the names without it.

Shapes: B images, D features, K classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from tercet.config.model import ModelConfig
from tercet.core.registry import PARTS, Registry

if TYPE_CHECKING:
    from torch import nn

HeadBuilder = Callable[[int, int, ModelConfig], "nn.Module"]
HEADS: Registry[HeadBuilder] = PARTS["head"]
"""Builders by name: (D, K, options) to a module."""
OPTIONS = {
    "paper": frozenset({"head_hidden_dim", "noise"}),
    "linear": frozenset[str](),
    "logistic": frozenset[str](),
    "ridge": frozenset[str](),
    "prototype": frozenset[str](),
    "knn": frozenset[str](),
    "mlp": frozenset({"head_hidden_dim", "dropout"}),
    "attention": frozenset[str](),
}
"""Fields of `ModelConfig` that have an effect on each built-in head; on a caller's head all may have one."""
WITH_HIDDEN_LAYER = frozenset({"paper", "mlp"})
"""Heads with a hidden layer, which replaces the hidden layers of a network's own head, such as those of VGG."""


def head_options(name: str) -> frozenset[str]:
    """Return the fields of `ModelConfig` that have an effect on a head.

    Raises:
        ConfigError: The head is unknown.
    """
    _ = HEADS[name]
    return OPTIONS.get(name, frozenset({"head_hidden_dim", "noise", "dropout"}))


@HEADS.register("paper")
def paper_head(num_features: int, num_classes: int, config: ModelConfig) -> nn.Module:
    """Gaussian noise, hidden layer (1024 units by default) with ReLU, linear: the head of the paper."""
    from torch import nn

    from tercet.models.layers import GaussianNoise, dense_layer

    width = config.head_hidden_dim or 1024
    layers = {
        "noise": GaussianNoise(config.noise),
        "dense": dense_layer(num_features, width),
        "activation": nn.ReLU(),
        "classes": dense_layer(width, num_classes),
    }
    return nn.Sequential(OrderedDict(layers))


FITTED = frozenset({"logistic", "ridge", "knn", "prototype"})
"""Heads that are fitted on the features of a frozen backbone, by `tercet.training.fitted_heads`."""


@HEADS.register("logistic")
@HEADS.register("ridge")
@HEADS.register("linear")
def linear_head(num_features: int, num_classes: int, config: ModelConfig) -> nn.Module:
    """A single linear layer; trained by gradient steps (linear), or fitted on features (logistic, ridge)."""
    from torch import nn

    from tercet.models.layers import dense_layer

    return nn.Sequential(OrderedDict({"classes": dense_layer(num_features, num_classes)}))


@HEADS.register("prototype")
def prototype_head(num_features: int, num_classes: int, config: ModelConfig) -> nn.Module:
    """The distances to the mean of each class, of features scaled to norm 1; they are linear in these features."""
    from torch import nn

    from tercet.models.layers import UnitNorm, dense_layer

    layers = {"normalize": UnitNorm(num_features), "classes": dense_layer(num_features, num_classes)}
    return nn.Sequential(OrderedDict(layers))


@HEADS.register("knn")
def knn_head(num_features: int, num_classes: int, config: ModelConfig) -> nn.Module:
    """The votes of the most similar training images."""
    from tercet.models.nearest_neighbors import NearestNeighbors

    return NearestNeighbors(num_features, num_classes)


@HEADS.register("mlp")
def mlp_head(num_features: int, num_classes: int, config: ModelConfig) -> nn.Module:
    """Hidden layer (512 units by default) with ReLU, dropout (0.3 by default), linear."""
    from torch import nn

    from tercet.models.layers import dense_layer

    width = config.head_hidden_dim or 512
    layers = {
        "dense": dense_layer(num_features, width),
        "activation": nn.ReLU(),
        "dropout": nn.Dropout(0.3 if config.dropout is None else config.dropout),
        "classes": dense_layer(width, num_classes),
    }
    return nn.Sequential(OrderedDict(layers))


@HEADS.register("attention")
def attention_head(num_features: int, num_classes: int, config: ModelConfig) -> nn.Module:
    """Attention pooling of the cells of the feature map, linear."""
    from torch import nn

    from tercet.models.layers import AttentionPooling, dense_layer

    layers = {"pool": AttentionPooling(num_features), "classes": dense_layer(num_features, num_classes)}
    return nn.Sequential(OrderedDict(layers))
