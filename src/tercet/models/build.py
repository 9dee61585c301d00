"""From a name and options to a classifier: Tercet's own networks, and every network of timm.

Shapes: C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
from timm.layers import PatchEmbed
from timm.models import (
    PretrainedCfg,
    get_model_input_config,
    get_pretrained_cfg,
    is_model_pretrained,
    resolve_model_input_args,
    split_model_name_tag,
)
from torch import nn

from tercet.config.model import ModelConfig, read_rules
from tercet.core.errors import ConfigError, ModelError, raise_problems
from tercet.core.registry import did_you_mean
from tercet.core.types import INTERPOLATIONS, InputSpec
from tercet.models import sequencer, small, wide_resnet  # noqa: F401  (importing them registers their networks)
from tercet.models.backbone import Backbone
from tercet.models.classifier import Classifier
from tercet.models.heads import HEADS
from tercet.models.label_decoder import decode_labels
from tercet.models.pretrained import hub_file, load_backbone, read_weights
from tercet.models.recurrent import RecurrentModule
from tercet.models.registry import BuildRequest, override, pixel_size, registered_network, registered_networks

_DEFAULT = ModelConfig()
_STATED = frozenset({"pretrained", "num_biases"})
"""Options that are true of any network: without a past it starts from scratch, without gates there is one bias."""
_RECURRENT = frozenset(
    {"scan", "bidirectional", "hidden_size", "num_layers", "activation", "recurrent_activation", "reset_after"}
)
_HEAD = {
    "paper": frozenset({"head_hidden_dim", "noise"}),
    "linear": frozenset[str](),
    "mlp": frozenset({"head_hidden_dim", "dropout"}),
}


def build(
    network: str,
    *,
    num_classes: int,
    config: ModelConfig = _DEFAULT,
    channels: int = 3,
    image_size: tuple[int, int] | None = None,
    load_weights: bool = True,
) -> Classifier:
    """Return a classifier that takes images B C H W in [0, 1] and returns logits B K.

    Args:
        network: One of Tercet's own networks, or any of timm's (`network_names` lists both).
        num_classes: K, at least 2.
        config: Its options.
        channels: Channels of the data's images.
        image_size: Height and width of the data's images, where they have one size; networks without a past take it.
        load_weights: False builds the same network without looking for its weights, for those that follow from a
            bundle or a checkpoint.

    Raises:
        ConfigError: Unknown name, options that cannot be or would have no effect, or channels that do not fit.
        ModelError: Weights that are absent, damaged, or of another network.
    """
    check_network(network, config)
    if num_classes < 2:
        raise ConfigError(f"a classifier needs at least 2 classes, got {num_classes}")
    request = BuildRequest(network, num_classes, config, channels, image_size, load_weights)
    own = registered_network(network)
    classifier = own.build(request) if own else _timm_classifier(request)
    read = classifier.spec.channels
    if channels not in (1, read) and (channels, read) != (3, 1):
        raise ConfigError(
            f"the images have {channels} channels, '{network}' reads {read}: set --input.channels {channels}"
        )
    if config.labels.decoder == "cnn-rnn":
        decode_labels(classifier, config.labels)
    if "freeze" in changed_options(config):
        classifier.freeze(read_rules(config.freeze))
    return classifier


def check_network(network: str, config: ModelConfig = _DEFAULT) -> None:
    """Refuse what can be refused without building anything.

    Raises:
        ConfigError: There is no such network, or options were set that have no effect on it.
    """
    if registered_network(network) is None and not _is_timm(network):
        raise ConfigError(
            f"unknown network '{network}'{did_you_mean(network, network_names())}: 'tercet models' lists them"
        )
    ignored = sorted(changed_options(config) - options_of(network, config) - _STATED)
    raise_problems(f"{_flag(name)} has no effect on {_describe_choice(network, config, name)}" for name in ignored)


def check_weights(network: str, config: ModelConfig) -> None:
    """Find the weights that a network is to start from, downloading published ones, before anything else is done.

    Raises:
        ModelError: They are not there: no such file, no network, or nothing published.
    """
    if config.weights is not None:
        if not Path(config.weights).expanduser().is_file():
            raise ModelError(f"there is no weights file {config.weights}")
    elif registered_network(network) is None and config.pretrained:
        hub_file(network, _announced(network))


def check_build(network: str, config: ModelConfig) -> None:
    """Build a timm backbone, without its weights, where only that shows whether its options can be.

    Raises:
        ConfigError: Images of a size that it cannot read, or a table of frozen parts that does not fit its names.
    """
    told = {"backbone", "freeze", "input"} & changed_options(config)
    if told and registered_network(network) is None:
        build(network, num_classes=2, config=config, channels=config.input.channels or 3, load_weights=False)


def check_images(network: str, config: ModelConfig, *, channels: int, image_size: tuple[int, int] | None) -> None:
    """Build a network of our own, without its numbers, to see whether it can read the data's images.

    Networks without a past take the data's size, so that only the data show whether it is large enough.

    Raises:
        ConfigError: The images are too small, or have many sizes and `input.size` is not given.
    """
    if registered_network(network) is not None:
        with torch.device("meta"):
            build(network, num_classes=2, config=config, channels=channels, image_size=image_size, load_weights=False)


def network_names() -> list[str]:
    """Return the names that `build` knows: Tercet's own first, then timm's."""
    return [*registered_networks(), *timm.list_models()]


def network_descriptions() -> dict[str, str]:
    """Return one line about each of `network_names`, in their order."""
    described = {name: network.description for name, network in registered_networks().items()}
    for name in timm.list_models():
        height, width = _announced(name).input_size[1:]
        weights = "published weights" if is_model_pretrained(name) else "no published weights"
        described[name] = f"timm backbone, {height} x {width} pixels, {weights}"
    return described


def options_of(network: str, config: ModelConfig = _DEFAULT) -> frozenset[str]:
    """Return the fields of `ModelConfig` that act on a network under the other options of `config`."""
    if own := registered_network(network):
        return own.options | {"labels"}
    acting = {"backbone", "input", "labels", "pretrained", "weights", "recurrent", "head", "freeze"}
    acting |= _HEAD[config.head]
    if config.recurrent == "none":
        return frozenset(acting)
    acting |= _RECURRENT | {"num_biases"}
    if config.recurrent != "gru":
        acting -= {"reset_after"}
    if config.recurrent == "rnn":
        acting -= {"recurrent_activation"}
    return frozenset(acting)


def changed_options(config: ModelConfig) -> set[str]:
    """Return the fields of `ModelConfig` that differ from their defaults."""
    return {field.name for field in fields(config) if getattr(config, field.name) != getattr(_DEFAULT, field.name)}


def _flag(name: str) -> str:
    return "--backbone.args" if name == "backbone" else f"--{name.replace('_', '-')}"


def _describe_choice(network: str, config: ModelConfig, option: str) -> str:
    if registered_network(network):
        return f"'{network}'"
    if option in _RECURRENT:
        return f"--recurrent {config.recurrent}"
    return f"--head {config.head}"


def _is_timm(network: str) -> bool:
    architecture, tag = split_model_name_tag(network)
    if not timm.is_model(architecture):
        return False
    return not tag or network in timm.list_models(f"{architecture}.*", pretrained=False, include_tags=True)


def _announced(network: str) -> PretrainedCfg:
    return get_pretrained_cfg(network) or PretrainedCfg()


def _timm_classifier(request: BuildRequest) -> Classifier:
    config = request.config
    backbone, spec = _timm_backbone(request)
    _require_sequence(request, backbone)
    recurrent = None
    if config.recurrent != "none":
        recurrent = RecurrentModule(
            backbone.num_features,
            cell=config.recurrent,
            scan=config.scan,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers or 1,
            bidirectional=config.bidirectional,
            activation=config.activation,
            recurrent_activation=config.recurrent_activation,
            reset_after=config.reset_after,
            num_biases=config.num_biases,
        )
    width = recurrent.output_size if recurrent else backbone.num_features
    return Classifier(
        request.network,
        spec=spec,
        num_classes=request.num_classes,
        features=backbone,
        recurrent=recurrent,
        head=HEADS[config.head](width, request.num_classes, config),
    )


def _timm_backbone(request: BuildRequest) -> tuple[Backbone, InputSpec]:
    """Return the backbone with its weights, and the input it announces with the user's changes."""
    config, announced = request.config, _announced(request.network)
    learnt = config.pretrained or config.weights is not None
    channels = config.input.channels or (announced.input_size[0] if learnt else request.channels)
    tensors, overlay = None, None
    if request.load_weights and config.weights is not None:
        tensors = read_weights(Path(config.weights).expanduser())
    elif request.load_weights and config.pretrained:
        file = hub_file(request.network, announced)
        overlay = {"file": str(file), "custom_load": announced.custom_load}
    network = _create(request, channels, overlay)
    size = get_model_input_config(network)["input_size"][1:]
    spec = override(_announced_spec(announced, channels, cast("tuple[int, int]", tuple(size))), config.input)
    _require_whole_patches(request.network, network, spec.size, native=tuple(announced.input_size[1:]))
    if tensors is not None:
        load_backbone(network, tensors, source=str(config.weights))
    read: Literal["pooled", "map"] = "pooled" if config.scan == "pooled" else "map"
    return Backbone(network, (spec.channels, *spec.size), read=read), spec


