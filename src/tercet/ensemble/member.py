"""Members of a bundle and their manifest entries.

Shapes: B images, M members, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tercet.config.model import BackboneConfig, InputConfig, ModelConfig
from tercet.config.tta import NO_TTA, TTAConfig
from tercet.core.errors import ConfigError, ModelError
from tercet.core.predictions import Predictions
from tercet.core.types import BatchSource
from tercet.models.backbone import backbone_origin
from tercet.models.build import build
from tercet.models.classifier import Classifier
from tercet.models.forward import predict_logits
from tercet.models.heads import HEADS
from tercet.models.registry import NETWORKS
from tercet.models.tta import TTAModel
from tercet.models.weight_files import check_shapes, load_weights


@dataclass(frozen=True)
class Member:
    """One network of a bundle, with its configuration and test-time augmentation."""

    name: str
    classifier: Classifier
    """Takes images B C H W in [0, 1], returns logits B K."""
    config: ModelConfig
    """Options from which the network can be built again."""
    views: TTAConfig = NO_TTA

    def __post_init__(self) -> None:
        if len(self.views.levels()) > 1:
            raise ConfigError(f"tta '{self.views}': give one number of crops; only training chooses among several")
        self.views.enlarged_size(self.classifier.spec.size)

    def tta_model(self) -> TTAModel:
        """Return the network with its test-time augmentation."""
        return TTAModel(self.classifier, self.views, self.classifier.spec)


class JointMembers(nn.Module):
    """Several members as one module, so that every image is read once."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(member.tta_model() for member in members)

    def forward(self, images: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Return the concatenated logits of all members (B, M K); images are one tensor, or one tensor per member."""
        inputs = images if isinstance(images, tuple) else (images,) * len(self.classifiers)
        return torch.cat([classifier(batch) for classifier, batch in zip(self.classifiers, inputs, strict=True)], dim=1)


def predict_together(
    members: Sequence[Member], source: BatchSource, *, classes: Sequence[str], device: str = "cpu"
) -> list[Predictions]:
    """Return each member's predictions of batches whose images are one tensor, or one tensor per member."""
    logits = predict_logits(JointMembers(members), source, device=device)
    stack = logits.values.reshape(len(logits.ids), len(members), len(classes))
    return [
        Predictions.from_logits(stack[:, index], ids=logits.ids, classes=classes, labels=logits.labels)
        for index in range(len(members))
    ]


def describe_member(member: Member, file: str) -> dict[str, Any]:
    """Return a member's manifest entry; `file` is the name of its weight file."""
    classifier = member.classifier
    config = replace(member.config, weights=None, pretrained=False, input=InputConfig(**classifier.spec.to_dict()))
    network, origin = classifier.network, backbone_origin(classifier)
    if origin is not None:  # a repository's network is built from timm's registry, with the repository's arguments
        network, config = origin.architecture, replace(config, backbone=BackboneConfig(origin.arguments))
    tta = {} if member.views == NO_TTA else {"tta": {"views": str(member.views), "seed": member.views.seed}}
    return {
        "name": member.name,
        "network": network,
        "options": config.to_dict(),
        "input": classifier.spec.to_dict(),
        **({"custom": True} if classifier.custom else {}),
        **({} if origin is None else {"pretrained": origin.weights}),
        **tta,
        "weights": file,
    }


def load_member(weights: dict[str, Path], entry: dict[str, Any], num_classes: int, device: str) -> Member:
    """Build a member from its manifest entry.

    Args:
        weights: Paths of the bundle's files by name; no other file is read.
        entry: The manifest entry from `describe_member`.
        num_classes: K.
        device: Device of the network.

    Raises:
        ModelError: The weights do not fit the network, or are not finite; or a network or head is the caller's and
            not registered.
    """
    name, network = entry["name"], entry["network"]
    if entry.get("custom") and network not in NETWORKS:
        hint = f'load_bundle(path, modules={{"{network}": factory}})'
        raise ModelError(f"member {name} uses the network '{network}' of yours: {hint}")
    config = ModelConfig.from_dict(entry["options"])
    if config.head not in HEADS:
        hint = f'call tercet.register("head", "{config.head}", builder) first'
        raise ModelError(f"member {name} uses the unknown head '{config.head}': if it is yours, {hint}")
    if not entry.get("custom") and ":" in network:
        raise ModelError(f"member {name} has the network '{network}', which is not in timm's registry")
    create = partial(
        build,
        network,
        num_classes=num_classes,
        config=config,
        channels=entry["input"]["channels"],
        image_size=tuple(entry["input"]["size"]),
        load_weights=False,
    )
    file = weights[entry["weights"]]
    if network not in NETWORKS.custom() and config.head not in HEADS.custom():  # those may need values of their tensors
        check_shapes(file, create)
    classifier = create()
    load_finite(file, classifier)
    if (origin := backbone_origin(classifier)) is not None:
        classifier.features.origin = replace(origin, weights=entry.get("pretrained"))  # type: ignore[assignment]
    values = entry.get("tta", {"views": "none", "seed": 0})
    tta = TTAConfig.parse(values["views"], seed=int(values["seed"]))
    return Member(name, classifier.to(device), config, tta)


def load_finite(path: Path, module: nn.Module) -> None:
    """Load weights into a module.

    Raises:
        ModelError: The weights do not fit the module, or are not finite.
    """
    load_weights(path, module)
    names = [name for name, value in module.state_dict().items() if not torch.isfinite(value).all()]
    if names:
        raise ModelError(f"{path} has weights that are not finite, such as {names[0]}")
