"""Resolve the members of a run: a unique name, a network and training options each."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tercet.config.model import ATTENTION, ModelConfig
from tercet.config.parser import CommandOptions
from tercet.config.presets import Preset, has_stages, with_recipe
from tercet.config.run import MemberConfig
from tercet.config.training import SINGLE_STAGE, TrainingConfig
from tercet.core.errors import ConfigError, raise_problems
from tercet.core.files import slug
from tercet.core.registry import PARTS
from tercet.core.yaml_io import read_mapping
from tercet.models.build import changed_options, check_network, options_of
from tercet.models.heads import FITTED
from tercet.models.registry import has_fitted_head
from tercet.models.timm_networks import is_timm
from tercet.models.weight_check import missing_weights

SMALL_IMAGES = ("small-cnn", "row-lstm", "test_resnet")
"""Default members for images of at most 64 x 64 pixels; trained from scratch."""
PHOTOS = ("mobilenetv2_100", "efficientnet_b0", "resnet18")
"""Default members for larger images; pretrained."""
ENCODER = "mobilenetv2_100"
"""Default network for a fitted head on photos."""
SMALL_SIDE = 64
"""Pixels; images with sides up to this are small."""
MEMBER_OPTIONS = CommandOptions(ModelConfig, TrainingConfig)
"""Options that can be set per member."""
_DEFAULTS = ModelConfig()
_NEEDS = {"scan": ": it needs --recurrent rnn, gru or lstm, or a row classifier (rows, columns, pixels)"}
_SINGLE_STAGE = {name: getattr(TrainingConfig, name) for name in SINGLE_STAGE}
_SINGLE_STAGE_ONLY = f"{', '.join(SINGLE_STAGE)} need a single stage: set epochs or lr, or put them into stages"


def default_members(image_size: tuple[int, int], config: ModelConfig = _DEFAULTS) -> tuple[Any, ...]:
    """Return default members for images of this height and width.

    With a fitted head, it is one pretrained encoder; or the pixels, if the images are small or no weights are at hand.
    With attention, it is the encoder.

    Args:
        image_size: Height and width.
        config: Options of the run.
    """
    if config.head == ATTENTION:
        return (ENCODER,)
    if config.head in FITTED:
        if max(image_size) <= SMALL_SIDE and config.weights is None:
            return ("pixels",)
        reasons = {} if config.weights else missing_weights([MemberConfig(ENCODER, ENCODER, config)])
        if reasons:
            warnings.warn(
                f"no pretrained weights for '{ENCODER}': {reasons[ENCODER]}; the pixels are used instead of features: "
                "for a better classifier, set --weights FILE",
                stacklevel=2,
            )
            return ("pixels",)
        return (ENCODER,)
    if max(image_size) > SMALL_SIDE:
        return PHOTOS
    return tuple(
        {"model": name, "pretrained": False, "input.size": [32]} if name == "test_resnet" else name
        for name in SMALL_IMAGES
    )


@dataclass(frozen=True)
class Recipe:
    """The preset of training options of a run, whose values differ between pretrained and other networks."""

    preset: Preset
    """good and best have a recipe, and fast for heads on frozen pretrained networks; else options that are not set have
    their defaults."""
    given: frozenset[str] = frozenset()
    """Options that the user set for the run, which the recipe keeps."""
    multilabel: bool = False
    """Whether an image has a set of labels."""

    def apply(
        self, network: str, config: ModelConfig, training: TrainingConfig, given: Collection[str]
    ) -> tuple[ModelConfig, TrainingConfig]:
        """Return the options of a network and its training, of which `given` are those of this member."""
        pretrained, given = is_pretrained(network, config), self.given.union(given)
        frozen = self.preset == "fast" and pretrained and not has_stages(training)
        if not (frozen or self.preset in ("good", "best")) or has_fitted_head(network, config):
            return config, training
        if frozen and "freeze" not in given:
            config = replace(config, freeze=("backbone",))
        return with_recipe(config, training, pretrained=pretrained, given=given, multilabel=self.multilabel)


NO_RECIPE = Recipe("paper")
"""Options that are not set have their defaults."""


def resolve_members(
    members: Sequence[Any], model: ModelConfig, training: TrainingConfig, recipe: Recipe = NO_RECIPE
) -> tuple[MemberConfig, ...]:
    """Resolve network names, YAML files and mappings; an option of the run applies to all members that have it.

    Raises:
        ConfigError: Lists all unknown networks and options and all invalid member names.
    """
    problems: list[str] = []
    resolved: list[MemberConfig] = []
    for position, member in enumerate(members):
        try:
            resolved.append(resolve_member(member, model, training, recipe))
        except ConfigError as error:
            problems.extend(f"member {position + 1}: {text}" for text in error.problems)
    raise_problems(problems)
    used = {name for member in resolved for name in changed_options(member.model)}
    raise_problems(
        f"--{name.replace('_', '-')} has no effect on any member{_NEEDS.get(name, '')}"
        for name in sorted(changed_options(model) - used)
    )
    if resolved and all(has_fitted_head(member.network, member.model) for member in resolved):
        unused = [name for name, default in _SINGLE_STAGE.items() if getattr(training, name) != default]
        raise_problems(f"--{name.replace('_', '-')} has no effect on a fitted head" for name in unused)
    return with_unique_names(resolved)


def member_mapping(member: Any) -> dict[str, Any]:
    """Return a member given as a network name, YAML file or mapping as a mapping with a `model`.

    Raises:
        ConfigError: It is none of these, or the file cannot be read.
    """
    if isinstance(member, str) and Path(member).suffix in (".yaml", ".yml"):
        member = read_mapping(member)
    if isinstance(member, str):
        member = {"model": member}
    if not isinstance(member, Mapping) or not isinstance(member.get("model"), str):
        raise ConfigError(f"{member!r} is neither a network's name nor a mapping with a 'model'")
    return dict(member)


def is_pretrained(network: str, model: ModelConfig) -> bool:
    """Whether a network of timm starts from pretrained weights."""
    return is_timm(network) and (model.pretrained or model.weights is not None)


def resolve_member(
    member: Any, model: ModelConfig, training: TrainingConfig, recipe: Recipe = NO_RECIPE
) -> MemberConfig:
    """Resolve one member; options of the run that its network does not have are ignored.

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
        training = replace(training, epochs=None, lr=None, **_SINGLE_STAGE)
    parsed = MEMBER_OPTIONS.parse_object(options, source=f"member {name}", base=(model, training))
    config, training = recipe.apply(network, parsed.of(ModelConfig), parsed.of(TrainingConfig), parsed.given)
    member_options = {key.partition(".")[0] for key in parsed.given}
    ignored = changed_options(model) - member_options - options_of(network, config)  # these apply to other members
    config = replace(config, **{field: getattr(_DEFAULTS, field) for field in ignored})
    check_network(network, config)
    fitted = has_fitted_head(network, config)
    if fitted:
        unused = sorted(member_options & {field.name for field in fields(TrainingConfig)} - {"class_weights"})
        raise_problems(
            [
                bool(unused) and f"the head of {name} is fitted, not trained in epochs: remove {', '.join(unused)}",
                "freeze" in member_options and f"the head of {name} needs a frozen backbone: remove freeze",
                config.recurrent != "none"
                and f"the head of {name} is fitted on features of the backbone: remove recurrent, or use --head linear",
            ]
        )
    single_stage = training.epochs is not None or training.lr is not None
    stage_option_set = any(getattr(training, name) != default for name, default in _SINGLE_STAGE.items())
    raise_problems([stage_option_set and not single_stage and not fitted and _SINGLE_STAGE_ONLY])
    return MemberConfig(name, network, config, training)


def with_unique_names(members: Sequence[MemberConfig]) -> tuple[MemberConfig, ...]:
    """Return members with numbers appended to names that occur more than once.

    Raises:
        ConfigError: Lists the names that are invalid, or whose files would be those of another member.
    """
    totals, counts = Counter(member.name for member in members), Counter[str]()
    unique = []
    for member in members:
        counts[member.name] += 1
        duplicate = totals[member.name] > 1
        unique.append(replace(member, name=f"{member.name}-{counts[member.name]}") if duplicate else member)
    raise_problems(_name_problems([member.name for member in unique]))
    return tuple(unique)


def _name_problems(names: Sequence[str]) -> Iterator[str]:
    """Yield problems with the names, whose files must differ from those of other members and ensemble methods."""
    owners: dict[str, int] = {}
    for position, name in enumerate(names):
        if not name.strip():
            yield "a member's name must not be blank"
        elif name in PARTS["combiner"]:
            yield f"a member cannot have the name '{name}', which is an ensemble method"
        owner = owners.setdefault(slug(name).casefold(), position)
        if owner != position:
            yield f"members '{names[owner]}' and '{name}' would share the folder {slug(name)}: rename one"
