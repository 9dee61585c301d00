"""Registry of Tercet's own networks; all other names are timm's.

Add a network with `NETWORKS.register(name)(ModelEntry(...))` in a module that `tercet.models.build` imports, and a
family whose names contain numbers with `FAMILIES.register(form)(NetworkFamily(...))`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tercet.config.model import InputConfig, ModelConfig
from tercet.core.errors import ConfigError
from tercet.core.registry import PARTS, Registry
from tercet.core.types import InputSpec
from tercet.models.classifier import Classifier


@dataclass(frozen=True)
class BuildRequest:
    """Arguments of a network builder."""

    network: str
    """Name of the network."""
    num_classes: int
    """K."""
    config: ModelConfig
    """Options of the network."""
    channels: int
    """Channels of the data's images."""
    image_size: tuple[int, int] | None
    """Height and width of the data's images, if they have one size."""
    load_weights: bool
    """False if weights are loaded later, from a bundle or a checkpoint."""


@dataclass(frozen=True)
class ModelEntry:
    """One of Tercet's own networks."""

    description: str
    """One line, for lists."""
    options: frozenset[str]
    """Fields of `ModelConfig` that have an effect; setting others is an error."""
    build: Callable[[BuildRequest], Classifier]
    """Builds the network."""


@dataclass(frozen=True)
class NetworkFamily:
    """Networks whose names contain numbers, such as a depth and a width."""

    prefix: str
    """Prefix of their names."""
    examples: tuple[str, ...]
    """Names for lists."""
    member: Callable[[str], ModelEntry]
    """Returns the network of a name with the prefix; raises ConfigError for invalid numbers."""


NETWORKS: Registry[ModelEntry] = PARTS["network"]
FAMILIES: Registry[NetworkFamily] = Registry("family of networks")


def registered_network(name: str) -> ModelEntry | None:
    """Return the entry of one of Tercet's own networks; None for other names.

    Raises:
        ConfigError: The name has the prefix of a family, but invalid numbers.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    family = next((FAMILIES[form] for form in FAMILIES if name.startswith(FAMILIES[form].prefix)), None)
    return None if family is None else family.member(name)


def registered_networks() -> dict[str, ModelEntry]:
    """Return Tercet's own networks by name, with the examples of families."""
    networks = {name: NETWORKS[name] for name in NETWORKS}
    families = [FAMILIES[form] for form in FAMILIES]
    return networks | {name: family.member(name) for family in families for name in family.examples}


def override(spec: InputSpec, config: InputConfig) -> InputSpec:
    """Return the input spec of a network with the user's `input.*` options applied."""
    changes = {name: value for name, value in vars(config).items() if value is not None}
    if "size" in changes:
        changes["size"] = pixel_size(config)
    values = {**spec.to_dict(), **changes}
    for name in ("mean", "std"):
        if name not in changes and len(values[name]) not in (1, values["channels"]):
            values[name] = (sum(values[name]) / len(values[name]),)  # per channel, for another number of channels
    return InputSpec.from_dict(values)


def pixel_size(config: InputConfig) -> tuple[int, int] | None:
    """Return the user's `input.size` as height and width; a single number is both."""
    return None if config.size is None else (config.size[0], config.size[-1])


def plain_spec(request: BuildRequest) -> InputSpec:
    """Return the input spec of an untrained network: size and channels of the data, pixels in [0, 1].

    Raises:
        ConfigError: The images differ in size and `input.size` is not set.
    """
    size = pixel_size(request.config.input) or request.image_size
    if size is None:
        raise ConfigError(
            f"network '{request.network}' needs one image size, but the images differ in size: set --input.size"
        )
    spec = InputSpec(size=size, channels=request.channels, mean=(0.0,), std=(1.0,))
    return override(spec, request.config.input)
