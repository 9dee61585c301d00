"""From what the user wrote to resolved members: one network and one training each, with a name of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercet.config.model import ModelConfig
from tercet.config.parser import CommandOptions
from tercet.config.run import METHODS, MemberConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError, raise_problems
from tercet.core.files import slug
from tercet.core.yaml_io import read_mapping
from tercet.models.build import changed_options, check_network, options_of

SMALL_IMAGES = ("small-cnn", "row-lstm", "test_resnet")
"""Members where none are named and images have at most 64 x 64 pixels; all from scratch."""
PHOTOS = ("mobilenetv2_100", "efficientnet_b0", "resnet18")
"""Members where none are named, for larger images; from published weights."""


MEMBER_OPTIONS = CommandOptions("member", groups=[("", ModelConfig), ("", TrainingConfig)])
"""The options that a member may have of its own."""
_DEFAULTS = ModelConfig()
_SHAPES_ONE_STAGE = "schedule and patience shape a single stage: give epochs or lr, or write them into stages"


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
        ConfigError: An unknown network or option, in any of them, or names that cannot be; all are listed.
    """
    problems: list[str] = []
    resolved: list[MemberConfig] = []
    for position, member in enumerate(members):
        try:
            resolved.append(resolve_member(member, model, training))
        except ConfigError as error:
            problems.append(f"member {position + 1}: {error}")
    raise_problems(problems)
    taken = {name for member in resolved for name in changed_options(member.model)}
    raise_problems(
        f"--{name.replace('_', '-')} has no effect on any member" for name in sorted(changed_options(model) - taken)
    )
    named = _distinct(resolved)
    raise_problems(_name_problems([member.name for member in named]))
    return tuple(named)


def member_mapping(member: Any) -> dict[str, Any]:
    """Return a member as a mapping with a `model`: from a network's name, a YAML file, or a mapping.

    Raises:
        ConfigError: It is neither, or the file cannot be read.
    """
    if isinstance(member, str) and Path(member).suffix in (".yaml", ".yml"):
        member = read_mapping(member)
    if isinstance(member, str):
        member = {"model": member}
    if not isinstance(member, Mapping) or not isinstance(member.get("model"), str):
        raise ConfigError(f"{member!r} is neither a network's name nor a mapping with a 'model'")
    return dict(member)


def resolve_member(member: Any, model: ModelConfig, training: TrainingConfig) -> MemberConfig:
    """Resolve one member as `resolve_members` does; options of the run that it does not have are left out.

    Raises:
        ConfigError: An unknown network or option.
    """
    options = member_mapping(member)
    network = options.pop("model")
    name = str(options.pop("name", network))
    check_network(network)
    if {"epochs", "lr"} & options.keys():
        training = replace(training, stages=None)  # a member's own single stage replaces the run's stages
    if "stages" in options:
        training = replace(training, epochs=None, lr=None, schedule="constant", patience=None)
    parsed = MEMBER_OPTIONS.parse_object(options, source=f"member {name}", base=(model, training))
    config = parsed.of(ModelConfig)
    own = {key.partition(".")[0] for key in parsed.given}
    foreign = changed_options(model) - own - options_of(network, config)  # run-wide options of other members
    config = replace(config, **{field: getattr(_DEFAULTS, field) for field in foreign})
    check_network(network, config)
    trained = parsed.of(TrainingConfig)
    shaped = trained.schedule != "constant" or trained.patience is not None
    raise_problems([shaped and trained.epochs is None and trained.lr is None and _SHAPES_ONE_STAGE])
    return MemberConfig(name, network, config, trained)


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


def _name_problems(names: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the names; their files must not be another member's, nor those of a way to fuse."""
    owners: dict[str, int] = {}
    for position, name in enumerate(names):
        if not name.strip():
            yield "a member's name must not be blank"
        elif name in METHODS:
            yield f"a member cannot have the name '{name}', which is a way to fuse"
        owner = owners.setdefault(slug(name).casefold(), position)
        if owner != position:
            yield f"members '{names[owner]}' and '{name}' would share the folder {slug(name)}: give one another name"
