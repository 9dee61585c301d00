"""Steps of a recipe and their overrides: other data, other networks, a dry run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tercet.config.commands import ENSEMBLE, TRAIN, EnsembleConfig
from tercet.config.experiments import COMPARE, CROSSVAL
from tercet.config.parser import CommandOptions, ParsedArguments
from tercet.config.presets import PresetConfig
from tercet.config.recipe import RecipeStep, Setting
from tercet.config.run import HEAD_STEPS, MAX_WIDTH, METHODS, FusionConfig, RunConfig
from tercet.core.errors import ConfigError, DataError, raise_problems
from tercet.core.files import read_json
from tercet.core.prediction_files import read_predictions
from tercet.core.registry import did_you_mean
from tercet.core.run_folder import RunFolder, RunRecord
from tercet.core.yaml_io import read_mapping
from tercet.experiments.compare import run_comparison
from tercet.experiments.crossval import run_crossval
from tercet.experiments.ensemble import run_ensemble
from tercet.experiments.ensemble_files import combine_predictions
from tercet.experiments.train import run_training
from tercet.models.members import member_mapping
from tercet.models.registry import registered_network

_OPTIONS: Mapping[str, CommandOptions] = {
    "train": TRAIN,
    "compare": COMPARE,
    "crossval": CROSSVAL,
    "ensemble": ENSEMBLE,
}
_PUBLISHED = (
    PresetConfig("paper"),
    RunConfig(ensemble_methods=METHODS),
    EnsembleConfig(ensemble_methods=METHODS),
    FusionConfig(choose="best", width=MAX_WIDTH, steps=HEAD_STEPS),
)
"""Defaults of recipes: the stages and the head of the paper, and the ensemble with the best score, as published."""
_FILE_METHODS = ("average", "pruned", "vote")


@dataclass(frozen=True)
class StepRun:
    """One run of a step; a step with several seeds has one run per seed."""

    name: str
    """Name of the step."""
    step: RecipeStep
    run: RunFolder
    seed: int | None
    """None if the step has no seeds."""
    parsed: ParsedArguments | None
    """Options of the command; None for prediction files."""
    of: tuple[RunFolder, ...] = ()
    """ensemble: the runs whose members are combined."""

    @property
    def title(self) -> str:
        """Name and seed, for messages."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    def finished(self) -> bool:
        """Return whether the run is complete; a comparison with a failed training is not."""
        return self.run.metrics.is_file() and not self.failures()

    def failures(self) -> list[dict[str, Any]]:
        """Return the failed trainings of a comparison."""
        return list(self.metrics().get("failed") or ())

    def metrics(self) -> dict[str, Any]:
        """Return the content of the run's `metrics.json`."""
        metrics: dict[str, Any] = read_json(self.run.metrics)
        return metrics

    def execute(self, console: Console) -> None:
        """Start the run, or resume it.

        Raises:
            TercetError: As raised by the command.
        """
        folder = str(self.run.path)
        started = self.run.is_begun()
        if not started or self.step.command == "ensemble":
            shutil.rmtree(folder, ignore_errors=True)  # an ensemble cannot be resumed, it is repeated
        if self.step.files:
            _combine_files(self.run, self.step)
            return
        assert self.parsed is not None
        if self.step.command == "ensemble":
            run_ensemble([run.path for run in self.of], self.parsed, console=console)
            return
        commands: dict[str, Any] = {"train": run_training, "compare": run_comparison, "crossval": run_crossval}
        execute = commands[self.step.command]
        if started:
            defaults = _OPTIONS[self.step.command].parse_object({})
            execute(None, defaults, resume=folder, console=console)
        else:
            execute(self.step.data, self.parsed, resume=None, console=console)


