"""Class-activation maps by Grad-CAM (Selvaraju et al., ICCV 2017), computed by captum.

The map is relu(sum_d a_d F_d), with feature map F_d and a_d the mean over its cells of the logit's gradient. Captum
expects the features on axis 1, so the layer's output is rearranged to B D h w, passed through a module that captum
hooks, and rearranged back. So any layer that returns a map is supported, tokens included.

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
    """Class-activation map of one class at one layer."""

    layer: str
    """Dotted name of the layer."""
    cells: Tensor
    """h w, non-negative; all zero if nothing at the layer supports the class."""


class _RoutedClassifier(nn.Module):
    """A classifier whose map after `layer` passes through `hook_point` as B D h w."""

    def __init__(self, classifier: Classifier, layer: str, layout: Layout) -> None:
        super().__init__()
        self.hook_point = nn.Identity()
        self._classifier, self._layout = classifier, layout
        self._layer = classifier.get_submodule(layer)

    def forward(self, images: Tensor) -> Tensor:
        """Map 1 C H W to logits 1 K."""
        handle = self._layer.register_forward_hook(self._route)
        try:
            logits: Tensor = self._classifier(images)
        finally:
            handle.remove()
        return logits

    def _route(self, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return self._layout.merge(output, self.hook_point(self._layout.split(output)))


def require_logit(classifier: Classifier) -> None:
    """Raise UnsupportedExplanation for a label decoder: its scores are not differentiable."""
    if isinstance(classifier.head, DecodingHead):
        raise UnsupportedExplanation(
            "a CNN-RNN decodes labels by a search, which has no gradient, so class-activation maps and step "
            "contributions are not available; filters, feature maps and attention rollout are"
        )


def activation_map(classifier: Classifier, image: Tensor, target: int, *, layer: str | None = None) -> ActivationMap:
    """Return the class-activation map of a class at a layer.

    Args:
        classifier: The network.
        image: 1 C H W in [0, 1].
        target: Index of the class.
        layer: Dotted name; None: the last layer with a suitable map (see `last_feature_map`).

    Raises:
        UnsupportedExplanation: The network has no layer with a map, or no gradient.
        ConfigError: The named layer has no map.
    """
    require_logit(classifier)
    name = layer or last_feature_map(classifier, image, target)
    if name is None:
        raise UnsupportedExplanation(
            f"no layer of '{classifier.network}' returns a feature map, so class-activation maps are not available"
        )
    layout = map_layout(classifier, image, name)
    with eval_mode(classifier):
        routed = _RoutedClassifier(classifier, name, layout)
        cells = captum_attr.LayerGradCam(routed, routed.hook_point).attribute(
            input_leaf(image), target=target, relu_attributions=True
        )
    return ActivationMap(name, cells.detach()[0, 0])


def map_layout(classifier: Classifier, image: Tensor, layer: str) -> Layout:
    """Return the layout of a layer's feature map.

    Raises:
        ConfigError: The layer does not return one.
    """
    output = layer_output(classifier, image, layer)
    layout = layout_of(classifier, output)
    if layout is None:
        is_tensor = isinstance(output, Tensor)
        shape = " x ".join(map(str, output.shape[1:])) if is_tensor else type(output).__name__
        raise ConfigError(
            f"layer '{layer}' of '{classifier.network}' does not return a feature map ({shape}): choose another; "
            "--layers lists all layers with their output shapes"
        )
    return layout


def layer_output(classifier: Classifier, image: Tensor, layer: str) -> Any:
    """Return a layer's output for an image; None if the layer does not run."""
    outputs: list[Any] = []
    layers = [(layer, classifier.get_submodule(layer))]

    def record(name: str, output: Any) -> None:  # a copy: the next layer may change its input in place
        outputs.append(output.detach().clone() if isinstance(output, Tensor) else output)

    with eval_mode(classifier), torch.no_grad(), capture_outputs(layers, record):
        classifier(image)
    return outputs[-1] if outputs else None
