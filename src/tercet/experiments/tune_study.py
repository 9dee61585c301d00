"""A search: the options as they are, the space in which some of them vary, and what a point of it means."""

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
from tercet.core.errors import ConfigError, StorageError, raise_problems
from tercet.core.files import write_text
from tercet.core.yaml_io import dump_yaml, read_mapping
from tercet.models.build import check_weights, options_of
from tercet.models.members import resolve_member, resolve_members

_KINDS = (RunConfig, DataConfig, ModelConfig, TrainingConfig, FusionConfig)
SEARCHED = CommandOptions(
    "search",
    groups=[("", RunConfig), ("data", DataConfig), ("", ModelConfig), ("", TrainingConfig), ("fusion", FusionConfig)],
    aliases={"data_dir": "data.data_dir"},
)
"""The options of a trial, which are those of a training."""
_NO_EFFECT = ("checkpoint_seconds", "device", "ensemble_methods", "output", "tensorboard", "threads", "tta")
_FIXED = {
    **{key: "it does not change what is learned" for key in _NO_EFFECT},
    **{key: "a member alone is not fused" for key in SEARCHED.schema.fields if key.startswith("fusion.")},
    **{
        key: "all trials share one prepared data set"
        for key in SEARCHED.schema.fields
        if key.startswith("data.") and key != "data.class_balanced_sampling"
    },
    "monitor": "it is what trials are compared by",
    "monitor_split": "trials are compared on validation",
    "seed": "the best of several seeds is luck",
}
"""Why some options cannot vary."""


@dataclass(frozen=True)
class SearchStudy:
    """What is searched, where, and for how long."""

    data: str
    """What the user named."""
    space: SearchSpace
    """The options that vary."""
    trials: int
    """Trainings in all."""
    pruner: str
    """What ends trials early: median, hyperband or none."""
    given: Mapping[type, Any]
    """The options as they are: an instance of each class."""

    @classmethod
    def make(
        cls, data: str, parsed: ParsedArguments, space: str | Path | Mapping[str, Any], *, trials: int, pruner: str
    ) -> SearchStudy:
        """Return a search, and find what is wrong with it before any data is touched.

        Raises:
            ConfigError: Not one network, or options and a space that cannot be; all problems are listed.
            ModelError: Weights cannot be used.
        """
        given: dict[type, Any] = {kind: parsed.of(kind) for kind in _KINDS}
        run: RunConfig = given[RunConfig]
        read = read_space(space, SEARCHED, base=tuple(given.values()), fixed=_FIXED)
        networks = read.axis("members")
        choices = networks.values if isinstance(networks, Choices) else ()
        first = run.members or choices[:1]
        if len(first) != 1:
            named = "" if not first else f", not of {len(first)}"
            raise ConfigError(f"tune searches the options of one network{named}: name it, as in --members row-lstm")
        given[RunConfig] = replace(run, members=tuple(first), output=None)
        search = cls(data, read, trials, pruner, given)
        members = resolve_members([*first, *choices], given[ModelConfig], given[TrainingConfig])
        raise_problems(
            [
                any(member.training.monitor_split != "validation" for member in members)
                and "tune chooses on validation: leave --monitor-split as it is",
                len({member.training.monitor for member in members}) > 1
                and "the networks differ in monitor: give one for the whole search",
            ]
        )
        for member in members:
            check_weights(member.network, member.model)
        return search if choices else search._of(members[0])

    def _of(self, member: MemberConfig) -> SearchStudy:
        """Return this search with the member's own options where the run's were, so that all of them may vary."""
        own = {ModelConfig: member.model, TrainingConfig: member.training}
        run = replace(self.given[RunConfig], members=(_name(member),))
        return replace(self, given={**self.given, **own, RunConfig: run})

    def check(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Refuse a space of which nothing can be tried, or options in it that have no effect anywhere.

        Args:
            points: Some points drawn from the space.

        Raises:
            ConfigError: None of the points is a configuration, or an option never acts.
        """
        acting: set[str] = set()
        reason, tried = "", 0
        for point in points:
            try:
                member, _ = self.configuration(point)
            except ConfigError as error:
                reason = str(error)
            else:
                acting |= options_of(member.network, member.model)
                tried += 1
        raise_problems([not tried and f"nothing in this space can be trained: {reason}"])
        network = {key for key in self.space.keys if key.partition(".")[0] in ModelConfig.__dataclass_fields__}
        raise_problems(
            f"space: {key} has no effect on this network"
            for key in self.space.keys
            if key in network and key.partition(".")[0] not in acting
        )

    def configuration(self, point: Mapping[str, Any]) -> tuple[MemberConfig, DataConfig]:
        """Return what is trained at a point; at the point without coordinates, the options as they are.

        Raises:
            ConfigError: The values do not go together.
        """
        parsed = SEARCHED.parse_object(self.space.values(point), base=tuple(self.given.values()))
        run = parsed.of(RunConfig)
        raise_problems([len(run.members) != 1 and "a trial trains one network"])
        member = resolve_member(run.members[0], parsed.of(ModelConfig), parsed.of(TrainingConfig))
        return member, parsed.of(DataConfig)

    def values(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the varying options' values at a point, as files hold them."""
        as_given = self.document({})
        return {**{key: as_given[key] for key in self.space.keys}, **self.space.values(point)}

    def start(self) -> dict[str, Any]:
        """Return the point of the options as they are, as far as it lies in the space."""
        return self.space.locate(self.document({}))

    def document(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration at a point as a file that `tercet train --config` takes."""
        member, data = self.configuration(point)
        run = replace(self.given[RunConfig], members=(_name(member),))
        return SEARCHED.to_dict(run, data, member.model, member.training, self.given[FusionConfig])

    @property
    def run(self) -> RunConfig:
        """The options beside network, training and data."""
        run: RunConfig = self.given[RunConfig]
        return run

    @property
    def monitor(self) -> Monitor:
        """What trials are compared by."""
        return self.configuration({})[0].training.monitor

    @property
    def epochs(self) -> int | None:
        """Length of a training with the options as they are; None where its stages are counted in steps."""
        stages = self.configuration({})[0].training.stage_list()
        lengths = [stage.epochs for stage in stages if stage.epochs is not None]
        return math.ceil(sum(lengths)) if len(lengths) == len(stages) else None

    def save(self, path: Path) -> None:
        """Write the search as YAML."""
        document = {
            "data_source": self.data,
            "trials": self.trials,
            "pruner": self.pruner,
            "space": self.space.to_dict(),
            "options": SEARCHED.to_dict(*self.given.values()),
        }
        write_text(path, dump_yaml(document))

    @classmethod
    def load(cls, path: Path) -> SearchStudy:
        """Read what `save` wrote.

        Raises:
            StorageError: It is no search.
        """
        stored = read_mapping(path)
        try:
            parsed = SEARCHED.parse_object(stored["options"], source=str(path))
            given: dict[type, Any] = {kind: parsed.of(kind) for kind in _KINDS}
            space = read_space(stored["space"], SEARCHED, base=tuple(given.values()), fixed=_FIXED)
            return cls(stored["data_source"], space, stored["trials"], stored["pruner"], given)
        except KeyError as error:
            raise StorageError(f"{path} is no search: {error.args[0]} is missing") from error


def _name(member: MemberConfig) -> Any:
    """Return a member as `members` names it."""
    return member.network if member.name == member.network else {"model": member.network, "name": member.name}
