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
from tercet.models.members import NO_RECIPE, Recipe, member_mapping, resolve_members
from tercet.models.registry import registered_network
from tercet.models.summary import count_parameters, find_width_option, match_parameters, summarize
from tercet.training.parts import stage_steps

_OPTIONS = {"recurrent": "recurrent", "bidirectional": "bidirectional", "scans": "scan", "sizes": "input"}
"""Field of `ModelConfig` set by each axis of the grid."""
_DEFAULTS = {"recurrent": "none", "bidirectional": False, "scans": "pooled"}
_ROWS = "rows"
"""The default scan of row classifiers."""


def expand_grid(
    config: CompareConfig, model: ModelConfig, training: TrainingConfig, recipe: Recipe = NO_RECIPE
) -> tuple[MemberConfig, ...]:
    """Return the distinct networks of the grid, in the order of the backbones.

    Axes without effect on a backbone are ignored for it (direction and scan need a recurrent module; row classifiers
    take the scans of pixels), so that no network is trained twice. Options in a backbone's own mapping are not varied.

    Raises:
        ConfigError: No backbone, an unknown one, or invalid options or options without effect.
    """
    if not config.backbones:
        raise ConfigError("give the networks to compare with --backbones")
    raise_problems(
        [bool(config.sizes) and model.input.size is not None and "give either --sizes or --input.size, not both"]
    )
    cells: list[dict[str, Any]] = []
    used: set[tuple[str, Any]] = set()
    axes = {axis: getattr(config, axis) or (None,) for axis in _OPTIONS}
    for backbone in config.backbones:
        mapping = member_mapping(backbone)
        check_network(mapping["model"])
        points: list[dict[str, Any]] = []
        for values in product(*axes.values()):
            point, effective = _effective(mapping, dict(zip(axes, values, strict=True)))
            used |= effective
            points += [] if point in points else [point]
        cells += [_cell(mapping, point) for point in points]
    requested = ((axis, value) for axis in _OPTIONS for value in getattr(config, axis) if value != _DEFAULTS.get(axis))
    raise_problems(
        (axis, value) not in used and f"--{axis} {str(value).lower()} has no effect on any network"
        for axis, value in requested
    )
    # a budget defines the length of the trainings
    return resolve_members(cells, model, training, recipe if config.budget is None else NO_RECIPE)


def _effective(mapping: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], set[tuple[str, Any]]]:
    """Return the point of a backbone, without what its own mapping sets, and the values that have an effect on it."""
    fixed = {*mapping, *(["input.size"] if "size" in (mapping.get("input") or {}) else [])}
    model = ModelConfig(recurrent=mapping.get("recurrent", values["recurrent"]), scan=values["scans"])
    options = options_of(mapping["model"], model)
    keys = {axis: "input.size" if axis == "sizes" else option for axis, option in _OPTIONS.items()}
    point = {
        axis: value
        for axis, value in values.items()
        if value is not None and _OPTIONS[axis] in options and keys[axis] not in fixed
    }
    effective = set(point.items())
    default = {_DEFAULTS["scans"], *([_ROWS] if registered_network(mapping["model"]) else [])}
    if "scans" in point and point["scans"] in default:
        del point["scans"]  # as for scans that a backbone does not take
    return point, effective


