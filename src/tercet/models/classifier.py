"""A classifier: preprocessing, features, recurrent part and head in one module that takes images as they come.

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
    """Brings images to what a network was made for: size, channels, mean and standard deviation.

    Maps B C H W in [0, 1], of any size, to B C' H' W'. Loaders that resized already lose nothing: at the right size and
    with the right channels only the normalisation is left. The aspect ratio is not kept here; where it should be
    (`crop_mode` of the spec), loaders crop or pad with `tercet.core.resize.fit_size` before.

    Args:
        spec: What the network wants.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)
        self._normalise = any(spec.mean) or any(value != 1 for value in spec.std)

    def forward(self, images: Tensor) -> Tensor:
        """Map B C H W to B C' H' W'."""
        images = scale(images, self.spec.size, cast("Interpolation", self.spec.interpolation))
        images = to_channels(images, self.spec.channels)
        return (images - self.mean) / self.std if self._normalise else images

    def extra_repr(self) -> str:
        """Return the spec for `repr`."""
        return f"size={self.spec.size}, channels={self.spec.channels}, mean={self.spec.mean}, std={self.spec.std}"


class Classifier(nn.Module):
    """One network from images to logits, in four parts that other modules may use one by one.

    Args:
        network: Its name.
        spec: What it wants to see; `preprocess` brings any images there.
        num_classes: K.
        features: Backbone or trunk: B C H W to whatever `recurrent` reads.
        recurrent: To the features B F; `nn.Identity` where there is none.
        head: To the logits B K.
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
        self._fixed: tuple[str, ...] = ()

    def freeze(self, rules: Sequence[FreezeRule]) -> None:
        """Freeze what a table of name patterns says: bit-identical from now on, running statistics included.

        Args:
            rules: The table, from `read_rules`; `freezing` then tells what each line matched.

        Raises:
            ConfigError: The table does not cover every name, has a pattern without a match, or leaves nothing to train.
        """
        self.freezing = match_rules(self.network, self, rules)
        self._fixed = apply_rules(self, self.freezing)
        self.train(self.training)

    def train(self, mode: bool = True) -> Classifier:
        """Set the mode of all parts but the frozen ones, which stay in evaluation mode."""
        super().train(mode)
        for name in self._fixed:
            self.get_submodule(name).training = False
        return self

    def embed(self, images: Tensor) -> Tensor:
        """Map images B C H W in [0, 1] to the features B F that the head reads."""
        return cast("Tensor", self.recurrent(self.features(self.preprocess(images))))

    def forward(self, images: Tensor, sequence: Tensor | None = None) -> Tensor:
        """Map images B C H W, floats in [0, 1] of any size, to logits B K.

        Args:
            images: The images.
            sequence: B T, labels for a decoder to follow (`tercet.models.label_decoder`); other heads take none.
        """
        features = self.embed(images)
        return cast("Tensor", self.head(features) if sequence is None else self.head(features, sequence))