def _create(request: BuildRequest, channels: int, overlay: dict[str, Any] | None) -> nn.Module:
    """Return timm's network without classifier; the errors of its constructor become one line."""
    arguments = {"num_classes": 0, **request.config.backbone.args}
    size = pixel_size(request.config.input)
    try:
        resolved = resolve_model_input_args(
            request.network, {"img_size": size} if size else None, **{"in_chans": channels, **arguments}
        )
        network: nn.Module = timm.create_model(
            pretrained=overlay is not None, pretrained_cfg_overlay=overlay, **resolved
        )
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        given = f" with --backbone.args {request.config.backbone.args}" if request.config.backbone.args else ""
        raise ConfigError(f"timm cannot make '{request.network}'{given}: {reason}") from error
    return network


def _require_whole_patches(name: str, network: nn.Module, size: tuple[int, int], *, native: tuple[int, ...]) -> None:
    """Refuse a size that patches do not tile, where timm would leave out the last rows and columns of every image."""
    patches = getattr(network, "patch_embed", getattr(network, "stem", None))  # Sequencers have theirs in the stem
    if size == native or not isinstance(patches, PatchEmbed) or patches.dynamic_img_pad:
        return
    height, width = patches.patch_size
    if size[0] % height or size[1] % width:
        fitting = tuple(max(1, round(pixels / side)) * side for pixels, side in zip(size, (height, width), strict=True))
        raise ConfigError(
            f"'{name}' cuts images into patches of {height} x {width} pixels, and {size[0]} x {size[1]} is no whole "
            f"number of them: set --input.size to a multiple, such as {fitting[0]},{fitting[1]}"
        )


def _announced_spec(announced: PretrainedCfg, channels: int, size: tuple[int, int]) -> InputSpec:
    mean, std = tuple(announced.mean), tuple(announced.std)
    if len(mean) != channels:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    known = announced.interpolation if announced.interpolation in INTERPOLATIONS else "bicubic"
    return InputSpec(size=size, channels=channels, mean=mean, std=std, interpolation=known)


def _require_sequence(request: BuildRequest, backbone: Backbone) -> None:
    """Refuse a scan over a single step: there the order could not matter and the recurrent weights never act."""
    scan, (height, width) = request.config.scan, backbone.grid
    steps = {"pooled": 2, "rows": height, "columns": width}.get(scan, height * width)
    if steps < 2:
        raise ConfigError(
            f"the feature map of '{request.network}' is {height} x {width}: scan '{scan}' would be a single step; use "
            "a larger --input.size, or --scan pooled"
        )
