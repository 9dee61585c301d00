"""From what the user wrote to resolved members: one network and one training each, with a name of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercet.ground.errors import ConfigError, require
from tercet.models.build import changed_options, check_network, options_of
from tercet.records.config import MemberConfig
from tercet.records.documents import read_mapping
from tercet.records.model_config import ModelConfig
from tercet.records.options import Options
from tercet.records.training_config import TrainingConfig

SMALL_IMAGES = ("small-cnn", "row-lstm", "test_resnet")
"""Members where none are named and images have at most 64 x 64 pixels; all from scratch."""
PHOTOS = ("mobilenetv2_100", "efficientnet_b0", "resnet18")
"""Members where none are named, for larger images; from published weights."""


_OPTIONS = Options("member", groups=[("", ModelConfig), ("", TrainingConfig)])
_DEFAULTS = ModelConfig()


def default_members(image_size: tuple[int, int]) -> tuple[Any, ...]:
    """Return three different networks that suit the images."""
    if max(image_size) > 64:
        return PHOTOS
    return tuple(
        {"model": name, "pretrained": False, "input.size": [32]} if name == "test_resnet" else name
        for name in SMALL_IMAGES
    )


def resolve_members(members: Sequence[Any], model: ModelConfig, training: TrainingConfig) -> tuple[MemberConfig, ...]:
    """Resolve names, YAML files and mappings; the run's options hold for every member that has such an option.

    Raises:
        ConfigError: An unknown network or option, in any of them; all are listed.
    """
    problems: list[str] = []
    resolved: list[MemberConfig] = []
    for position, member in enumerate(members):
        try:
            resolved.append(_resolve(member, model, training))
        except ConfigError as error:
            problems.append(f"member {position + 1}: {error}")
    require(problems)
    taken = {name for member in resolved for name in changed_options(member.model)}
    require(f"{name} has no effect on any member" for name in sorted(changed_options(model) - taken))
    return tuple(_distinct(resolved))


def _resolve(member: Any, model: ModelConfig, training: TrainingConfig) -> MemberConfig:
    if isinstance(member, str) and Path(member).suffix in (".yaml", ".yml"):
        member = read_mapping(member)
    if isinstance(member, str):
        member = {"model": member}
    if not isinstance(member, Mapping) or not isinstance(member.get("model"), str):
        raise ConfigError(f"{member!r} is neither a network's name nor a mapping with a 'model'")
    options = dict(member)
    network = options.pop("model")
    name = str(options.pop("name", network))
    check_network(network)
    if {"epochs", "lr"} & options.keys():
        training = replace(training, strategy=None)  # a member's own single stage replaces the run's strategy
    if "strategy" in options:
        training = replace(training, epochs=None, lr=None)
    parsed = _OPTIONS.parse_object(options, source=f"member {name}", base=(model, training))
    config = parsed.of(ModelConfig)
    own = {key.partition(".")[0] for key in parsed.given}
    foreign = changed_options(model) - own - options_of(network, config)  # run-wide options of other members
    config = replace(config, **{field: getattr(_DEFAULTS, field) for field in foreign})
    check_network(network, config)
    require([config.weights is not None and not Path(config.weights).is_file() and f"no weights file {config.weights}"])
    return MemberConfig(name, network, config, parsed.of(TrainingConfig))


def _distinct(members: Sequence[MemberConfig]) -> list[MemberConfig]:
    """Number members that would share a name."""
    names = [member.name for member in members]
    seen: dict[str, int] = {}
    result = []
    for member in members:
        seen[member.name] = seen.get(member.name, 0) + 1
        twice = names.count(member.name) > 1
        result.append(replace(member, name=f"{member.name}-{seen[member.name]}") if twice else member)
    return result
