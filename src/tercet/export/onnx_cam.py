"""Class-activation maps inside the file: where a network saw the class that the whole ensemble tells.

A network can have one where it averages its last feature map over all places and everything behind that average is
dense: then the gradient of a class with respect to the averaged features is a product of the layers' weights, and the
map is the feature map weighted with it (Zhou et al. 2016; with several dense layers, Selvaraju et al. 2017).

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
from tercet.export.onnx_preprocessing import InputGeometry
from tercet.models.backbone import Backbone
from tercet.models.heads import GaussianNoise

_NOTHING = (nn.Identity, nn.Dropout, GaussianNoise)  # what only training does
_SMALLEST = 1e-12


class MappedMember(nn.Module):
    """A network that also gives its feature map, and which units of its head are at work.

    Args:
        member: One that `supports_cam`.
    """

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.classifier = member.classifier

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map pictures B C H W to logits B K, the feature map B D h w, and a mask B F for every ReLU of the head."""
        features = _feature_map(self.classifier.features, self.classifier.preprocess(images))
        values, masks = features.mean((2, 3)), []
        for layer in _layers(self.classifier.head):
            values = layer(values)
            if isinstance(layer, nn.ReLU):
                masks.append((values > 0).to(values.dtype))
        return (values, features, *masks)


@torch.inference_mode()
def supports_cam(member: Member) -> bool:
    """Tell whether a member's answer is a dense function of its averaged feature map; it is tried on a picture."""
    classifier = member.classifier
    known = (nn.Linear, nn.ReLU, nn.BatchNorm1d, *_NOTHING)
    layers = list(_layers(classifier.head))
    if not member.views.plain or not isinstance(classifier.recurrent, nn.Identity):
        return False
    if not layers or not all(isinstance(layer, known) for layer in layers):
        return False
    spec = classifier.spec
    picture = torch.rand(1, spec.channels, *spec.size, generator=torch.Generator().manual_seed(0))
    pictures = classifier.preprocess(picture.to(next(classifier.parameters()).device))
    try:
        features = _feature_map(classifier.features, pictures)
    except (TypeError, RuntimeError, ValueError):
        return False
    if features.ndim != 4 or features.shape[2] * features.shape[3] < 4:
        return False
    averaged, read = features.mean((2, 3)), classifier.features(pictures)
    return averaged.shape == read.shape and bool(torch.allclose(averaged, read, atol=1e-4, rtol=1e-3))


def _feature_map(features: nn.Module, pictures: Tensor) -> Tensor:
    """Return the map B D h w that is averaged.

    Raises:
        TypeError: There is none.
    """
    if isinstance(features, Backbone) and features.read == "pooled":
        return cast("Tensor", features.network.forward_features(pictures))  # type: ignore[operator]
    if isinstance(features, nn.Sequential):
        for name, layer in features.named_children():
            if name == "pooling" and isinstance(layer, nn.AdaptiveAvgPool2d):
                return pictures
            pictures = layer(pictures)
    raise TypeError("no feature map is averaged")


def _layers(head: nn.Module) -> Iterator[nn.Module]:
    parts = list(head.children())
    if not parts:
        yield head
    for part in parts:
        yield from _layers(part)


@dataclass(frozen=True)
class ActivationMaps:
    """What a member's graph gave beside its logits."""

    member: Member
    features: str
    masks: tuple[str, ...]


def cam_members(bundle: Bundle) -> list[Member]:
    """Return the members whose maps can be laid over one another: those shown the same part of the image."""
    able = [member for member in bundle.members if supports_cam(member)] if bundle.sets is None else []
    return [member for member in able if _window(member) == _window(able[0])]


def _window(member: Member) -> tuple[Any, ...]:
    shown = InputGeometry.of(member.classifier.spec)
    aspect = 1.0 if shown.crop_mode == "squash" else shown.size[0] / shown.size[1]
    return (shown.crop_mode, shown.crop_pct, aspect)


def add_activation_maps(
    graph: Graph, fused: str, mapped: Sequence[ActivationMaps], grids: Sequence[tuple[int, int]], num_classes: int
) -> str:
    """Add the maps of the fused top class, their mean over members, from 0 to 1 with a maximum of 1; B h w.

    Args:
        graph: Where to.
        fused: Probabilities B K.
        mapped: What the members gave, with the grid of each in `grids`.
        grids: Height and width of each feature map; the result has the finest.
        num_classes: K.
    """
    finest = max(grids, key=lambda grid: grid[0] * grid[1])
    top = graph.add("ArgMax", fused, axis=1, keepdims=0)
    marked = graph.add("OneHot", top, graph.constant(num_classes, np.int64), graph.constant([0.0, 1.0]))  # B K
    maps = []
    for one, grid in zip(mapped, grids, strict=True):
        weights = graph.add("Unsqueeze", _gradient(graph, marked, one), graph.integers(2, 3))  # B D 1 1
        weighted = graph.add("Mul", one.features, weights)
        seen = graph.add("Relu", graph.add("ReduceSum", weighted, graph.integers(1), keepdims=1))  # B 1 h w
        seen = _to_one(graph, seen)
        if grid != finest:
            seen = graph.add("Resize", seen, "", "", graph.integers(*finest), axes=[2, 3], mode="linear")
        maps.append(seen)
    mean = graph.add("ReduceMean", graph.add("Concat", *maps, axis=1), graph.integers(1), keepdims=1)
    return graph.cast(graph.add("Squeeze", _to_one(graph, mean), graph.integers(1)), FLOAT)


def _to_one(graph: Graph, seen: str) -> str:
    """Divide maps B 1 h w by their maximum; where nothing was seen they stay 0."""
    highest = graph.add("ReduceMax", seen, graph.integers(2, 3), keepdims=1)
    return graph.add("Div", seen, graph.add("Max", highest, graph.constant(_SMALLEST)))


def _gradient(graph: Graph, marked: str, one: ActivationMaps) -> str:
    """Return the gradient of the marked class with respect to the averaged features, B D."""
    masks = list(one.masks)
    gradient = marked
    for layer in reversed(list(_layers(one.member.classifier.head))):
        if isinstance(layer, nn.Linear):
            gradient = graph.add("MatMul", gradient, graph.constant(layer.weight.detach().cpu().numpy()))
        elif isinstance(layer, nn.ReLU):
            gradient = graph.add("Mul", gradient, masks.pop())
        elif isinstance(layer, nn.BatchNorm1d):
            assert layer.running_var is not None
            scale = layer.weight.detach() / torch.sqrt(layer.running_var + layer.eps)
            gradient = graph.add("Mul", gradient, graph.constant(scale.cpu().numpy()))
    return gradient