def step_runs(setting: Setting, folder: Path, shared: Mapping[str, Any], only: tuple[str, ...] = ()) -> list[StepRun]:
    """Return the runs of a setting, in order.

    Args:
        setting: The steps.
        folder: Folder of the reproduction.
        shared: Options for all commands, such as device and threads; a command without such an option ignores it.
        only: Names of the steps to return; empty for all.

    Raises:
        ConfigError: Unknown option or step.
    """
    unknown = [name for name in only if name not in setting.steps]
    if unknown:
        raise ConfigError(f"steps: there is no '{unknown[0]}' ({', '.join(setting.steps)})")
    return [
        run
        for name, step in setting.steps.items()
        if not only or name in only
        for run in _runs_of(name, step, setting, folder, shared)
    ]


def _runs_of(
    name: str, step: RecipeStep, setting: Setting, folder: Path, shared: Mapping[str, Any]
) -> Iterator[StepRun]:
    for seed in step.seeds or (None,):
        run = _run_folder(folder, name, seed)
        if step.files:
            yield StepRun(name, step, run, seed, None)
            continue
        accepted = _OPTIONS[step.command].fields
        options = {**step.options, "output": str(run.path)} | ({} if seed is None else {"seed": seed})
        options |= {key: value for key, value in shared.items() if key in accepted and value is not None}
        kinds = _OPTIONS[step.command].kinds
        published = [config for config in _PUBLISHED if type(config) in kinds]
        parsed = _OPTIONS[step.command].parse_object(options, source=f"step {name}", base=published)
        of = tuple(
            _run_folder(folder, source, seed if seed in setting.steps[source].seeds else None) for source in step.of
        )
        yield StepRun(name, step, run, seed, parsed, of)


def _run_folder(folder: Path, name: str, seed: int | None) -> RunFolder:
    return RunFolder(folder / "steps" / (name if seed is None else f"{name}-seed-{seed}"))


def _combine_files(run: RunFolder, step: RecipeStep) -> None:
    """Combine prediction files by every method without fitted parameters; write the files of a run."""
    run.begin(RunRecord("ensemble", list(step.files), {}))
    labels = np.repeat(np.arange(len(step.runs_of_classes)), step.runs_of_classes) if step.runs_of_classes else None
    paths = [Path(step.data or "") / name for name in step.files]
    predictions = [read_predictions(path, labels=labels) for path in paths]
    names = [path.stem for path in paths]
    for name, member in zip(names, predictions, strict=True):
        member.save(run.predictions(name, "test"))
    results = [combine_predictions(predictions, names, method=method) for method in _FILE_METHODS]
    for result in results:
        result.predictions.save(run.predictions(result.method, "test"))
    documents = [result.to_dict() for result in results]
    if not documents[0]["ensemble"]:
        raise DataError(f"the rows of {paths[0]} have no labels to score with: give runs_of_classes in the recipe")
    metrics = {
        "members": [{"name": name, "test": row} for name, row in zip(names, documents[0]["members"], strict=True)],
        "ensembles": [{"name": document["method"], "test": document["ensemble"]} for document in documents],
    }
    run.write_results(metrics, "\n".join(result.to_text() for result in results))


_LENGTH = ("stages", "epochs", "lr", "schedule", "patience", "max_time")
_DRY_RUN = {"model": "test_resnet", "pretrained": False, "weights": None}
_DRY_RUN_SIZE = 64  # pixels; smaller inputs leave a feature map too small to scan
_DRY_RUN_LIMIT = 2000  # training images; must exceed the number of classes of every recipe's data set


