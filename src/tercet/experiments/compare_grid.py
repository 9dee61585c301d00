"""The grid of compared networks and their common budget of parameters or time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from tercet.config.experiments import CompareConfig
from tercet.config.model import ModelConfig
from tercet.config.run import DataConfig, MemberConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError, raise_problems
from tercet.core.registry import did_you_mean
from tercet.data.data_module import DataModule
from tercet.models.build import build, check_network, options_of
from tercet.models.classifier import Classifier
from tercet.models.members import member_mapping, resolve_members
from tercet.models.parameter_matching import ParameterMatch, find_width_option, match_parameters
from tercet.models.summary import count_parameters, summarize
from tercet.training.optim import stage_steps

_OPTIONS = {"recurrent": "recurrent", "bidirectional": "bidirectional", "scans": "scan", "sizes": "input"}
"""The field of `ModelConfig` that each axis of the grid sets."""
_PLAIN = {"recurrent": "none", "bidirectional": False, "scans": "pooled"}


def expand_grid(config: CompareConfig, model: ModelConfig, training: TrainingConfig) -> tuple[MemberConfig, ...]:
    """Return every network of the grid once, in the order of the backbones.

    A backbone without a recurrent module has no direction and no scan, and a row classifier brings its own: such
    combinations are dropped, not trained twice. What a backbone's own mapping says is not varied.

    Raises:
        ConfigError: No backbone, an unknown one, or options that have no effect or cannot be.
    """
    if not config.backbones:
        raise ConfigError("a comparison needs networks: name them with --backbones")
    raise_problems(
        [bool(config.sizes) and model.input.size is not None and "give either sizes or input.size, not both"]
    )
    cells: list[dict[str, Any]] = []
    used: set[tuple[str, Any]] = set()
    axes = {axis: getattr(config, axis) or (None,) for axis in _OPTIONS}
    for backbone in config.backbones:
        mapping = member_mapping(backbone)
        check_network(mapping["model"])
        points: list[dict[str, Any]] = []
        for values in product(*axes.values()):
            point = _acting(mapping, dict(zip(axes, values, strict=True)))
            used.update(point.items())
            points += [] if point in points else [point]
        cells += [_cell(mapping, point) for point in points]
    idle = ((axis, value) for axis in _OPTIONS for value in getattr(config, axis) if value != _PLAIN.get(axis))
    raise_problems(
        (axis, value) not in used and f"--{axis} {str(value).lower()} has no effect on any network"
        for axis, value in idle
    )
    return resolve_members(cells, model, training)


def _acting(mapping: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that make a difference to a backbone and are not its own."""
    own = {*mapping, *(["input.size"] if "size" in (mapping.get("input") or {}) else [])}
    acting = options_of(mapping["model"], ModelConfig(recurrent=mapping.get("recurrent", values["recurrent"])))
    keys = {axis: "input.size" if axis == "sizes" else option for axis, option in _OPTIONS.items()}
    return {
        axis: value
        for axis, value in values.items()
        if value is not None and _OPTIONS[axis] in acting and keys[axis] not in own
    }


