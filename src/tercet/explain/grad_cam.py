"""Class-activation maps: which cells of a layer's map speak for a class (Grad-CAM, Selvaraju et al., ICCV 2017).

Captum does the arithmetic: relu(sum_d a_d F_d), with F_d a feature's map and a_d the mean over its cells of the
logit's gradient. It wants the features on the second axis, so the layer's output takes a way round: laid out as
B D h w, through `place`, where captum looks on, and back. So any layer that returns a map will do, tokens included.

Shapes: h x w cells, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tercet.core.errors import ConfigError
from tercet.explain.hooks import UnsupportedExplanation, captum_attr, capture_outputs, eval_mode, input_leaf
from tercet.explain.layout import Layout, last_feature_map, layout_of
from tercet.models.classifier import Classifier
from tercet.models.label_decoder import DecodingHead


@dataclass(frozen=True)
class ActivationMap:
    """How much each cell of a layer speaks for a class."""

    layer: str
    """Dotted name of the layer."""
    cells: Tensor
    """h w, not negative; all zero where the layer does not speak for the class."""


class _Detour(nn.Module):
    """A classifier whose layer's map passes through `place` as B D h w, on each forward pass of this module."""

    def __init__(self, classifier: Classifier, layer: str, layout: Layout) -> None:
        super().__init__()
        self.place = nn.Identity()
        self._classifier, self._layout = classifier, layout
        self._layer = classifier.get_submodule(layer)

    def forward(self, images: Tensor) -> Tensor:
        """Map 1 C H W to logits 1 K."""
        handle = self._layer.register_forward_hook(self._divert)
        try:
            logits: Tensor = self._classifier(images)
        finally:
            handle.remove()
        return logits

    def _divert(self, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return self._layout.merge(output, self.place(self._layout.split(output)))


def require_logit(classifier: Classifier) -> None:
    """Refuse a network whose answer has no gradient.

    Raises:
        NotOffered: It tells labels one by one.
    """
    if isinstance(classifier.head, DecodingHead):
        raise UnsupportedExplanation(
            "labels that a CNN-RNN tells one by one come from a search, which has no gradient, so there are neither "
            "class-activation maps nor contributions of steps; filters, feature maps and attention roll-out are offered"
        )


def activation_map(classifier: Classifier, image: Tensor, target: int, *, layer: str | None = None) -> ActivationMap:
    """Return the class-activation map of a class at a layer.

    Args:
        classifier: The network.
        image: 1 C H W in [0, 1].
        target: The class, below K.
        layer: Dotted name; None: the last layer that has a map (see `last_feature_map`).

    Raises:
        NotOffered: The network has no layer with a map.
        ConfigError: The named layer has none.
    """
    require_logit(classifier)
    chosen = layer or last_feature_map(classifier, image, target)
    if chosen is None:
        raise UnsupportedExplanation(
            f"no layer of '{classifier.network}' returns a map of the image, so it has no class-activation map"
        )
    layout = map_layout(classifier, image, chosen)
    with eval_mode(classifier):
        detour = _Detour(classifier, chosen, layout)
        cells = captum_attr.LayerGradCam(detour, detour.place).attribute(
            input_leaf(image), target=target, relu_attributions=True
        )
    return ActivationMap(chosen, cells.detach()[0, 0])


def map_layout(classifier: Classifier, image: Tensor, layer: str) -> Layout:
    """Return how a layer holds its map of an image.

    Raises:
        ConfigError: It has none.
    """
    output = layer_output(classifier, image, layer)
    layout = layout_of(classifier, output)
    if layout is None:
        shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else type(output).__name__
        found = shape if isinstance(shape, str) else " x ".join(map(str, shape))
        raise ConfigError(
            f"layer '{layer}' of '{classifier.network}' returns no map of the image ({found}): choose another, which "
            "--layers lists with what they return"
        )
    return layout


def layer_output(classifier: Classifier, image: Tensor, layer: str) -> Any:
    """Return what a layer returns for an image; None where it does not run."""
    seen: list[Any] = []
    part = [(layer, classifier.get_submodule(layer))]
    with eval_mode(classifier), torch.no_grad(), capture_outputs(part, lambda name, output: seen.append(_kept(output))):
        classifier(image)
    return seen[-1] if seen else None


def _kept(output: Any) -> Any:
    """Return an output that the layers after it cannot change in place."""
    return output.detach().clone() if isinstance(output, Tensor) else output
