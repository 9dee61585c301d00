"""Initial weights of a linear head: a logistic regression on the features of the backbone with its initial weights.

Training from such a head instead of a random one (LP-FT) keeps the features of a pretrained backbone from being
distorted in the first steps (Kumar et al. 2022, arXiv:2202.10054).
"""

from __future__ import annotations

import torch
from torch import nn

from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError
from tercet.data.feature_table import Features
from tercet.data.table import SampleTable
from tercet.models.classifier import Classifier
from tercet.training.fitted_heads import TrainingFeatures
from tercet.training.linear_heads import fit_logistic
from tercet.training.losses import sample_weights


def linear_layer(classifier: Classifier) -> nn.Linear:
    """Return the linear layer that alone maps a network's pooled features to logits.

    Raises:
        ConfigError: There are other layers after the backbone, or the features are not pooled.
    """
    layers = list(classifier.head.children())
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear) or not isinstance(classifier.recurrent, nn.Identity):
        raise ConfigError(
            f"head_init logistic: network '{classifier.network}' has other layers than a linear one after its "
            "backbone: use --head linear without --recurrent, or --head-init random"
        )
    return layers[0]


def initialize_head(
    classifier: Classifier, training: TrainingConfig, table: SampleTable, features: Features, *, seed: int
) -> None:
    """Fit a logistic regression on training images, without augmentation, and set it as the head.

    Args:
        classifier: The network.
        training: Class weights.
        table: N training samples.
        features: Their features by the backbone with its current weights (N F).
        seed: Seed of the cross-validation that chooses the penalty.

    Raises:
        ConfigError: The head is not linear, or the features are not pooled.
        DataError: Fewer than two classes have training rows.
    """
    layer, weights = linear_layer(classifier), sample_weights(training, table)
    fitted = fit_logistic(TrainingFeatures(features, table.labels, classifier.num_classes, table.groups, weights, seed))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(fitted.tensors["classes.weight"]))
        layer.bias.copy_(torch.from_numpy(fitted.tensors["classes.bias"]))
