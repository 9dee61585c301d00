"""What every network of a comparison may spend, and equal sizes where they are asked for.

FLOPs of a training are taken as 3 x those of the forward pass x images: the backward pass costs about twice the forward
one. A multiply-add is two FLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tercet.ground.errors import ConfigError
from tercet.models.build import build
from tercet.models.classifier import Classifier
from tercet.models.matching import Match, match_parameters
from tercet.models.summary import count_parameters, summarize
from tercet.records.compare_config import CompareConfig
from tercet.records.config import DataConfig, MemberConfig
from tercet.records.model_config import ModelConfig
from tercet.records.training_config import TrainingConfig
from tercet.training.schedules import stage_steps
from tercet.workflows.compare.grid import is_open
from tercet.workflows.train.prepared import PreparedData

FORWARD_AND_BACKWARD = 3
_NO_END = 100_000.0  # epochs: a budget of seconds ends long before


@dataclass(frozen=True)
class Cell:
    """One network of a comparison, ready to be trained."""

    member: MemberConfig
    """The network and its training, without a seed."""
    notes: dict[str, Any]
    """What was changed to make the comparison fair: `matched`, `planned_updates`; empty where nothing was."""


def settle(
    cells: Sequence[MemberConfig], config: CompareConfig, *, baseline: str, prepared: PreparedData, data: DataConfig
) -> list[Cell]:
    """Return the networks brought to one size, and their trainings to one budget, where that is asked for.

    Raises:
        ConfigError: A network that cannot be built or brought to size, or a budget that pays for no update.
    """
    settled = [Cell(cell, {}) for cell in cells]
    if config.match_parameters:
        target = next(_count(cell, cell.model, prepared) for cell in cells if cell.name == baseline)
        settled = [
            cell if cell.member.name == baseline else _matched(cell, target, config.tolerance, prepared)
            for cell in settled
        ]
    kind, amount = config.limit()
    if kind == "seconds":
        return [replace(cell, member=_timed(cell.member, amount)) for cell in settled]
    if kind == "flops":
        return [_rationed(cell, amount, prepared, data) for cell in settled]
    return settled


def _built(member: MemberConfig, model: ModelConfig, prepared: PreparedData) -> Classifier:
    return build(
        member.network,
        num_classes=len(prepared.table.classes),
        config=model,
        channels=prepared.channels,
        image_size=prepared.image_size,
        load_weights=False,
    )


def _count(member: MemberConfig, model: ModelConfig, prepared: PreparedData) -> int:
    return count_parameters(_built(member, model, prepared))


def _matched(cell: Cell, target: int, tolerance: float, prepared: PreparedData) -> Cell:
    member = cell.member

    def count(model: ModelConfig) -> int:
        return _count(member, model, prepared)

    match = match_parameters(member.network, member.model, target, count=count, tolerance=tolerance)
    return Cell(replace(member, model=match.config), {"matched": _describe(match)})


def _describe(match: Match) -> dict[str, Any]:
    return {
        "option": match.knob,
        "width": match.width,
        "parameters": match.parameters,
        "target": match.target,
        "deviation": match.deviation,
    }


def _timed(member: MemberConfig, seconds: float) -> MemberConfig:
    training = member.training
    if is_open(training):
        training = replace(training, epochs=_NO_END)
    return replace(member, training=replace(training, max_time=seconds))


def _rationed(cell: Cell, flops: float, prepared: PreparedData, data: DataConfig) -> Cell:
    """Return the training with as many updates as the FLOPs pay for, shared among its stages as they were."""
    member, training = cell.member, cell.member.training
    classifier = _built(member, member.model, prepared)
    an_image = int(summarize(classifier)["flops"])
    updates = int(flops / (FORWARD_AND_BACKWARD * an_image * training.batch_size))
    stages = training.stage_list()
    if updates < len(stages):
        least = FORWARD_AND_BACKWARD * an_image * training.batch_size * len(stages)
        raise ConfigError(
            f"budget flops:{flops:g} pays for no update of '{member.name}': it needs at least {least:.3g}"
        )
    rows = prepared.rows("train")
    an_epoch = len(prepared.training_loader(rows, (classifier.spec,), training=training, data=data, seed=0))
    lengths = [stage_steps(stage, an_epoch) for stage in stages]
    ends = [round(updates * sum(lengths[: index + 1]) / sum(lengths)) for index in range(len(stages))]
    stages = tuple(
        replace(stage, epochs=None, steps=max(1, end - start))
        for stage, start, end in zip(stages, [0, *ends[:-1]], ends, strict=True)
    )
    return Cell(replace(member, training=_with(training, stages)), {**cell.notes, "planned_updates": updates})


def _with(training: TrainingConfig, stages: Any) -> TrainingConfig:
    return replace(training, stages=stages, epochs=None, lr=None, schedule="constant", patience=None)
