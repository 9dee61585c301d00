"""The layers of a classifier by name: which there are, what they return, and what a user meant.

A layer's name is its dotted path in the classifier, as `tercet models NAME` lists the first of them. The beginning that
all layers of a backbone share may be left out: `layer4` means `features.network.layer4`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tercet.ground.errors import ConfigError
from tercet.models.classifier import Classifier
from tercet.models.explaining.looking import listening
from tercet.models.shapes import abstract_copy

_BEGINNINGS = ("", "features.network.", "features.")
_SUGGESTED = 3


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
    known = set(layer_names(classifier))
    found = next((begin + name for begin in _BEGINNINGS if begin + name in known), None)
    if found is None:
        raise ConfigError(f"'{classifier.network}' has no layer '{name}'{_suggestion(name, known)}: --layers lists all")
    return found


def short_name(name: str) -> str:
    """Return a layer's name without the beginning that all layers of its backbone share."""
    return name.removeprefix(_BEGINNINGS[1]).removeprefix(_BEGINNINGS[2])


def _suggestion(name: str, known: set[str]) -> str:
    """Return the nearest names, by their ends too: `conv9` is nearer to `features.network.conv1` than its letters."""
    short = {each: short_name(each) for each in sorted(known)}
    spelled = {spelling: each for each, spelling in short.items()} | {each: each for each in short}
    close = difflib.get_close_matches(name, list(spelled), n=2 * _SUGGESTED, cutoff=0.5)
    names = list(dict.fromkeys(short[spelled[each]] for each in close))[:_SUGGESTED]
    return f", did you mean {' or '.join(map(repr, names))}?" if names else ""


def list_layers(classifier: Classifier) -> list[Layer]:
    """Return all layers with what they return for one image, computed on shapes alone."""
    abstract = abstract_copy(classifier)
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[name] = tuple(output.shape[1:])

    parts: list[tuple[str, nn.Module]] = [(name, part) for name, part in abstract.named_modules() if name]
    image = torch.empty(1, classifier.spec.channels, *classifier.spec.size, device="meta")
    with listening(parts, note), torch.no_grad():
        abstract(image)
    return [Layer(name, type(part).__name__, shapes.get(name)) for name, part in parts]