def _cell(mapping: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """Return a backbone at one point of the grid as a member mapping, named after the point."""
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
        ConfigError: `config.baseline` is not in the grid.
    """
    names = [cell.name for cell in cells]
    if config.baseline is None:
        return names[0]
    if config.baseline not in names:
        guess = did_you_mean(config.baseline, names)
        raise ConfigError(f"baseline '{config.baseline}' is not in the grid{guess} ({', '.join(names)})")
    return config.baseline


def check_fairness(config: CompareConfig, cells: Sequence[MemberConfig]) -> None:
    """Raise if networks would be compared at unequal training length or size; needs no data.

    Raises:
        ConfigError: Trainings of different length without a budget; a schedule that needs a length under a budget of
            seconds; match_parameters with a network without an adjustable width.
    """
    raise_problems(_fairness_problems(config, cells))


def _fairness_problems(config: CompareConfig, cells: Sequence[MemberConfig]) -> Iterator[str]:
    kind, _ = config.budget_limit()
    baseline, first = baseline_of(config, cells), cells[0]
    for cell in cells:
        if kind == "updates" and _length(cell.training) != _length(first.training):
            yield (
                f"'{cell.name}' and '{first.name}' differ in the number of optimizer steps: give both the same epochs "
                "and batch_size, or set --budget"
            )
        if kind == "seconds" and lacks_epochs(cell.training) and cell.training.schedule not in ("constant", "plateau"):
            yield (
                f"schedule {cell.training.schedule} needs a number of epochs, which a budget of seconds does not "
                "define: set --epochs as the maximum"
            )
        if config.match_parameters and cell.name != baseline and find_width_option(cell.network, cell.model) is None:
            yield f"match_parameters: '{cell.name}' has no adjustable width (--hidden-size or --head-hidden-dim)"


def lacks_epochs(training: TrainingConfig) -> bool:
    """Return whether neither stages nor epochs are set."""
    return training.stages is None and training.epochs is None


def _length(training: TrainingConfig) -> tuple[Any, ...]:
    """Return what determines the number of optimizer steps; stages are summed, as their division does not matter."""
    stages = training.stage_list()
    epochs = round(sum(stage.epochs or 0 for stage in stages), 6)
    return training.batch_size, epochs, sum(stage.steps or 0 for stage in stages)


def member_name(cell: str, seed: int) -> str:
    """Return the member name of a network trained with a seed."""
    return f"{cell} seed {seed}"


def with_seeds(cells: Sequence[MemberConfig], seeds: Sequence[int]) -> tuple[MemberConfig, ...]:
    """Return one member per network and seed: all networks with the first seed, then with the next."""
    return tuple(replace(cell, name=member_name(cell.name, seed), seed=seed) for seed in seeds for cell in cells)


FORWARD_AND_BACKWARD = 3  # cost of a training step relative to a forward pass
_MAX_EPOCHS = 100_000.0  # never reached: a budget of seconds ends the training


@dataclass(frozen=True)
class GridCell:
    """One network of a comparison."""

    member: MemberConfig
    """Network and training options, without a seed."""
    notes: dict[str, Any]
    """Changes made for a fair comparison: `matched`, `planned_updates`."""


def fix_budget(
    cells: Sequence[MemberConfig], config: CompareConfig, *, baseline: str, prepared: DataModule, data: DataConfig
) -> list[GridCell]:
    """Apply match_parameters and the training budget.

    Raises:
        ConfigError: A network cannot be built or matched, or the budget is too small for one optimizer step.
    """
    grid = [GridCell(cell, {}) for cell in cells]
    if config.match_parameters:
        target = next(_num_parameters(cell, cell.model, prepared) for cell in cells if cell.name == baseline)
        grid = [
            cell if cell.member.name == baseline else _with_matched_size(cell, target, config.tolerance, prepared)
            for cell in grid
        ]
    kind, amount = config.budget_limit()
    if kind == "seconds":
        return [replace(cell, member=_with_time_limit(cell.member, amount)) for cell in grid]
    if kind == "flops":
        return [_with_flops_budget(cell, amount, prepared, data) for cell in grid]
    return grid


def _build(member: MemberConfig, model: ModelConfig, prepared: DataModule) -> Classifier:
    return build(
        member.network,
        num_classes=len(prepared.table.classes),
        config=model,
        channels=prepared.channels,
        image_size=prepared.image_size,
        load_weights=False,
    )


def _num_parameters(member: MemberConfig, model: ModelConfig, prepared: DataModule) -> int:
    return count_parameters(_build(member, model, prepared))


def _with_matched_size(cell: GridCell, target: int, tolerance: float, prepared: DataModule) -> GridCell:
    member = cell.member

    def count(model: ModelConfig) -> int:
        return _num_parameters(member, model, prepared)

    match = match_parameters(member.network, member.model, target, count=count, tolerance=tolerance)
    notes = {
        "option": match.option,
        "width": match.width,
        "parameters": match.parameters,
        "target": match.target,
        "deviation": match.deviation,
    }
    return GridCell(replace(member, model=match.config), {"matched": notes})


def _with_time_limit(member: MemberConfig, seconds: float) -> MemberConfig:
    training = member.training
    if lacks_epochs(training):
        training = replace(training, epochs=_MAX_EPOCHS)
    return replace(member, training=replace(training, max_time=seconds))


def _with_flops_budget(cell: GridCell, flops: float, prepared: DataModule, data: DataConfig) -> GridCell:
    """Set the number of optimizer steps to what the FLOPs allow, divided among the stages in proportion."""
    member, training = cell.member, cell.member.training
    classifier = _build(member, member.model, prepared)
    step_flops = FORWARD_AND_BACKWARD * int(summarize(classifier)["flops"]) * training.batch_size
    steps = int(flops / step_flops)
    stages = training.stage_list()
    if steps < len(stages):
        raise ConfigError(
            f"budget flops:{flops:g} is too small for '{member.name}': it needs at least {step_flops * len(stages):.3g}"
        )
    rows = prepared.rows("train")
    epoch_steps = len(prepared.training_loader(rows, (classifier.spec,), training=training, data=data, seed=0))
    lengths = [stage_steps(stage, epoch_steps) for stage in stages]
    ends = [round(steps * sum(lengths[: index + 1]) / sum(lengths)) for index in range(len(stages))]
    stages = tuple(
        replace(stage, epochs=None, steps=max(1, end - start))
        for stage, start, end in zip(stages, [0, *ends[:-1]], ends, strict=True)
    )
    training = replace(training, stages=stages, epochs=None, lr=None, schedule="constant", patience=None)
    return GridCell(replace(member, training=training), {**cell.notes, "planned_updates": steps})
