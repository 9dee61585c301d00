"""Layers of a network: names, output shapes, filters and feature maps."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tercet.config.commands import ExplainConfig
from tercet.core.errors import ConfigError
from tercet.core.output import CommandResult, printable
from tercet.core.registry import did_you_mean
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.explain.grad_cam import layer_output, map_layout
from tercet.explain.hooks import UnsupportedExplanation, capture_outputs
from tercet.models.backbone import to_meta
from tercet.models.classifier import Classifier

_PREFIXES = ("", "features.network.", "features.")
_MAX_SUGGESTIONS, _MIN_SIMILARITY = 3, 0.5


@dataclass(frozen=True)
class Layer:
    """One module of a network."""

    name: str
    """Dotted path in the classifier."""
    type: str
    """Class of the module."""
    shape: tuple[int, ...] | None
    """Output shape without the batch axis; None if the output is not a tensor, or the layer does not run."""


def layer_names(classifier: Classifier) -> list[str]:
    """Return the dotted names of all layers, in the order in which they are defined."""
    return [name for name, _ in classifier.named_modules() if name]


def find_layer(classifier: Classifier, name: str) -> str:
    """Return the full dotted name of a layer given in full or without the prefix of its backbone.

    Raises:
        ConfigError: There is no such layer; similar names are suggested.
    """
    return find_layers([classifier], name)[0]


def find_layers(classifiers: Sequence[Classifier], name: str) -> dict[int, str]:
    """Return the full dotted name of a layer by index of each classifier that has it.

    Args:
        classifiers: Networks to search.
        name: In full or without the prefix of the backbone.

    Raises:
        ConfigError: No classifier has it; similar names in any of them are suggested.
    """
    names_of = [dict.fromkeys(layer_names(classifier)) for classifier in classifiers]
    matches = {
        index: full
        for index, names in enumerate(names_of)
        if (full := next((prefix + name for prefix in _PREFIXES if prefix + name in names), None)) is not None
    }
    if not matches:
        networks = list(dict.fromkeys(f"'{classifier.network}'" for classifier in classifiers))
        subject = f"{networks[0]} has" if len(networks) == 1 else f"{', '.join(networks[:-1])} and {networks[-1]} have"
        suggestion = _suggestion(name, dict.fromkeys(full for names in names_of for full in names))
        raise ConfigError(f"{subject} no layer '{name}'{suggestion}: --layers lists all")
    return matches


def short_name(name: str) -> str:
    """Return a layer's name without the prefix of its backbone."""
    return name.removeprefix(_PREFIXES[1]).removeprefix(_PREFIXES[2])


def _suggestion(name: str, names: Iterable[str]) -> str:
    """Return similar names; last components count too, so that `kernl` suggests `recurrent.kernel`."""
    matcher = difflib.SequenceMatcher(b=name)
    scores: dict[str, float] = {}
    for full in names:
        short = short_name(full)
        for spelling in {full, short, short.rpartition(".")[2]}:
            matcher.set_seq1(spelling)
            if matcher.real_quick_ratio() >= _MIN_SIMILARITY and matcher.quick_ratio() >= _MIN_SIMILARITY:
                scores[short] = max(scores.get(short, 0.0), matcher.ratio())
    ranked = sorted((-score, short.count("."), short) for short, score in scores.items() if score >= _MIN_SIMILARITY)
    suggestions = [short for _, _, short in ranked[:_MAX_SUGGESTIONS]]
    return f", did you mean {' or '.join(map(repr, suggestions))}?" if suggestions else ""


def network_layers(classifier: Classifier) -> list[Layer]:
    """Return all layers with their output shapes, computed without data on the meta device."""
    network = to_meta(classifier)
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[name] = tuple(output.shape[1:])

    modules: list[tuple[str, nn.Module]] = [(name, module) for name, module in network.named_modules() if name]
    image = torch.empty(1, classifier.spec.channels, *classifier.spec.size, device="meta")
    with capture_outputs(modules, record), torch.no_grad():
        network(image)
    return [Layer(name, type(module).__name__, shapes.get(name)) for name, module in modules]


@dataclass(frozen=True)
class Filters:
    """The filters of a convolution."""

    layer: str
    """Dotted name."""
    weights: Tensor
    """O I k k."""


def first_filters(classifier: Classifier) -> Filters:
    """Return the filters of the first convolution.

    Raises:
        UnsupportedExplanation: No convolution reads the image.
    """
    convolutions = [
        (name, module)
        for name, module in classifier.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == classifier.spec.channels
    ]
    if not convolutions:
        raise UnsupportedExplanation(
            f"'{classifier.network}' has no convolution that reads the image, so there are no filters to draw"
        )
    name, convolution = convolutions[0]
    return Filters(name, convolution.weight.detach())


def conv_filters(classifier: Classifier, layer: str) -> Filters | None:
    """Return the filters of a layer; None if it is not a convolution."""
    module = classifier.get_submodule(layer)
    return Filters(layer, module.weight.detach()) if isinstance(module, nn.Conv2d) else None


def feature_maps(classifier: Classifier, image: Tensor, layer: str) -> Tensor:
    """Return a layer's feature maps D h w for an image 1 C H W.

    Raises:
        ConfigError: The layer does not return a map.
    """
    layout = map_layout(classifier, image, layer)
    output = layer_output(classifier, image, layer)
    return layout.split(output)[0]


def list_layers(bundle: str | Path | Bundle, *, member: str | None = None) -> CommandResult:
    """List the layers of a bundle's members with their output shapes.

    Args:
        bundle: Folder of a bundle or run, or a loaded bundle.
        member: List this member only.

    Raises:
        ConfigError: There is no such member.
        ModelError: The bundle is invalid.
    """
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    lines: list[str] = []
    document = {}
    for index in member_indices(loaded, member):
        name, classifier = loaded.members[index].name, loaded.members[index].classifier
        layers = network_layers(classifier)
        width = max(len(layer.name) for layer in layers)
        lines += [f"{printable(name)} ({classifier.network}):", *(_line(layer, width) for layer in layers), ""]
        document[name] = [{**vars(layer), "shape": layer.shape and list(layer.shape)} for layer in layers]
    return CommandResult("\n".join(lines), document)


def require_layers_alone(config: ExplainConfig, images: Sequence[str]) -> None:
    """Raise ConfigError if `--layers` is combined with images or options of explanations."""
    options = ("output", "layer", "filters", "features", "class_name")
    conflicts = [f"--{name.removesuffix('_name')}" for name in options if getattr(config, name)]
    conflicts = ["images"] * bool(images) + conflicts
    if conflicts:
        raise ConfigError(f"--layers only lists layers: remove {', '.join(conflicts)}")


def member_indices(bundle: Bundle, member: str | None) -> tuple[int, ...]:
    """Return the index of the member of this name, or all indices for None.

    Raises:
        ConfigError: There is no such member.
    """
    names = [item.name for item in bundle.members]
    if member is not None and member not in names:
        raise ConfigError(
            f"the bundle has no member '{member}'{did_you_mean(member, names)} (members: {', '.join(names)})"
        )
    return tuple(index for index, name in enumerate(names) if member in (None, name))


def _line(layer: Layer, width: int) -> str:
    shape = "" if layer.shape is None else " x ".join(map(str, layer.shape))
    return f"  {layer.name:<{width}}  {shape:<16}  {layer.type}"