def _cell(mapping: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """Return a member: a backbone at one point of the grid, with a name that says where."""
    bidirectional = point.get("bidirectional", False)
    suffix = ""
    if point.get("recurrent", "none") != "none":
        suffix = f"+{'bi' if bidirectional else ''}{point['recurrent']}"
    elif bidirectional:
        suffix = "+bidirectional"
    if point.get("scans", "pooled") != "pooled":
        suffix += f":{point['scans']}"
    options = {_OPTIONS[axis]: value for axis, value in point.items() if axis != "sizes"}
    if "sizes" in point:
        suffix += f"@{point['sizes']}"
        options["input.size"] = [point["sizes"]]
    return {**mapping, **options, "name": f"{mapping.get('name', mapping['model'])}{suffix}"}


def baseline_of(config: CompareConfig, cells: Sequence[MemberConfig]) -> str:
    """Return the name of the network that the others are tested against.

    Raises:
        ConfigError: The one asked for is not in the grid.
    """
    names = [cell.name for cell in cells]
    if config.baseline is None:
        return names[0]
    if config.baseline not in names:
        near = did_you_mean(config.baseline, names)
        raise ConfigError(f"baseline '{config.baseline}' is not in the grid{near} ({', '.join(names)})")
    return config.baseline


def check_fairness(config: CompareConfig, cells: Sequence[MemberConfig]) -> None:
    """Refuse, before data is touched, what would compare unequal efforts or sizes.

    Raises:
        ConfigError: Trainings of different length without a budget, a schedule that a budget of seconds leaves without
            a length, or a network without an adjustable width where parameters are to be matched.
    """
    kind, _ = config.budget_limit()
    first = cells[0]
    raise_problems(_fairness_problems(config, cells, kind, first))


def _fairness_problems(
    config: CompareConfig, cells: Sequence[MemberConfig], kind: str, first: MemberConfig
) -> Iterator[str]:
    baseline = baseline_of(config, cells)
    for cell in cells:
        if kind == "updates" and _length(cell.training) != _length(first.training):
            yield (
                f"'{cell.name}' and '{first.name}' are not trained for the same number of updates: give both the same "
                "epochs and batch_size, or set --budget"
            )
        if kind == "seconds" and lacks_epochs(cell.training) and cell.training.schedule not in ("constant", "plateau"):
            yield f"schedule {cell.training.schedule} needs a length that seconds do not give: set --epochs, the most"
        if config.match_parameters and cell.name != baseline and find_width_option(cell.network, cell.model) is None:
            yield f"match_parameters: '{cell.name}' has no adjustable width (--hidden-size or --head-hidden-dim)"


def lacks_epochs(training: TrainingConfig) -> bool:
    """Tell whether nothing says how many epochs a training has."""
    return training.stages is None and training.epochs is None


def _length(training: TrainingConfig) -> tuple[Any, ...]:
    """Return what decides the number of updates; stages count together, so that different stages can be compared."""
    stages = training.stage_list()
    epochs = round(sum(stage.epochs or 0 for stage in stages), 6)
    return training.batch_size, epochs, sum(stage.steps or 0 for stage in stages)


def member_name(cell: str, seed: int) -> str:
    """Return the name of one network's training with one seed."""
    return f"{cell} seed {seed}"


def with_seeds(cells: Sequence[MemberConfig], seeds: Sequence[int]) -> tuple[MemberConfig, ...]:
    """Return every training: all networks with the first seed, then with the next."""
    return tuple(replace(cell, name=member_name(cell.name, seed), seed=seed) for seed in seeds for cell in cells)


FORWARD_AND_BACKWARD = 3
_NO_END = 100_000.0  # epochs: a budget of seconds ends long before


@dataclass(frozen=True)
class GridCell:
    """One network of a comparison, ready to be trained."""

    member: MemberConfig
    """The network and its training, without a seed."""
    notes: dict[str, Any]
    """What was changed to make the comparison fair: `matched`, `planned_updates`; empty where nothing was."""


def fix_budget(
    cells: Sequence[MemberConfig], config: CompareConfig, *, baseline: str, prepared: DataModule, data: DataConfig
) -> list[GridCell]:
    """Return the networks brought to one size, and their trainings to one budget, where that is asked for.

    Raises:
        ConfigError: A network that cannot be built or brought to size, or a budget that pays for no update.
    """
    settled = [GridCell(cell, {}) for cell in cells]
    if config.match_parameters:
        target = next(_count(cell, cell.model, prepared) for cell in cells if cell.name == baseline)
        settled = [
            cell if cell.member.name == baseline else _matched(cell, target, config.tolerance, prepared)
            for cell in settled
        ]
    kind, amount = config.budget_limit()
    if kind == "seconds":
        return [replace(cell, member=_timed(cell.member, amount)) for cell in settled]
    if kind == "flops":
        return [_rationed(cell, amount, prepared, data) for cell in settled]
    return settled


def _built(member: MemberConfig, model: ModelConfig, prepared: DataModule) -> Classifier:
    return build(
        member.network,
        num_classes=len(prepared.table.classes),
        config=model,
        channels=prepared.channels,
        image_size=prepared.image_size,
        load_weights=False,
    )


def _count(member: MemberConfig, model: ModelConfig, prepared: DataModule) -> int:
    return count_parameters(_built(member, model, prepared))


def _matched(cell: GridCell, target: int, tolerance: float, prepared: DataModule) -> GridCell:
    member = cell.member

    def count(model: ModelConfig) -> int:
        return _count(member, model, prepared)

    match = match_parameters(member.network, member.model, target, count=count, tolerance=tolerance)
    return GridCell(replace(member, model=match.config), {"matched": _describe(match)})


def _describe(match: ParameterMatch) -> dict[str, Any]:
    return {
        "option": match.option,
        "width": match.width,
        "parameters": match.parameters,
        "target": match.target,
        "deviation": match.deviation,
    }


def _timed(member: MemberConfig, seconds: float) -> MemberConfig:
    training = member.training
    if lacks_epochs(training):
        training = replace(training, epochs=_NO_END)
    return replace(member, training=replace(training, max_time=seconds))


def _rationed(cell: GridCell, flops: float, prepared: DataModule, data: DataConfig) -> GridCell:
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
    return GridCell(replace(member, training=_with(training, stages)), {**cell.notes, "planned_updates": updates})


def _with(training: TrainingConfig, stages: Any) -> TrainingConfig:
    return replace(training, stages=stages, epochs=None, lr=None, schedule="constant", patience=None)
