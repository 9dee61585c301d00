"""Initial weights of a linear head: a logistic regression on the features of the backbone with its initial weights.

Training from such a head instead of a random one (LP-FT) keeps the features of a pretrained backbone from being
distorted in the first steps (Kumar et al. 2022, arXiv:2202.10054).
"""

from __future__ import annotations

import torch
from torch import nn

from tercet.config.run import MemberConfig
from tercet.core.errors import ConfigError
from tercet.core.runtime import seeded_generators
from tercet.data.data_module import DataModule, Rows
from tercet.data.feature_cache import FeatureCache, Features, pixel_digests
from tercet.experiments.plan import Plan
from tercet.models.classifier import Classifier
from tercet.models.encoder import Encoder, encoder_key
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
    classifier: Classifier,
    member: MemberConfig,
    plan: Plan,
    prepared: DataModule,
    rows: Rows,
    *,
    features: Features | None = None,
    seed: int,
) -> dict[str, int]:
    """Fit a logistic regression on training images, without augmentation, and set it as the head.

    Args:
        classifier: The network.
        member: Its configuration.
        plan: The plan of the run.
        prepared: The data.
        rows: Training rows.
        features: Features of all rows of the table, if they are known.
        seed: Seed of the cross-validation that chooses the penalty.

    Returns:
        The numbers of features that were computed, and of those that were stored.

    Raises:
        ConfigError: The head is not linear, or the features are not pooled.
        DataError: Fewer than two classes have training rows.
    """
    layer, cache = linear_layer(classifier), FeatureCache()
    with seeded_generators(seed):  # the training is the same whether the features are stored or not
        values = _features(classifier, member, plan, prepared, rows, cache) if features is None else features[rows]
    table = prepared.table.take(rows)
    weights = sample_weights(member.training, table)
    data = TrainingFeatures(values, table.labels, classifier.num_classes, table.groups, weights, seed)
    fitted = fit_logistic(data)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(fitted.tensors["classes.weight"]))
        layer.bias.copy_(torch.from_numpy(fitted.tensors["classes.bias"]))
    return {"computed": cache.computed, "reused": cache.reused}


def _features(
    classifier: Classifier, member: MemberConfig, plan: Plan, prepared: DataModule, rows: Rows, cache: FeatureCache
) -> Features:
    """Return the features of some rows by the backbone with its current weights."""
    encoder = Encoder(classifier, device=plan.device, expected=len(rows))
    specs, workers = (classifier.spec,), plan.data_config.num_workers
    return cache.features(
        encoder_key(classifier, sorted(member.model.backbone.args.items())),
        pixel_digests(prepared.images, rows),
        lambda positions: encoder.encode(prepared.loader(rows[positions], specs, num_workers=workers)),
    )
