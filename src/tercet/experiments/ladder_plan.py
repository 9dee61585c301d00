"""Which networks the rungs of the ladder train."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from tercet.config.model import ModelConfig
from tercet.config.parser import ParsedArguments
from tercet.config.presets import LadderConfig, PresetConfig, RungName, has_stages
from tercet.config.run import MemberConfig, RunConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError
from tercet.core.runtime import plan_threads
from tercet.data.data_module import DataModule
from tercet.experiments.estimate import PLANNED, Estimator, members_within
from tercet.experiments.plan import Plan, Rung
from tercet.metrics.table import duration
from tercet.models.heads import FITTED
from tercet.models.members import (
    MEMBER_OPTIONS,
    PHOTOS,
    SMALL_SIDE,
    Recipe,
    default_members,
    is_pretrained,
    member_mapping,
    resolve_members,
)
from tercet.models.registry import has_fitted_head
from tercet.models.weight_check import missing_weights

Entry = Mapping[str, Any]
"""A member as a mapping of `model` and its options."""
PROBE = "-probe"
"""Added to the name of a network for its probe."""
SMALL_NETWORKS: tuple[Entry, ...] = (
    {"model": "small-cnn", "input.size": [64]},
    {"model": "test_resnet", "pretrained": False, "input.size": [64]},
)
"""Networks for photos without any pretrained weights."""
_PROBE_OPTIONS = ("model", "pretrained", "weights", "backbone", "input", "class_weights")


def climbs(parsed: ParsedArguments) -> bool:
    """Return whether a run climbs the ladder.

    It does with the presets good and best, unless stages or a fitted head are given, or members are named of which none
    can be probed.
    """
    return not _reason_not_to_climb(parsed)


def check_limits(parsed: ParsedArguments) -> None:
    """Raise if the run is limited to a time or a rung, but does not climb the ladder.

    Raises:
        ConfigError: The limit would have no effect.
    """
    ladder, reason = parsed.of(LadderConfig), _reason_not_to_climb(parsed)
    limits = {"--time-budget": ladder.time_budget, "--stop-at": ladder.stop_at}
    if reason and (given := [name for name, value in limits.items() if value is not None]):
        raise ConfigError(
            f"{' and '.join(given)} limit the presets good and best, which start with a probe, but {reason}: remove "
            "them, or limit each training with --max-time SECONDS"
        )


def _reason_not_to_climb(parsed: ParsedArguments) -> str:
    """Return why a run trains all members at once; empty if it climbs the ladder."""
    preset, model, named = parsed.of(PresetConfig).preset, parsed.of(ModelConfig), parsed.of(RunConfig).members
    training = parsed.of(TrainingConfig)
    if preset not in ("good", "best"):
        return f"the preset is {preset}"
    if model.head in FITTED:
        return f"--head {model.head} is fitted without a training"
    if has_stages(training):
        return "--epochs, --lr or --stages define the training"
    if named and all(_kind(member_mapping(entry), model, training) != "pretrained" for entry in named):
        return "none of the members has a pretrained network to probe"
    return ""


def with_preset_head(parsed: ParsedArguments) -> ParsedArguments:
    """Return the options with the fitted head of the preset `fast`."""
    model = parsed.of(ModelConfig)
    if parsed.of(PresetConfig).preset != "fast" or "head" in parsed.given or has_stages(parsed.of(TrainingConfig)):
        return parsed
    return parsed.replace(replace(model, head="logistic"))


def plan_rungs(parsed: ParsedArguments, prepared: DataModule) -> tuple[Rung, ...]:
    """Return the rungs: probes of pretrained networks, or of the pixels; the best network; all others.

    Args:
        parsed: Options of the run; without members, there are default ones.
        prepared: The data.
    """
    model, training, preset = parsed.of(ModelConfig), parsed.of(TrainingConfig), parsed.of(PresetConfig).preset
    multilabel = prepared.table.membership is not None
    entries: Sequence[Entry] = [member_mapping(member) for member in parsed.of(RunConfig).members]
    named = bool(entries)
    entries = entries or _default_entries(prepared, model)
    kinds: dict[str, list[Entry]] = {"fitted": [], "pretrained": [], "other": []}
    for entry in entries:
        kinds[_kind(entry, model, training)].append(entry)
    encoders, others = kinds["pretrained"], kinds["other"]
    further: list[Entry] = []
    if not named and preset == "good" and not multilabel:
        encoders, further = encoders[:1], [_probe(entry) for entry in encoders[1:]]
    probes = [*kinds["fitted"], *(_probe(entry) for entry in encoders)] or [{"model": "pixels"}]
    first, rest = (encoders, others) if encoders else (others[:1], others[1:])
    groups: dict[RungName, list[Entry]] = {
        "probe": [] if multilabel else probes,
        "fine-tune": first,
        "ensemble": [*rest, *further],
    }
    recipe = Recipe(preset, parsed.given, multilabel)
    resolved = resolve_members([entry for group in groups.values() for entry in group], model, training, recipe)
    return _divide({name: len(group) for name, group in groups.items()}, resolved)


def _divide(sizes: Mapping[RungName, int], members: Sequence[MemberConfig]) -> tuple[Rung, ...]:
    """Return members as rungs of these sizes; empty ones are left out."""
    rungs, start = [], 0
    for name, size in sizes.items():
        if size:
            rungs.append(Rung(name, tuple(members[start : start + size])))
        start += size
    return tuple(rungs)


def _kind(entry: Entry, model: ModelConfig, training: TrainingConfig) -> Literal["fitted", "pretrained", "other"]:
    """Return whether a member has a fitted head, or a pretrained network that can be probed, or neither."""
    network = entry["model"]
    options = {key: value for key, value in entry.items() if key not in ("model", "name")}
    parsed = MEMBER_OPTIONS.parse_object(options, source=f"member {network}", base=(model, training))
    config = parsed.of(ModelConfig)
    if has_fitted_head(network, config):
        return "fitted"
    probed = is_pretrained(network, config) and config.recurrent == "none" and not has_stages(parsed.of(TrainingConfig))
    return "pretrained" if probed else "other"


def _default_entries(prepared: DataModule, model: ModelConfig) -> Sequence[Entry]:
    """Return pretrained networks whose weights are at hand, or small ones for small images and without any weights."""
    if max(prepared.image_size) <= SMALL_SIDE and model.weights is None:
        return [
            member_mapping(member) for member in default_members(prepared.image_size, replace(model, head="linear"))
        ]
    if model.weights is not None:
        return [{"model": PHOTOS[0]}]  # a file has the weights of one network
    reasons = missing_weights([MemberConfig(network, network, model) for network in PHOTOS])
    if len(reasons) == len(PHOTOS):
        warnings.warn(
            f"no pretrained weights: {reasons[PHOTOS[0]]}; small networks are trained from scratch instead: for a "
            f"better model, set --weights FILE with the weights of {PHOTOS[0]}, or of another network with --members",
            stacklevel=2,
        )
        return SMALL_NETWORKS
    return [{"model": network} for network in PHOTOS if network not in reasons]


def _probe(entry: Entry) -> dict[str, Any]:
    """Return the probe of a network: its options that apply to a fitted head."""
    options = {key: value for key, value in entry.items() if key.partition(".")[0] in _PROBE_OPTIONS}
    return {**options, "name": f"{entry.get('name', entry['model'])}{PROBE}", "head": "logistic"}


def first_rung(plan: Plan, rungs: Sequence[Rung], prepared: DataModule, config: LadderConfig) -> Plan:
    """Return the plan of the first rung, whose other rungs wait.

    Args:
        plan: A plan with the members of all rungs.
        rungs: The rungs.
        prepared: The data.
        config: Time budget and last rung.

    Raises:
        ConfigError: The time budget is too small for the first rung.
    """
    first, *waiting = _divide({rung.name: len(rung.members) for rung in rungs}, plan.members)
    estimator = Estimator(prepared)
    fitting = members_within(plan, first.members, config.remaining(plan.started), estimator)
    if not fitting:
        needed = min(estimator.least_seconds(plan, member) for member in first.members)
        elapsed = time.monotonic() - plan.started
        raise ConfigError(
            f"time_budget {config.time_budget} is too small: reading the data took {duration(elapsed)}, and a first "
            f"model takes about {duration(needed)}: give at least {math.ceil((elapsed + needed) / PLANNED)}s"
        )
    return start_rung(replace(plan, members=()), first.name, fitting, waiting)


def start_rung(plan: Plan, name: RungName, members: Sequence[MemberConfig], waiting: Sequence[Rung]) -> Plan:
    """Return a plan with the members of a rung added, between which the cores are divided, and the rungs after it."""
    threads = plan_threads(len(members), threads=plan.run.threads, device=plan.device).threads
    return replace(plan, members=(*plan.members, *members), rung=name, rungs=tuple(waiting), threads=threads)
