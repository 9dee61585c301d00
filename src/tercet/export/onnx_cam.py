"""Class-activation maps as ONNX nodes, for the class that the ensemble predicts.

A member supports them if it averages its last feature map over all cells and its head is dense: then the gradient of a
class with respect to the averaged features is a product of the layers' weights, and the map is the feature map weighted
with it (CAM, Zhou et al. 2016; with several dense layers Grad-CAM, Selvaraju et al. 2017).

Shapes: B images, D features, h x w cells of the feature map, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from tercet.ensemble.bundle import Bundle
from tercet.ensemble.member import Member
from tercet.export.onnx_graph import FLOAT, Graph
from tercet.models.backbone import Backbone
from tercet.models.layers import GaussianNoise

_TRAINING_ONLY = (nn.Identity, nn.Dropout, GaussianNoise)
_EPSILON = 1e-12


class CamMember(nn.Module):
    """A network that also returns its feature map and the active units of its head.

    Args:
        member: A member for which `supports_cam` is true.
    """

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.classifier = member.classifier

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images B C H W to logits B K, the feature map B D h w, and a mask B F per ReLU of the head."""
        features = _feature_map(self.classifier.features, self.classifier.preprocess(images))
        values, masks = features.mean((2, 3)), []
        for layer in _layers(self.classifier.head):
            values = layer(values)
            if isinstance(layer, nn.ReLU):
                masks.append((values > 0).to(values.dtype))
        return (values, features, *masks)


@torch.inference_mode()
def supports_cam(member: Member) -> bool:
    """Whether a member's logits are a dense function of its averaged feature map; checked on a random image."""
    classifier = member.classifier
    supported = (nn.Linear, nn.ReLU, nn.BatchNorm1d, *_TRAINING_ONLY)
    layers = list(_layers(classifier.head))
    if not member.views.plain or not isinstance(classifier.recurrent, nn.Identity):
        return False
    if not layers or not all(isinstance(layer, supported) for layer in layers):
        return False
    spec = classifier.spec
    image = torch.rand(1, spec.channels, *spec.size, generator=torch.Generator().manual_seed(0))
    images = classifier.preprocess(image.to(next(classifier.parameters()).device))
    try:
        features = _feature_map(classifier.features, images)
    except (TypeError, RuntimeError, ValueError):
        return False
    if features.ndim != 4 or features.shape[2] * features.shape[3] < 4:
        return False
    averaged, expected = features.mean((2, 3)), classifier.features(images)
    return averaged.shape == expected.shape and bool(torch.allclose(averaged, expected, atol=1e-4, rtol=1e-3))


def _feature_map(features: nn.Module, images: Tensor) -> Tensor:
    """Return the map B D h w before the global average.

    Raises:
        TypeError: The network has no global average pooling.
    """
    if isinstance(features, Backbone) and features.read != "map":
        return cast("Tensor", features.network.forward_features(images))  # type: ignore[operator]
    if isinstance(features, nn.Sequential):
        for name, layer in features.named_children():
            if name == "pooling" and isinstance(layer, nn.AdaptiveAvgPool2d):
                return images
            images = layer(images)
    raise TypeError("the network has no global average pooling")


def _layers(head: nn.Module) -> Iterator[nn.Module]:
    """Yield the leaf modules of a head in order."""
    children = list(head.children())
    if not children:
        yield head
    for child in children:
        yield from _layers(child)


@dataclass(frozen=True)
class CamOutputs:
    """Graph values of a member beside its logits: feature map and masks of `CamMember`."""

    member: Member
    features: str
    masks: tuple[str, ...]
    grid: tuple[int, int]
    """h and w of the feature map."""


def cam_members(bundle: Bundle) -> list[Member]:
    """Return the members whose maps can be averaged: those that read the same part of the image."""
    supported = [member for member in bundle.members if supports_cam(member)] if bundle.sets is None else []
    return [member for member in supported if _crop(member) == _crop(supported[0])]


def _crop(member: Member) -> tuple[Any, ...]:
    spec = member.classifier.spec
    aspect = 1.0 if spec.crop_mode == "squash" else spec.size[0] / spec.size[1]
    return (spec.crop_mode, spec.crop_pct, aspect)


def add_activation_maps(graph: Graph, combined: str, outputs: Sequence[CamOutputs], num_classes: int) -> str:
    """Add the mean of the members' maps of the predicted class, scaled to a maximum of 1; B h w.

    Args:
        graph: Graph to extend.
        combined: Probabilities B K.
        outputs: Outputs of each member; the result has the finest of their grids.
        num_classes: K.
    """
    finest = max((output.grid for output in outputs), key=lambda grid: grid[0] * grid[1])
    top = graph.add("ArgMax", combined, axis=1, keepdims=0)
    one_hot = graph.add("OneHot", top, graph.constant(num_classes, np.int64), graph.constant([0.0, 1.0]))  # B K
    maps = []
    for output in outputs:
        weights = graph.add("Unsqueeze", _gradient(graph, one_hot, output), graph.integers(2, 3))  # B D 1 1
        weighted = graph.add("Mul", output.features, weights)
        cells = graph.add("Relu", graph.add("ReduceSum", weighted, graph.integers(1), keepdims=1))  # B 1 h w
        cells = _normalize(graph, cells)
        if output.grid != finest:
            cells = graph.add("Resize", cells, "", "", graph.integers(*finest), axes=[2, 3], mode="linear")
        maps.append(cells)
    mean = graph.add("ReduceMean", graph.add("Concat", *maps, axis=1), graph.integers(1), keepdims=1)
    return graph.cast(graph.add("Squeeze", _normalize(graph, mean), graph.integers(1)), FLOAT)


def _normalize(graph: Graph, cells: str) -> str:
    """Divide maps B 1 h w by their maximum; maps of zeros stay zero."""
    maximum = graph.add("ReduceMax", cells, graph.integers(2, 3), keepdims=1)
    return graph.add("Div", cells, graph.add("Max", maximum, graph.constant(_EPSILON)))


def _gradient(graph: Graph, one_hot: str, output: CamOutputs) -> str:
    """Return the gradient of the selected class with respect to the averaged features, B D."""
    masks = list(output.masks)
    gradient = one_hot
    for layer in reversed(list(_layers(output.member.classifier.head))):
        if isinstance(layer, nn.Linear):
            gradient = graph.add("MatMul", gradient, graph.constant(layer.weight.detach().cpu().numpy()))
        elif isinstance(layer, nn.ReLU):
            gradient = graph.add("Mul", gradient, masks.pop())
        elif isinstance(layer, nn.BatchNorm1d):
            assert layer.running_var is not None
            scale = layer.weight.detach() / torch.sqrt(layer.running_var + layer.eps)
            gradient = graph.add("Mul", gradient, graph.constant(scale.cpu().numpy()))
    return gradient
