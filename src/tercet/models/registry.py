"""The networks that Tercet itself makes: their registry, and what a builder is told.

A new network is one `NETWORKS.register(name)(NamedNetwork(...))` in a module that `tercet.models.build` imports, and a
family whose names carry numbers one `FAMILIES.register(form)(NetworkFamily(...))`. Every other name is timm's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tercet.config.model import InputConfig, ModelConfig
from tercet.core.errors import ConfigError
from tercet.core.registry import Registry
from tercet.core.types import InputSpec
from tercet.models.classifier import Classifier


@dataclass(frozen=True)
class BuildRequest:
    """What is to be built, and for which data."""

    network: str
    """Name of the network."""
    num_classes: int
    """Classes, K."""
    config: ModelConfig
    """The options."""
    channels: int
    """Channels of the data's images."""
    image_size: tuple[int, int] | None
    """Height and width of the data's images, where they have one size."""
    load_weights: bool
    """Whether weights are loaded now; false where they follow from a bundle or a checkpoint."""


@dataclass(frozen=True)
class ModelEntry:
    """One of Tercet's own networks."""

    description: str
    """One line for lists."""
    options: frozenset[str]
    """Fields of `ModelConfig` that act on this network; others are refused when they are set."""
    build: Callable[[BuildRequest], Classifier]
    """The builder."""


@dataclass(frozen=True)
class NetworkFamily:
    """Networks of our own whose names carry numbers, such as a depth and a width."""

    prefix: str
    """How all their names begin."""
    examples: tuple[str, ...]
    """Names that lists show."""
    member: Callable[[str], ModelEntry]
    """From a name with that beginning to the network; raises ConfigError where the numbers cannot be."""


NETWORKS: Registry[ModelEntry] = Registry("network")
FAMILIES: Registry[NetworkFamily] = Registry("family of networks")


def registered_network(name: str) -> ModelEntry | None:
    """Return the network of our own that has this name; None for timm's.

    Raises:
        ConfigError: The name begins as a family's names do, and its numbers cannot be.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    family = next((FAMILIES[form] for form in FAMILIES if name.startswith(FAMILIES[form].prefix)), None)
    return None if family is None else family.member(name)


def registered_networks() -> dict[str, ModelEntry]:
    """Return our own networks by name; of families, the examples."""
    named = {name: NETWORKS[name] for name in NETWORKS}
    families = [FAMILIES[form] for form in FAMILIES]
    return named | {name: family.member(name) for family in families for name in family.examples}


def override(announced: InputSpec, wanted: InputConfig) -> InputSpec:
    """Return what a network announces, with the user's `input.*` options in its place."""
    changes = {name: value for name, value in vars(wanted).items() if value is not None}
    if "size" in changes:
        changes["size"] = pixel_size(wanted)
    values = {**announced.to_dict(), **changes}
    for name in ("mean", "std"):
        if name not in changes and len(values[name]) not in (1, values["channels"]):
            values[name] = (sum(values[name]) / len(values[name]),)  # announced for other channels
    return InputSpec.from_dict(values)


def pixel_size(wanted: InputConfig) -> tuple[int, int] | None:
    """Return the user's `input.size` as height and width; one number is a square."""
    return None if wanted.size is None else (wanted.size[0], wanted.size[-1])


def plain_spec(request: BuildRequest) -> InputSpec:
    """Return the input of a network without a past: the data's own size and channels, pixels in [0, 1].

    Raises:
        ConfigError: Neither the data nor `input.size` says the size.
    """
    size = pixel_size(request.config.input) or request.image_size
    if size is None:
        raise ConfigError(f"network '{request.network}' needs an image size: the data have none, set --input.size")
    announced = InputSpec(size=size, channels=request.channels, mean=(0.0,), std=(1.0,))
    return override(announced, request.config.input)
