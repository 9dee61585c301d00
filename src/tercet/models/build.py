"""Build a classifier from a network name and options: Tercet's own networks, and every network of timm.

Shapes: C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import tercet.core.torchvision_ops  # noqa: F401  # isort: skip  (before timm and lightning)

from dataclasses import fields
from pathlib import Path
from typing import Literal, cast

import timm
import torch
from timm.models import get_model_input_config

from tercet.config.model import ATTENTION, FREEZE_PRESETS, ModelConfig, read_rules
from tercet.core.errors import ConfigError, raise_problems
from tercet.core.registry import did_you_mean
from tercet.core.types import InputSpec
from tercet.models import sequencer, small, wide_resnet  # noqa: F401  (importing them registers their networks)
from tercet.models.backbone import Backbone, BackboneOrigin
from tercet.models.classifier import Classifier
from tercet.models.heads import FITTED, HEADS, WITH_HIDDEN_LAYER, head_options
from tercet.models.label_decoder import decode_labels
from tercet.models.pretrained import load_backbone, read_weights
from tercet.models.recurrent import RecurrentModule, Scan
from tercet.models.registry import (
    BuildRequest,
    has_fitted_head,
    native_spec,
    override,
    registered_network,
    registered_networks,
)
from tercet.models.timm_networks import (
    describe_file,
    describe_weights,
    find_network,
    is_timm,
    naming_hint,
    published_weights,
    weights_file,
)

_DEFAULT = ModelConfig()
_ALWAYS_VALID = frozenset({"pretrained", "num_biases"})
"""Options with values that hold for any network: no pretrained weights, a single bias."""
PIXEL_SCANS = frozenset({"pooled", "rows", "columns", "pixels"})
"""Values of `scan` for row classifiers: for the default, pooled, it is rows."""
_RECURRENT = frozenset(
    {"scan", "bidirectional", "hidden_size", "num_layers", "activation", "recurrent_activation", "reset_after"}
)


def build(
    network: str,
    *,
    num_classes: int,
    config: ModelConfig = _DEFAULT,
    channels: int = 3,
    image_size: tuple[int, int] | None = None,
    load_weights: bool = True,
) -> Classifier:
    """Return a classifier from images B C H W in [0, 1] to logits B K.

    Args:
        network: Name of a network (see `network_names`).
        num_classes: K, at least 2.
        config: Options of the network.
        channels: Channels of the data's images.
        image_size: Height and width of the data's images, if they have one size; Tercet's own networks take it.
        load_weights: False builds the network without pretrained weights, to be loaded from a bundle or checkpoint.

    Raises:
        ConfigError: Unknown name, invalid options or options without effect, or unsupported number of channels.
        ModelError: Weights are missing, damaged, or of another network.
    """
    check_network(network, config)
    if num_classes < 2:
        raise ConfigError(f"a classifier needs at least 2 classes, got {num_classes}")
    request = BuildRequest(network, num_classes, config, channels, image_size, load_weights)
    entry = registered_network(network)
    classifier = entry.build(request) if entry else _timm_classifier(request)
    expected = classifier.spec.channels
    if channels not in (1, expected) and (channels, expected) != (3, 1):  # grey and colour are converted
        raise ConfigError(
            f"the images have {channels} channels, but '{network}' takes {expected}: set --input.channels {channels}"
        )
    if config.labels.decoder == "cnn-rnn":
        decode_labels(classifier, config.labels)
    if has_fitted_head(network, config) and classifier.features.state_dict():
        classifier.freeze(FREEZE_PRESETS["backbone"])
    elif "freeze" in changed_options(config):
        classifier.freeze(read_rules(config.freeze))
    return classifier


def check_network(network: str, config: ModelConfig = _DEFAULT) -> None:
    """Check name and options without building the network.

    Raises:
        ConfigError: The network is unknown, or options have no effect on it.
    """
    if registered_network(network) is None and not is_timm(network):
        hint = naming_hint(network) or did_you_mean(network, network_names())
        raise ConfigError(f"unknown network '{network}'{hint}: 'tercet models' lists all")
    ignored = sorted(changed_options(config) - options_of(network, config) - _ALWAYS_VALID)
    raise_problems(f"{_flag(name)} has no effect on {_describe_choice(network, config, name)}" for name in ignored)


def check_build(network: str, config: ModelConfig) -> None:
    """Check options of a timm backbone that require building it, and a file with its weights.

    Published weights are loaded if the image size is set, because those of some networks fit one size only.

    Raises:
        ConfigError: The network or its weights do not accept the image size, or freezing rules do not fit its parameter
            names.
        ModelError: The file is damaged, or of another network.
    """
    needs_build = {"backbone", "freeze", "input", "weights"} & changed_options(config)
    if needs_build and registered_network(network) is None:
        load_weights = config.input.size is not None or config.weights is not None
        build(network, num_classes=2, config=config, channels=config.input.channels or 3, load_weights=load_weights)


def check_images(network: str, config: ModelConfig, *, channels: int, image_size: tuple[int, int] | None) -> None:
    """Check that one of Tercet's own networks accepts the data's images, by building it on the meta device.

    Networks of the caller's need not support that device; `check_logits` runs them.

    Raises:
        ConfigError: The images are too small, or differ in size and `input.size` is not set.
    """
    entry = registered_network(network)
    if entry is not None and not entry.custom:
        with torch.device("meta"):
            build(network, num_classes=2, config=config, channels=channels, image_size=image_size, load_weights=False)


def network_names() -> list[str]:
    """Return the names of all networks: Tercet's own first, then timm's."""
    return [*registered_networks(), *timm.list_models()]


def network_descriptions() -> dict[str, str]:
    """Return one line per network, by name, in the order of `network_names`."""
    descriptions = {name: entry.description for name, entry in registered_networks().items()}
    for name in timm.list_models():
        size = " x ".join(map(str, find_network(name).pretrained.input_size[1:]))
        file = weights_file(name)
        state = "no pretrained weights" if file is None else "pretrained weights"
        cached = ", in the local cache" if file is not None and file.cached() is not None else ""
        descriptions[name] = f"timm backbone, {size} pixels, {state}{cached}"
    return descriptions


def options_of(network: str, config: ModelConfig = _DEFAULT) -> frozenset[str]:
    """Return the fields of `ModelConfig` that have an effect on a network, given the other options."""
    if entry := registered_network(network):
        options = entry.options if entry.custom else entry.options | {"labels"}
        if config.scan not in PIXEL_SCANS:
            options -= {"scan"}
        return options | {"head"} if entry.fitted and config.head in FITTED else options
    options = frozenset({"backbone", "input", "labels", "pretrained", "weights", "recurrent", "head", "freeze"})
    options |= head_options(config.head)
    if config.recurrent == "none":
        return options
    unused = {"rnn": {"reset_after", "recurrent_activation"}, "lstm": {"reset_after"}}.get(config.recurrent, set())
    unused |= {"scan"} if config.scan == "pixels" else set()
    return (options | _RECURRENT | {"num_biases"}) - unused


def changed_options(config: ModelConfig) -> set[str]:
    """Return the fields of `ModelConfig` that differ from their defaults."""
    return {field.name for field in fields(config) if getattr(config, field.name) != getattr(_DEFAULT, field.name)}


def _flag(name: str) -> str:
    return "--backbone.args" if name == "backbone" else f"--{name.replace('_', '-')}"


def _describe_choice(network: str, config: ModelConfig, option: str) -> str:
    entry = registered_network(network)
    if option == "scan" and entry is not None and option in entry.options:
        return f"'{network}' if it is {config.scan}: a row classifier takes rows, columns or pixels"
    if entry is not None:
        return f"'{network}'"
    if option == "scan" and config.recurrent != "none":
        return f"'{network}' if it is {config.scan}: a backbone takes pooled, rows, columns, cells or snake"
    return f"--recurrent {config.recurrent}" if option in _RECURRENT else f"--head {config.head}"


def _timm_classifier(request: BuildRequest) -> Classifier:
    config = request.config
    backbone, spec = _timm_backbone(request)
    _require_cells(request, backbone)
    recurrent = None
    if config.recurrent != "none":
        recurrent = RecurrentModule(
            backbone.num_features,
            cell=config.recurrent,
            scan=cast("Scan", config.scan),  # options_of leaves out the scans of row classifiers
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
    """Return the backbone with its weights, and its input spec with the user's changes."""
    config, published = request.config, find_network(request.network)
    native, file = published.pretrained, None
    has_weights = config.pretrained or config.weights is not None
    channels = config.input.channels or (native.input_size[0] if has_weights else request.channels)
    if request.load_weights and has_weights:
        file = Path(config.weights).expanduser() if config.weights else published_weights(request.network)
    network = published.create(config, channels, weights=None if config.weights else file)
    size = get_model_input_config(network)["input_size"][1:]
    spec = override(native_spec(native, channels, cast("tuple[int, int]", tuple(size))), config.input)
    published.check_size(network, spec.size)
    if file is not None and config.weights:
        load_backbone(network, read_weights(file), source=config.weights, name=request.network)
    read: Literal["pooled", "map"] = "map" if config.reads_map else "pooled"
    arguments = published.arguments(config)
    key = (published.architecture, repr(arguments))
    own_layers = config.recurrent != "none" or config.head in WITH_HIDDEN_LAYER
    shape = (spec.channels, *spec.size)
    backbone = Backbone(network, shape, read=read, hidden_layers=not own_layers, key=key)
    weights = None if file is None else describe_file(file) if config.weights else describe_weights(published, file)
    backbone.origin = BackboneOrigin(published.architecture, arguments, weights)
    return backbone, spec


def _require_cells(request: BuildRequest, backbone: Backbone) -> None:
    """Raise for a scan with a single step, on which the recurrent weights would have no effect; and for attention."""
    scan, (height, width) = request.config.scan, backbone.grid
    if request.config.head == ATTENTION and height * width < 2:
        raise ConfigError(
            f"the feature map of '{request.network}' is 1 x 1: head attention has a single cell; use a larger "
            "--input.size, or --head linear"
        )
    steps = {"pooled": 2, "rows": height, "columns": width}.get(scan, height * width)
    if steps < 2:
        raise ConfigError(
            f"the feature map of '{request.network}' is {height} x {width}: scan '{scan}' has a single step; use a "
            "larger --input.size, or --scan pooled"
        )
