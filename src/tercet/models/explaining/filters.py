"""What a network looks for, and what it finds: the filters of a convolution, and the feature maps after any layer.

Shapes: O filters over I channels, k x k pixels each; D features, h x w cells.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tercet.models.classifier import Classifier
from tercet.models.explaining.looking import NotOffered
from tercet.models.explaining.maps import map_layout, output_of


@dataclass(frozen=True)
class Filters:
    """The filters of a convolution."""

    layer: str
    """Dotted name."""
    weights: Tensor
    """O I k k."""


def first_filters(classifier: Classifier) -> Filters:
    """Return the filters of the convolution that reads the image.

    Raises:
        NotOffered: The network has no convolution.
    """
    convolutions = [
        (name, part)
        for name, part in classifier.named_modules()
        if isinstance(part, nn.Conv2d) and part.in_channels == classifier.spec.channels
    ]
    if not convolutions:
        raise NotOffered(
            f"'{classifier.network}' has no convolution that reads the image, so it has no filters to show"
        )
    name, part = convolutions[0]
    return Filters(name, part.weight.detach())


def filters_of(classifier: Classifier, layer: str) -> Filters | None:
    """Return the filters of a layer; None where it is no convolution."""
    part = classifier.get_submodule(layer)
    return Filters(layer, part.weight.detach()) if isinstance(part, nn.Conv2d) else None


def feature_maps(classifier: Classifier, image: Tensor, layer: str) -> Tensor:
    """Return what a layer returns for an image 1 C H W as maps D h w.

    Raises:
        ConfigError: It returns no map.
    """
    layout = map_layout(classifier, image, layer)
    output = output_of(classifier, image, layer)
    return layout.split(output)[0]
