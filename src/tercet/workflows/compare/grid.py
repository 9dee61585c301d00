"""The grid of a comparison: from lists of backbones, modules, directions, scans and sizes to networks, each once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from tercet.ground.errors import ConfigError, require
from tercet.ground.registry import nearest
from tercet.models.build import check_network, options_of
from tercet.models.matching import find_knob
from tercet.records.compare_config import CompareConfig
from tercet.records.config import MemberConfig
from tercet.records.model_config import ModelConfig
from tercet.records.training_config import TrainingConfig
from tercet.workflows.train.members import member_mapping, resolve_members

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
    require([bool(config.sizes) and model.input.size is not None and "give either sizes or input.size, not both"])
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
    require(
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
        near = nearest(config.baseline, names)
        raise ConfigError(f"baseline '{config.baseline}' is not in the grid{near} ({', '.join(names)})")
    return config.baseline


def check_fairness(config: CompareConfig, cells: Sequence[MemberConfig]) -> None:
    """Refuse, before data is touched, what would compare unequal efforts or sizes.

    Raises:
        ConfigError: Trainings of different length without a budget, a schedule that a budget of seconds leaves without
            a length, or a network without an adjustable width where parameters are to be matched.
    """
    kind, _ = config.limit()
    first = cells[0]
    require(_fairness_problems(config, cells, kind, first))


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
        if kind == "seconds" and is_open(cell.training) and cell.training.schedule not in ("constant", "plateau"):
            yield f"schedule {cell.training.schedule} needs a length that seconds do not give: set --epochs, the most"
        if config.match_parameters and cell.name != baseline and find_knob(cell.network, cell.model) is None:
            yield f"match_parameters: '{cell.name}' has no adjustable width (--hidden-size or --head-hidden-dim)"


def is_open(training: TrainingConfig) -> bool:
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


def seeded(cells: Sequence[MemberConfig], seeds: Sequence[int]) -> tuple[MemberConfig, ...]:
    """Return every training: all networks with the first seed, then with the next."""
    return tuple(replace(cell, name=member_name(cell.name, seed), seed=seed) for seed in seeds for cell in cells)
