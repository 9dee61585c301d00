"""The layers of a classifier by name: which there are, what they return, and what a user meant.

A layer's name is its dotted path in the classifier, as `tercet models NAME` lists the first of them. The beginning that
all layers of a backbone share may be left out: `layer4` means `features.network.layer4`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tercet.ground.errors import ConfigError
from tercet.models.classifier import Classifier
from tercet.models.explaining.looking import listening
from tercet.models.shapes import abstract_copy

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
