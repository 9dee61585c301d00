"""Layers of a network, their filters and feature maps."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tercet.config.analysis import ExplainConfig
from tercet.core.errors import ConfigError
from tercet.core.registry import did_you_mean
from tercet.core.result import CommandResult
from tercet.core.streams import printable
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.explain import layers
from tercet.explain.grad_cam import layer_output, map_layout
from tercet.explain.hooks import UnsupportedExplanation, capture_outputs
from tercet.models.backbone import to_meta
from tercet.models.classifier import Classifier

_BEGINNINGS = ("", "features.network.", "features.")
_SUGGESTED, _NEAR = 3, 0.5


@dataclass(frozen=True)
class Layer:
    """One part of a network."""

    name: str
    """Dotted path in the classifier."""
    type: str
    """Class of the module."""
    shape: tuple[int, ...] | None
    """What it returns for one image, without the first axis; None where that is no tensor, or it never runs."""


def layer_names(classifier: Classifier) -> list[str]:
    """Return the dotted names of all layers, in the order in which they are defined."""
    return [name for name, _ in classifier.named_modules() if name]


def find_layer(classifier: Classifier, name: str) -> str:
    """Return the dotted name of the layer that a user named, in full or without a backbone's common beginning.

    Raises:
        ConfigError: There is none; the nearest names are suggested.
    """
    return find_layers([classifier], name)[0]


def find_layers(classifiers: Sequence[Classifier], name: str) -> dict[int, str]:
    """Return the dotted name of a layer in those classifiers that have it, by their places.

    Args:
        classifiers: Networks, at least one of which should have it.
        name: In full or without a backbone's common beginning.

    Raises:
        ConfigError: None has it; the nearest names in any of them are suggested.
    """
    known = [dict.fromkeys(layer_names(each)) for each in classifiers]
    found = {
        place: full
        for place, names in enumerate(known)
        if (full := next((begin + name for begin in _BEGINNINGS if begin + name in names), None)) is not None
    }
    if not found:
        networks = list(dict.fromkeys(f"'{each.network}'" for each in classifiers))
        who = f"{networks[0]} has" if len(networks) == 1 else f"{', '.join(networks[:-1])} and {networks[-1]} have"
        near = _suggestion(name, dict.fromkeys(each for names in known for each in names))
        raise ConfigError(f"{who} no layer '{name}'{near}: --layers lists all")
    return found


def short_name(name: str) -> str:
    """Return a layer's name without the beginning that all layers of its backbone share."""
    return name.removeprefix(_BEGINNINGS[1]).removeprefix(_BEGINNINGS[2])


def _suggestion(name: str, known: Iterable[str]) -> str:
    """Return the nearest names, by their ends too: `kernl` is nearer to `recurrent.kernel` than its letters."""
    matcher = difflib.SequenceMatcher(b=name)
    score: dict[str, float] = {}
    for full in known:
        short = short_name(full)
        for spelling in {full, short, short.rpartition(".")[2]}:
            matcher.set_seq1(spelling)
            if matcher.real_quick_ratio() >= _NEAR and matcher.quick_ratio() >= _NEAR:
                score[short] = max(score.get(short, 0.0), matcher.ratio())
    best = sorted((-value, short.count("."), short) for short, value in score.items() if value >= _NEAR)
    names = [short for _, _, short in best[:_SUGGESTED]]
    return f", did you mean {' or '.join(map(repr, names))}?" if names else ""


def network_layers(classifier: Classifier) -> list[Layer]:
    """Return all layers with what they return for one image, computed on shapes alone."""
    abstract = to_meta(classifier)
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[name] = tuple(output.shape[1:])

    parts: list[tuple[str, nn.Module]] = [(name, part) for name, part in abstract.named_modules() if name]
    image = torch.empty(1, classifier.spec.channels, *classifier.spec.size, device="meta")
    with capture_outputs(parts, note), torch.no_grad():
        abstract(image)
    return [Layer(name, type(part).__name__, shapes.get(name)) for name, part in parts]


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
        raise UnsupportedExplanation(
            f"'{classifier.network}' has no convolution that reads the image, so it has no filters to show"
        )
    name, part = convolutions[0]
    return Filters(name, part.weight.detach())


def conv_filters(classifier: Classifier, layer: str) -> Filters | None:
    """Return the filters of a layer; None where it is no convolution."""
    part = classifier.get_submodule(layer)
    return Filters(layer, part.weight.detach()) if isinstance(part, nn.Conv2d) else None


def feature_maps(classifier: Classifier, image: Tensor, layer: str) -> Tensor:
    """Return what a layer returns for an image 1 C H W as maps D h w.

    Raises:
        ConfigError: It returns no map.
    """
    layout = map_layout(classifier, image, layer)
    output = layer_output(classifier, image, layer)
    return layout.split(output)[0]


def list_layers(bundle: str | Path | Bundle, *, member: str | None = None) -> CommandResult:
    """Tell the layers of a bundle's members, and what each returns for one image.

    Args:
        bundle: A bundle's folder, a run's folder, or a loaded bundle.
        member: This member only.

    Raises:
        ConfigError: There is no such member.
        ModelError: It is no bundle, or was changed.
    """
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    lines: list[str] = []
    listed = {}
    for place in explanation_layers(loaded, member):
        one = loaded.members[place]
        found = layers.network_layers(one.classifier)
        width = max(len(layer.name) for layer in found)
        lines += [f"{printable(one.name)} ({one.classifier.network}):", *(_line(layer, width) for layer in found), ""]
        listed[one.name] = [{**vars(layer), "shape": layer.shape and list(layer.shape)} for layer in found]
    return CommandResult("\n".join(lines), listed)


def require_layers_alone(config: ExplainConfig, images: Sequence[str]) -> None:
    """Refuse to pass over what was asked for beside the list of layers.

    Raises:
        ConfigError: Images were named, or an option that only explanations have.
    """
    options = ("output", "layer", "filters", "features", "class_name")
    beside = [f"--{name.removesuffix('_name')}" for name in options if getattr(config, name)]
    beside = ["images"] * bool(images) + beside
    if beside:
        raise ConfigError(f"--layers only lists layers: it goes without {', '.join(beside)}")


def explanation_layers(bundle: Bundle, member: str | None) -> tuple[int, ...]:
    """Return the places of the members of this name, or of all.

    Raises:
        ConfigError: There is none of this name.
    """
    names = [one.name for one in bundle.members]
    if member is not None and member not in names:
        raise ConfigError(
            f"the bundle has no member '{member}'{did_you_mean(member, names)} (members: {', '.join(names)})"
        )
    return tuple(place for place, name in enumerate(names) if member in (None, name))


def _line(layer: layers.Layer, width: int) -> str:
    shape = "" if layer.shape is None else " x ".join(map(str, layer.shape))
    return f"  {layer.name:<{width}}  {shape:<16}  {layer.type}"
