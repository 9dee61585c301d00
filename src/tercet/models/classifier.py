"""The classifier: preprocessing, backbone, recurrent module and head in one module that takes images of any size.

Shapes: B images, C channels, H x W pixels, D and F features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from tercet.config.model import FreezeRule
from tercet.core.resize import Interpolation, scale, to_channels
from tercet.core.types import InputSpec
from tercet.models.freeze import FreezeMatch, apply_rules, match_rules


class Preprocess(nn.Module):
    """Resizes images to the network's input size, converts their channels, and normalizes them.

    Maps B C H W in [0, 1], of any size, to B C' H' W'. Images that a loader has resized already are only normalized.
    The aspect ratio is not kept; if the spec's `crop_mode` requires it, loaders crop or pad first
    (`tercet.core.resize.fit_size`).

    Args:
        spec: Input spec of the network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)
        self._normalize = any(spec.mean) or any(value != 1 for value in spec.std)

    def forward(self, images: Tensor) -> Tensor:
        """Map B C H W to B C' H' W'."""
        images = scale(images, self.spec.size, cast("Interpolation", self.spec.interpolation))
        images = to_channels(images, self.spec.channels)
        return (images - self.mean) / self.std if self._normalize else images

    def extra_repr(self) -> str:
        """Return the spec for `repr`."""
        return f"size={self.spec.size}, channels={self.spec.channels}, mean={self.spec.mean}, std={self.spec.std}"


class Classifier(nn.Module):
    """A network from images to logits: `preprocess`, `features`, `recurrent`, `head`.

    Args:
        network: Name of the network.
        spec: Input spec; `preprocess` converts images to it.
        num_classes: K.
        features: Backbone: maps B C H W to the input of `recurrent`.
        recurrent: Maps it to the features B F; None is the identity.
        head: Maps the features to logits B K.
    """

    def __init__(
        self,
        network: str,
        *,
        spec: InputSpec,
        num_classes: int,
        features: nn.Module,
        head: nn.Module,
        recurrent: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network, self.spec, self.num_classes = network, spec, num_classes
        self.preprocess = Preprocess(spec)
        self.features = features
        self.recurrent = recurrent or nn.Identity()
        self.head = head
        self.freezing: tuple[FreezeMatch, ...] = ()
        self._eval_modules: tuple[str, ...] = ()

    def freeze(self, rules: Sequence[FreezeRule]) -> None:
        """Freeze parameters and running statistics by name patterns; `freezing` then lists what each rule matched.

        Args:
            rules: From `tercet.config.model.read_rules`.

        Raises:
            ConfigError: The rules do not cover every name, have a pattern without a match, or leave nothing to train.
        """
        self.freezing = match_rules(self.network, self, rules)
        self._eval_modules = apply_rules(self, self.freezing)
        self.train(self.training)

    def train(self, mode: bool = True) -> Classifier:
        """Set the mode of all modules except frozen ones, which stay in evaluation mode."""
        super().train(mode)
        for name in self._eval_modules:
            self.get_submodule(name).training = False
        return self

    def embed(self, images: Tensor) -> Tensor:
        """Map images B C H W in [0, 1] to the features B F that the head takes."""
        return cast("Tensor", self.recurrent(self.features(self.preprocess(images))))

    def forward(self, images: Tensor, sequence: Tensor | None = None) -> Tensor:
        """Map images B C H W, floats in [0, 1] of any size, to logits B K.

        Args:
            images: The images.
            sequence: B T, label sequence for teacher forcing of a label decoder; None for other heads.
        """
        features = self.embed(images)
        return cast("Tensor", self.head(features) if sequence is None else self.head(features, sequence))
