"""Definition of a search: base options, search space, and the configuration at each point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tercet.config.model import ModelConfig
from tercet.config.parser import CommandOptions, ParsedArguments
from tercet.config.run import DataConfig, FusionConfig, MemberConfig, RunConfig
from tercet.config.search_space import Choices, SearchSpace, read_space
from tercet.config.training import Monitor, TrainingConfig
from tercet.core.errors import ConfigError, raise_problems
from tercet.core.run_folder import RECORD, RunFolder
from tercet.models.build import options_of
from tercet.models.members import NO_RECIPE, Recipe, member_mapping, resolve_member, resolve_members
from tercet.models.registry import has_fitted_head
from tercet.models.weight_check import check_weights

_KINDS = (RunConfig, DataConfig, ModelConfig, TrainingConfig, FusionConfig)
SEARCHED = CommandOptions(*_KINDS)
"""Options of a trial, the same as those of a training."""
_NO_NETWORK = "tune varies the options of one network{}: name it, such as --members row-lstm"
_NO_EFFECT = ("checkpoint_seconds", "device", "ensemble_methods", "output", "tensorboard", "threads", "tta")
_FIXED = {
    **{key: "it does not affect the trained network" for key in _NO_EFFECT},
    **{key: "a trial has one member, nothing is combined" for key in SEARCHED.fields if key.startswith("fusion.")},
    **{
        key: "all trials share one prepared data set"
        for key in SEARCHED.fields
        if key.startswith("data.") and key != "data.class_balanced_sampling"
    },
    "monitor": "trials are compared by it",
    "monitor_split": "trials are compared on validation",
    "seed": "the best of several seeds is chosen by chance",
}
"""Options that cannot vary, and the reason."""


@dataclass(frozen=True)
class SearchStudy:
    """Data, base options, search space and number of trials."""

    data: str
    """Source of the data."""
    space: SearchSpace
    trials: int
    """Total number of trials."""
    pruner: str
    """median, hyperband or none."""
    base: Mapping[type, Any]
    """Base options: one instance per configuration class."""

    @classmethod
    def make(
        cls,
        data: str,
        parsed: ParsedArguments,
        space: str | Path | Mapping[str, Any] | None,
        *,
        trials: int,
        pruner: str,
        recipe: Recipe = NO_RECIPE,
    ) -> SearchStudy:
        """Create a search.

        Args:
            data: Source of the data.
            parsed: Base options.
            space: Options to vary, or a file of them (default: those of `default_space`).
            trials: Total number of trials.
            pruner: median, hyperband or none.
            recipe: Preset for base options that are not given.

        Raises:
            ConfigError: Not exactly one network, or invalid options or space; all problems are listed.
        """
        base: dict[type, Any] = {kind: parsed.of(kind) for kind in _KINDS}
        run: RunConfig = base[RunConfig]
        if space is None:
            raise_problems([not run.members and _NO_NETWORK.format("")])
            members = resolve_members(run.members, base[ModelConfig], base[TrainingConfig], recipe)
            space = default_space(members[0])
        search_space = read_space(space, SEARCHED, base=tuple(base.values()), fixed=_FIXED)
        networks = search_space.axis("members")
        choices = networks.values if isinstance(networks, Choices) else ()
        first = run.members or choices[:1]
        if len(first) != 1:
            count = f", not of {len(first)}" if first else ""
            raise ConfigError(_NO_NETWORK.format(count))
        base[RunConfig] = replace(run, members=tuple(first), output=None)
        search = cls(data, search_space, trials, pruner, base)
        if choices:  # their trainings share the recipe of the first network
            entry = member_mapping(first[0])
            applied = recipe.apply(entry["model"], base[ModelConfig], base[TrainingConfig], entry.keys())
            base[ModelConfig], base[TrainingConfig] = applied
        members = resolve_members([*first, *choices], base[ModelConfig], base[TrainingConfig], recipe)
        raise_problems(
            [
                any(member.training.monitor_split != "validation" for member in members)
                and "tune compares trials on validation: remove --monitor-split",
                len({member.training.monitor for member in members}) > 1
                and "the networks differ in monitor: use the same one for all",
            ]
        )
        return search if choices else search._with_member(members[0])

    def _with_member(self, member: MemberConfig) -> SearchStudy:
        """Return the search with the member's options as base options, so that all of them can vary."""
        options = {ModelConfig: member.model, TrainingConfig: member.training}
        run = replace(self.base[RunConfig], members=(_member_entry(member),))
        return replace(self, base={**self.base, **options, RunConfig: run})

    def check(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Check the weights of the network, and a sample of points.

        Raises:
            ModelError: Weights cannot be used.
            ConfigError: No point is a valid configuration, or an option of the space has no effect on any network.
        """
        effective: set[str] = set()
        reason, valid = "", 0
        networks = self.space.axis("members")
        check_weights(
            resolve_members(
                [*self.run.members, *(networks.values if isinstance(networks, Choices) else ())],
                self.base[ModelConfig],
                self.base[TrainingConfig],
            )
        )
        for point in points:
            try:
                member, _ = self.configuration(point)
            except ConfigError as error:
                reason = str(error)
            else:
                effective |= options_of(member.network, member.model)
                valid += 1
        raise_problems([not valid and f"no point of the space is a valid configuration: {reason}"])
        model_keys = {key for key in self.space.keys if key.partition(".")[0] in ModelConfig.__dataclass_fields__}
        raise_problems(
            f"space: {key} has no effect on this network"
            for key in self.space.keys
            if key in model_keys and key.partition(".")[0] not in effective
        )

    def configuration(self, point: Mapping[str, Any]) -> tuple[MemberConfig, DataConfig]:
        """Return the member and data options at a point; the empty point means the base options.

        Raises:
            ConfigError: Invalid combination of values.
        """
        parsed = SEARCHED.parse_object(self.space.values(point), base=tuple(self.base.values()))
        run = parsed.of(RunConfig)
        raise_problems([len(run.members) != 1 and "a trial trains one network"])
        member = resolve_member(run.members[0], parsed.of(ModelConfig), parsed.of(TrainingConfig))
        return member, parsed.of(DataConfig)

    def values(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the varying options at a point, as in configuration files."""
        base = self.config_file({})
        return {**{key: base[key] for key in self.space.keys}, **self.space.values(point)}

    def start_point(self) -> dict[str, Any]:
        """Return the point of the base options; options whose base value is outside the space are left out."""
        return self.space.locate(self.config_file({}))

    def config_file(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration at a point as the content of a file for `tercet train --config`."""
        member, data = self.configuration(point)
        run = replace(self.base[RunConfig], members=(_member_entry(member),))
        return SEARCHED.to_dict(run, data, member.model, member.training, self.base[FusionConfig])

    @property
    def run(self) -> RunConfig:
        """Base options other than those of network, training and data."""
        run: RunConfig = self.base[RunConfig]
        return run

    @property
    def monitor(self) -> Monitor:
        """The score that trials are compared by."""
        return self.configuration({})[0].training.monitor

    @property
    def epochs(self) -> int | None:
        """Epochs of a training with the base options; None if its stages are given in steps."""
        stages = self.configuration({})[0].training.stage_list()
        lengths = [stage.epochs for stage in stages if stage.epochs is not None]
        return math.ceil(sum(lengths)) if len(lengths) == len(stages) else None

    def to_options(self) -> dict[str, Any]:
        """Return the search as the options of `tune`, with the space as a mapping."""
        options = SEARCHED.to_dict(*self.base.values())
        return {**options, "trials": self.trials, "pruner": self.pruner, "space": self.space.to_dict()}

    @classmethod
    def load(cls, run: RunFolder) -> SearchStudy:
        """Read the search of a run folder."""
        record = run.record()
        options = dict(record.options)
        space, trials, pruner = (options.pop(key) for key in ("space", "trials", "pruner"))
        options.pop("preset", None)  # its values are among the others
        parsed = SEARCHED.parse_object(options, source=RECORD)
        return cls.make(str(record.source), parsed, space, trials=trials, pruner=pruner)


def default_space(member: MemberConfig) -> dict[str, Any]:
    """Return the options that a search varies by default: learning rates, regularization and augmentation.

    Raises:
        ConfigError: The head is fitted, and chooses its regularization itself.
    """
    training = member.training
    if has_fitted_head(member.network, member.model):
        raise ConfigError(f"the fitted head of {member.name} has nothing to tune: use --preset good, or set --space")
    space: dict[str, Any] = {"weight_decay": [0.0, 0.01, 0.1], "label_smoothing": [0.0, 0.1]}
    space["augment"] = ["none", "light", "flip"]
    rates = {"lr": training.lr, "head_lr": training.head_lr if training.stages is None else None}
    for option, rate in rates.items():
        if rate is not None:
            space[option] = {"low": rate / 10, "high": rate * 10, "log": True}
    return space


def _member_entry(member: MemberConfig) -> Any:
    """Return a member as an entry of the option `members`."""
    return member.network if member.name == member.network else {"model": member.network, "name": member.name}