@dataclass(frozen=True)
class Overrides:
    """Changes to a recipe."""

    data: str | None = None
    """Replacement images for every step."""
    data_options: Mapping[str, Any] = field(default_factory=dict)
    """Options for reading and splitting them, without the prefix `data.`."""
    replaced: Mapping[str, Any] = field(default_factory=dict)
    """Replacement (a name, or a mapping of `model` and options) of each network, by its name in the recipe."""
    dry_run: bool = False
    """Train every network for one step, with tiny backbones."""

    @classmethod
    def parse(
        cls, data: str | Path | None, data_options: Mapping[str, Any], replace: Sequence[Any], *, dry_run: bool
    ) -> Overrides:
        """Parse `NETWORK=OTHER`, `NETWORK=FILE.yaml`, or mappings of network to replacement.

        Raises:
            ConfigError: Another form, or a file that cannot be read.
        """
        replaced: dict[str, Any] = {}
        for item in replace:
            pairs = item.items() if isinstance(item, Mapping) else [str(item).partition("=")[::2]]
            for old, new in pairs:
                if not old or not new:
                    raise ConfigError(f"replace '{item}' is not of the form NETWORK=OTHER or NETWORK=FILE.yaml")
                is_file = isinstance(new, str) and Path(new).suffix in (".yaml", ".yml")
                replaced[str(old)] = {"model": None, **read_mapping(new)} if is_file else new
        return cls(None if data is None else str(data), dict(data_options), replaced, dry_run)

    def apply(self, setting: Setting) -> Setting:
        """Return the setting with the changes.

        Raises:
            ConfigError: A network to replace is not in the setting.
        """
        used = set(network_names(setting))
        known = sorted(used)
        raise_problems(
            f"replace: the recipe has no network '{name}'{did_you_mean(name, known)} ({', '.join(known)})"
            for name in self.replaced
            if name not in used
        )
        return replace(setting, steps={name: self._apply_to(step, setting) for name, step in setting.steps.items()})

    def _apply_to(self, step: RecipeStep, setting: Setting) -> RecipeStep:
        data = self.data or step.data or setting.data
        if step.files:
            return replace(step, data=os.path.join(self.data_options.get("data_dir") or "", data or ""))
        options = _with_networks(step.options, partial(self._network, sizes_vary=bool(step.options.get("sizes"))))
        if step.command != "ensemble":
            options |= {"data": {**_mapping(options.get("data")), **self.data_options}}
        seeds = step.seeds
        if self.dry_run:
            options, seeds = _one_step(step, options), step.seeds[:1]
        return replace(step, data=None if step.command == "ensemble" else data, options=options, seeds=seeds)

    def _network(self, member: Mapping[str, Any], *, sizes_vary: bool) -> dict[str, Any]:
        """Return a member with its network replaced, under the same name."""
        name = member["model"]
        changed = {"name": name, **member}
        if name in self.replaced:
            other = self.replaced[name]
            changed |= {"model": other} if isinstance(other, str) else dict(other)
        if self.dry_run:
            changed = {key: value for key, value in changed.items() if key not in _LENGTH}
            if registered_network(changed["model"]) is None:
                changed = _tiny(changed, sizes_vary=sizes_vary)
        return changed


def _tiny(member: Mapping[str, Any], *, sizes_vary: bool) -> dict[str, Any]:
    """Return a tiny network in place of a backbone; the input size stays free if the step varies it."""
    has_input = any(key.partition(".")[0] == "input" for key in member)
    options = {key: value for key, value in member.items() if key.partition(".")[0] not in ("input", "backbone")}
    size = {} if sizes_vary and not has_input else {"input": {"size": [_DRY_RUN_SIZE]}}
    return {**options, **size, **_DRY_RUN}


def network_names(setting: Setting) -> Iterator[str]:
    """Yield the names of the networks in a setting's steps."""
    for step in setting.steps.values():
        for key in ("members", "backbones"):
            for member in step.options.get(key) or ():
                yield str(member_mapping(member)["model"])


def _with_networks(options: Mapping[str, Any], change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    changed = dict(options)
    for key in ("members", "backbones"):
        if options.get(key):
            changed[key] = [change(member_mapping(member)) for member in options[key]]
    return changed


def _one_step(step: RecipeStep, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that limit every training to one optimizer step."""
    if step.command == "ensemble":
        return {**options, "fusion": {**_mapping(options.get("fusion")), "steps": 1}}
    short = {key: value for key, value in options.items() if key not in _LENGTH}
    short["stages"] = [{"lr": 1e-4, "steps": 1}]
    short["data"] = {**_mapping(options.get("data")), "limit": _DRY_RUN_LIMIT}
    if step.command == "compare":
        return {**short, "seeds": 1}
    return {**short, "fusion": {**_mapping(options.get("fusion")), "steps": 1}, "tensorboard": False}  # drawing is slow


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
