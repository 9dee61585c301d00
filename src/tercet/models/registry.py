"""Registry of Tercet's own networks and the caller's; all other names are timm's.

Add a network with `NETWORKS.register(name)(ModelEntry(...))` in a module that `tercet.models.build` imports, and a
family whose names contain numbers with `FAMILIES.register(form)(NetworkFamily(...))`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tercet.config.model import InputConfig, ModelConfig
from tercet.core.errors import ConfigError, PartError, describe_result, naming_part
from tercet.core.registry import PARTS, Registry, accepts
from tercet.core.runtime import seeded_generators
from tercet.core.types import INTERPOLATIONS, InputSpec
from tercet.models.classifier import Classifier
from tercet.models.heads import FITTED


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
    """One of Tercet's own networks, or one of the caller's."""

    description: str
    """One line, for lists."""
    options: frozenset[str]
    """Fields of `ModelConfig` that have an effect; setting others is an error."""
    build: Callable[[BuildRequest], Classifier]
    """Builds the network."""
    custom: bool = False
    """Whether it is the caller's."""
    fitted: bool = False
    """Whether its head is always fitted on the features; see `has_fitted_head`."""


@dataclass(frozen=True)
class NetworkFamily:
    """Networks whose names contain numbers, such as a depth and a width."""

    prefix: str
    """Prefix of their names."""
    examples: tuple[str, ...]
    """Names for lists."""
    member: Callable[[str], ModelEntry]
    """Returns the network of a name with the prefix; raises ConfigError for invalid numbers."""


Factory = Callable[..., nn.Module]
"""Returns a module from images B C H W to logits B K, given those of the keywords `num_classes`, `channels` and
`image_size` (height and width) that it accepts."""
NETWORKS: Registry[ModelEntry | Factory] = PARTS["network"]
FAMILIES: Registry[NetworkFamily] = Registry("family of networks")


def as_factory(network: Factory | nn.Module) -> Factory:
    """Return a factory; a module becomes one that copies it, with its weights."""
    return partial(copy.deepcopy, network) if isinstance(network, nn.Module) else network


def _entry(network: ModelEntry | Factory) -> ModelEntry:
    if isinstance(network, ModelEntry):
        return network
    options = frozenset({"input", "freeze"})
    return ModelEntry("network of the caller", options, partial(_build_custom, network), custom=True)


def _build_custom(factory: Factory, request: BuildRequest) -> Classifier:
    """Build a network of the caller's, which is all of the classifier except the preprocessing."""
    keywords = {
        "num_classes": request.num_classes,
        "channels": request.config.input.channels or request.channels,
        "image_size": pixel_size(request.config.input) or request.image_size,
    }
    with naming_part(f"network '{request.network}'"):
        module = factory(**{name: value for name, value in keywords.items() if _is_passed(factory, name)})
    if not isinstance(module, nn.Module):
        raise PartError(f"network '{request.network}' returned {describe_result(module)}, expected an nn.Module")
    return Classifier(
        request.network,
        spec=_custom_spec(module, request),
        num_classes=request.num_classes,
        features=module,
        head=nn.Identity(),
        custom=True,
    )


def _is_passed(factory: Factory, name: str) -> bool:
    """Whether a factory gets a keyword; one with `**kwargs` gets `num_classes`, as those of torchvision and timm."""
    if accepts(factory, name) or name != "num_classes":
        return accepts(factory, name)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _custom_spec(module: nn.Module, request: BuildRequest) -> InputSpec:
    """Return the input of a caller's module: its `input_spec`, that of timm's `default_cfg`, or the plain one."""
    config = request.config.input
    if (spec := getattr(module, "input_spec", None)) is not None:
        if not isinstance(spec, InputSpec):
            raise PartError(f"network '{request.network}': input_spec must be a tercet.InputSpec, got {spec!r}"[:200])
        return override(spec, config)
    timm_config = getattr(module, "default_cfg", None) or getattr(module, "pretrained_cfg", None)
    if not timm_config:
        return plain_spec(request)
    values: Mapping[str, Any] = timm_config if isinstance(timm_config, Mapping) else vars(timm_config)
    channels, height, width = values["input_size"]
    interpolation = values.get("interpolation") if values.get("interpolation") in INTERPOLATIONS else "bicubic"
    return override(
        InputSpec((height, width), channels, tuple(values["mean"]), tuple(values["std"]), str(interpolation)), config
    )


def check_logits(classifier: Classifier, images: Tensor | tuple[Tensor, ...], *, member: str) -> None:
    """Check, before any training, that a network of the caller's maps images to logits.

    Args:
        classifier: The network; its parameters and the random generators are unchanged.
        images: B C H W in [0, 1].
        member: Name of the member for messages.

    Raises:
        PartError: The network raises an exception, or its output is not B K.
    """
    part = f"member {member}: network '{classifier.network}'"
    training, expected = classifier.training, (len(images), classifier.num_classes)
    with naming_part(part), seeded_generators(0), torch.no_grad():
        logits = classifier.eval()(images)
    classifier.train(training)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        raise PartError(f"{part} returned {describe_result(logits)}, expected logits (B, K) of shape {expected}")


def registered_network(name: str) -> ModelEntry | None:
    """Return the entry of one of Tercet's own networks or the caller's; None for other names.

    Raises:
        ConfigError: The name has the prefix of a family, but invalid numbers.
    """
    if name in NETWORKS:
        return _entry(NETWORKS[name])
    family = next((FAMILIES[form] for form in FAMILIES if name.startswith(FAMILIES[form].prefix)), None)
    return None if family is None else family.member(name)


def has_fitted_head(network: str, config: ModelConfig) -> bool:
    """Return whether the head of a network is fitted on features instead of being trained by gradient steps."""
    return fitted_head(network, config) is not None


def fitted_head(network: str, config: ModelConfig) -> str | None:
    """Return the name of the head that is fitted on features; None if the head is trained by gradient steps."""
    entry = registered_network(network)
    if entry is None or entry.fitted:
        return config.head if config.head in FITTED else "logistic" if entry else None
    return None


def registered_networks() -> dict[str, ModelEntry]:
    """Return Tercet's own networks and the caller's by name, with the examples of families."""
    networks = {name: _entry(NETWORKS[name]) for name in NETWORKS}
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


def native_spec(pretrained_cfg: Any, channels: int, size: tuple[int, int]) -> InputSpec:
    """Return the input spec of a timm network, from its pretrained configuration."""
    mean, std = tuple(pretrained_cfg.mean), tuple(pretrained_cfg.std)
    if len(mean) != channels:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    interpolation = pretrained_cfg.interpolation if pretrained_cfg.interpolation in INTERPOLATIONS else "bicubic"
    return InputSpec(size=size, channels=channels, mean=mean, std=std, interpolation=interpolation)


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
