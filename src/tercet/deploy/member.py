"""One network of a bundle: what is needed to build it again, and what it is shown of each image. K classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tercet.evaluation.tta import Viewed
from tercet.ground.errors import ConfigError, ModelError
from tercet.models.build import build
from tercet.models.classifier import Classifier
from tercet.models.weight_files import load_weights
from tercet.records.model_config import InputConfig, ModelConfig
from tercet.records.views import PLAIN, Views


@dataclass(frozen=True)
class Member:
    """One network of a bundle and what is needed to build it again."""

    name: str
    """Name in tables."""
    classifier: Classifier
    """Takes images B C H W in [0, 1], returns logits B K."""
    config: ModelConfig
    """The options it was built with."""
    views: Views = PLAIN
    """Test-time augmentation: what it is shown of each image."""

    def __post_init__(self) -> None:
        if len(self.views.levels()) > 1:
            raise ConfigError(f"tta '{self.views}': give one number of crops; only training chooses among several")
        self.views.picture_size(self.classifier.spec.size)

    def viewed(self) -> Viewed:
        """Return the network as it predicts: shown its views."""
        return Viewed(self.classifier, self.views, self.classifier.spec)


def describe(member: Member, file: str) -> dict[str, Any]:
    """Return a member's entry in the manifest, its weights being in `file`."""
    classifier = member.classifier
    shown = InputConfig(**classifier.spec.to_dict())
    config = replace(member.config, weights=None, pretrained=False, input=shown)
    views = {} if member.views == PLAIN else {"tta": {"views": str(member.views), "seed": member.views.seed}}
    return {
        "name": member.name,
        "network": classifier.network,
        "options": config.to_dict(),
        "input": classifier.spec.to_dict(),
        **views,
        "weights": file,
    }


def load_member(weights: dict[str, Path], entry: dict[str, Any], num_classes: int, device: str) -> Member:
    """Build a member from its entry in the manifest.

    Raises:
        ModelError: The weights are of another network, or not finite.
    """
    config = ModelConfig.from_dict(entry["options"])
    size, channels = tuple(entry["input"]["size"]), entry["input"]["channels"]
    classifier = build(
        entry["network"],
        num_classes=num_classes,
        config=config,
        channels=channels,
        image_size=size,
        load_weights=False,
    )
    load_finite(weights[entry["weights"]], classifier)
    shown = entry.get("tta", {"views": "none", "seed": 0})  # absent: plain, as in bundles from before there was any
    return Member(entry["name"], classifier.to(device), config, Views.parse(shown["views"], seed=int(shown["seed"])))


def load_finite(path: Path, module: nn.Module) -> None:
    """Fill a module with weights.

    Raises:
        ModelError: They are of another network, or not finite.
    """
    load_weights(path, module)
    odd = [name for name, value in module.state_dict().items() if not torch.isfinite(value).all()]
    if odd:
        raise ModelError(f"{path} holds weights that are not finite, such as {odd[0]}")
