"""From what the user wrote to resolved members: one network and one training each, with a name of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tercet.ground.errors import ConfigError, TercetError
from tercet.ground.registry import nearest
from tercet.models.build import network_names
from tercet.records.config import MemberConfig
from tercet.records.model_config import ModelConfig
from tercet.records.options import Options
from tercet.records.training_config import TrainingConfig

SMALL_IMAGES = ("small-cnn", "row-lstm", "test_resnet")
"""Members where none are named and images have at most 64 x 64 pixels; all from scratch."""
PHOTOS = ("mobilenetv2_100", "efficientnet_b0", "resnet18")
"""Members where none are named, for larger images; from published weights."""


def default_members(image_size: tuple[int, int]) -> tuple[Any, ...]:
    """Return three different networks that suit the images."""
    if max(image_size) > 64:
        return PHOTOS
    return tuple(
        {"model": name, "pretrained": False, "input.size": [32]} if name == "test_resnet" else name
        for name in SMALL_IMAGES
    )


def resolve_members(
    members: Sequence[Any], model: ModelConfig, training: TrainingConfig, *, given: frozenset[str] = frozenset()
) -> tuple[MemberConfig, ...]:
    """Resolve names, YAML files and mappings; the run's options are every member's defaults.

    Raises:
        ConfigError: An unknown network or option, in any of them; all are listed.
    """
    problems: list[str] = []
    resolved: list[MemberConfig] = []
    for position, member in enumerate(members):
        try:
            resolved.append(_resolve(member, model, training))
        except TercetError as error:
            problems.append(f"member {position + 1}: {error}")
    if problems:
        raise ConfigError("; ".join(problems))
    return tuple(_distinct(resolved))


def _resolve(member: Any, model: ModelConfig, training: TrainingConfig) -> MemberConfig:
    if isinstance(member, str) and Path(member).suffix in (".yaml", ".yml"):
        try:
            member = yaml.safe_load(Path(member).read_text("utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read the member file {member}: {error}") from error
    if isinstance(member, str):
        member = {"model": member}
    if not isinstance(member, Mapping) or not isinstance(member.get("model"), str):
        raise ConfigError(f"{member!r} is neither a network's name nor a mapping with a 'model'")
    options = dict(member)
    network = options.pop("model")
    name = str(options.pop("name", network))
    if network not in network_names():
        raise ConfigError(f"unknown network '{network}'{nearest(network, network_names())} (tercet models lists them)")
    if {"epochs", "lr"} & options.keys():
        training = replace(training, strategy=None)  # a member's own single stage replaces the run's strategy
    if "strategy" in options:
        training = replace(training, epochs=None, lr=None)
    parser = Options("member", groups=[("", ModelConfig), ("", TrainingConfig)])
    parsed = parser.parse_object(options, source=f"member {name}", base=(model, training))
    return MemberConfig(name, network, parsed.of(ModelConfig), parsed.of(TrainingConfig))


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
