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

from tercet.config.commands import ENSEMBLE, TRAIN
from tercet.config.experiments import COMPARE, CROSSVAL
from tercet.config.parser import CommandOptions, ParsedArguments
from tercet.config.recipe import RecipeStep, Setting
from tercet.core.errors import ConfigError, DataError, raise_problems
from tercet.core.files import read_json, write_json, write_text
from tercet.core.prediction_files import read_predictions
from tercet.core.registry import did_you_mean
from tercet.core.run_folder import RunFolder
from tercet.core.yaml_io import read_mapping
from tercet.experiments.compare import run_comparison
from tercet.experiments.crossval import run_crossval
from tercet.experiments.ensemble import run_ensemble
from tercet.experiments.ensemble_files import FileMethod, combine_predictions
from tercet.experiments.train import run_training
from tercet.models.members import member_mapping
from tercet.models.registry import registered_network

_OPTIONS: Mapping[str, CommandOptions] = {
    "train": TRAIN,
    "compare": COMPARE,
    "crossval": CROSSVAL,
    "ensemble": ENSEMBLE,
}
_FILE_METHODS: tuple[FileMethod, ...] = ("average", "pruned", "vote")


@dataclass(frozen=True)
class StepResult:
    """One run of a part, with one of its seeds if it has several."""

    name: str
    """The part's name."""
    part: RecipeStep
    """What is done."""
    run: RunFolder
    """Where."""
    seed: int | None
    """The seed, where the part is repeated."""
    parsed: ParsedArguments | None
    """Its options; None for prediction files."""
    of: tuple[RunFolder, ...] = ()
    """The runs whose members are fused."""

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    def finished(self) -> bool:
        """Tell whether it is complete; a comparison in which a training failed is not."""
        return self.run.metrics.is_file() and not self.failures()

    def failures(self) -> list[dict[str, Any]]:
        """Return the trainings of a comparison that failed beside others."""
        return list(self.metrics().get("failed") or ())

    def metrics(self) -> dict[str, Any]:
        """Return what the run's `metrics.json` holds."""
        found: dict[str, Any] = read_json(self.run.metrics)
        return found

    def do(self, console: Console) -> None:
        """Begin the run, or go on with it.

        Raises:
            TercetError: As the verb's own.
        """
        folder = str(self.run.path)
        begun = self.run.config.is_file()
        if not begun or self.part.command == "ensemble":
            shutil.rmtree(folder, ignore_errors=True)  # not begun, or too short to be continued
        if self.part.files:
            _combine(self.run, self.part)
            return
        assert self.parsed is not None
        if self.part.command == "ensemble":
            run_ensemble([run.path for run in self.of], self.parsed, console=console)
            return
        work: Any = {"train": run_training, "compare": run_comparison, "crossval": run_crossval}[self.part.command]
        if begun:
            untouched = _OPTIONS[self.part.command].parse_object({})
            work(None, untouched, resume=folder, console=console)
        else:
            work(self.part.data, self.parsed, resume=None, console=console)


def works(setting: Setting, folder: Path, shared: Mapping[str, Any], only: tuple[str, ...] = ()) -> list[StepResult]:
    """Return the runs of a setting, in order.

    Args:
        setting: The parts.
        folder: Where their runs go.
        shared: Options that every verb gets, such as device and threads; those that a verb has not are left out.
        only: Names of the parts to do; none means all.

    Raises:
        ConfigError: Options that a verb does not know, or a name that is no part's.
    """
    unknown = [name for name in only if name not in setting.parts]
    if unknown:
        raise ConfigError(f"parts: there is no '{unknown[0]}' ({', '.join(setting.parts)})")
    return [
        work
        for name, part in setting.parts.items()
        if not only or name in only
        for work in _works_of(name, part, setting, folder, shared)
    ]


def _works_of(
    name: str, part: RecipeStep, setting: Setting, folder: Path, shared: Mapping[str, Any]
) -> Iterator[StepResult]:
    for seed in part.seeds or (None,):
        run = _run(folder, name, seed)
        if part.files:
            yield StepResult(name, part, run, seed, None)
            continue
        options = {**part.options, "output": str(run.path)} | ({} if seed is None else {"seed": seed})
        known = _OPTIONS[part.command].schema.fields
        options |= {key: value for key, value in shared.items() if key in known and value is not None}
        parsed = _OPTIONS[part.command].parse_object(options, source=f"part {name}")
        of = tuple(_run(folder, other, seed if seed in setting.parts[other].seeds else None) for other in part.of)
        yield StepResult(name, part, run, seed, parsed, of)


def _run(folder: Path, name: str, seed: int | None) -> RunFolder:
    return RunFolder(folder / "parts" / (name if seed is None else f"{name}-seed-{seed}"))


def _combine(run: RunFolder, part: RecipeStep) -> None:
    """Combine prediction files by every method that fits nothing; write the files of a run."""
    labels = np.repeat(np.arange(len(part.runs_of_classes)), part.runs_of_classes) if part.runs_of_classes else None
    paths = [Path(part.data or "") / name for name in part.files]
    said = [read_predictions(path, labels=labels) for path in paths]
    names = [path.stem for path in paths]
    for name, one in zip(names, said, strict=True):
        one.save(run.predictions(name, "test"))
    results = [combine_predictions(said, names, method=method) for method in _FILE_METHODS]
    for result in results:
        result.predictions.save(run.predictions(result.combiner.method, "test"))
    found = [result.to_dict() for result in results]
    if not found[0]["ensemble"]:
        raise DataError(f"the rows of {paths[0]} have no labels to score with: give runs_of_classes in the recipe")
    document = {
        "members": [{"name": name, "test": row} for name, row in zip(names, found[0]["members"], strict=True)],
        "ensembles": [{"name": one["method"], "test": one["ensemble"]} for one in found],
    }
    write_text(run.report, "\n".join(result.to_text() for result in results))
    write_json(run.metrics, document)


_LENGTH = ("stages", "epochs", "lr", "schedule", "patience", "max_time")
_DRY_RUN = {"model": "test_resnet", "pretrained": False, "weights": None}
_DRY_RUN_SIZE = 64  # pixels; less, and its feature map has nothing to scan
_DRY_RUN_LIMIT = 2000  # training images; a class more than that has none


@dataclass(frozen=True)
class Overrides:
    """What is done otherwise than the recipe says."""

    data: str | None = None
    """Other images for every part."""
    data_options: Mapping[str, Any] = field(default_factory=dict)
    """Options on how they are read and divided, by dotted key."""
    replaced: Mapping[str, Any] = field(default_factory=dict)
    """By a network's name in the recipe: the name of another one, or a mapping of `model` and options."""
    dry_run: bool = False
    """Train every network for one step, with tiny backbones."""

    @classmethod
    def parse(
        cls, data: str | Path | None, data_options: Mapping[str, Any], words: Sequence[Any], *, dry_run: bool
    ) -> Overrides:
        """Read changes as they are written: `NETWORK=OTHER`, `NETWORK=FILE.yaml`, or mappings from one to the other.

        Raises:
            ConfigError: Another form, or a file that cannot be read.
        """
        replaced: dict[str, Any] = {}
        for word in words:
            pairs = word.items() if isinstance(word, Mapping) else [str(word).partition("=")[::2]]
            for old, new in pairs:
                if not old or not new:
                    raise ConfigError(f"replace '{word}' is not of the form NETWORK=OTHER or NETWORK=FILE.yaml")
                own = isinstance(new, str) and Path(new).suffix in (".yaml", ".yml")
                replaced[str(old)] = {"model": None, **read_mapping(new)} if own else new
        return cls(None if data is None else str(data), dict(data_options), replaced, dry_run)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "data": self.data,
            "data_options": dict(self.data_options),
            "replaced": dict(self.replaced),
            "dry_run": self.dry_run,
        }

    def apply(self, setting: Setting) -> Setting:
        """Return the setting with the changes.

        Raises:
            ConfigError: A network to replace is not in it.
        """
        used = set(networks_of(setting))
        known = sorted(used)
        raise_problems(
            f"replace: the recipe has no network '{name}'{did_you_mean(name, known)} ({', '.join(known)})"
            for name in self.replaced
            if name not in used
        )
        parts = {name: self._part(part, setting) for name, part in setting.parts.items()}
        return replace(setting, parts=parts)

    def _part(self, part: RecipeStep, setting: Setting) -> RecipeStep:
        data = self.data or part.data or setting.data
        if part.files:
            return replace(part, data=os.path.join(self.data_options.get("data_dir") or "", data or ""))
        options = _with_networks(part.options, partial(self._network, varied=bool(part.options.get("sizes"))))
        if part.command != "ensemble":
            options |= {"data": {**_nested(options.get("data")), **self.data_options}}
        seeds = part.seeds
        if self.dry_run:
            options, seeds = _shortened(part, options), part.seeds[:1]
        return replace(part, data=None if part.command == "ensemble" else data, options=options, seeds=seeds)

    def _network(self, member: Mapping[str, Any], *, varied: bool) -> dict[str, Any]:
        """Return a member with another network in its place, under the same name.

        Args:
            member: Its mapping.
            varied: Whether the part varies the size of the images.
        """
        name = member["model"]
        changed = {"name": name, **member}
        if name in self.replaced:
            other = self.replaced[name]
            changed |= {"model": other} if isinstance(other, str) else dict(other)
        if self.dry_run:
            changed = {key: value for key, value in changed.items() if key not in _LENGTH}
            if registered_network(changed["model"]) is None:
                changed = _tiny(changed, varied=varied)
        return changed


def _tiny(member: Mapping[str, Any], *, varied: bool) -> dict[str, Any]:
    """Return a tiny network in a backbone's place; a size that the part varies is left to it."""
    shown = {key for key in member if key.partition(".")[0] == "input"}
    options = {key: value for key, value in member.items() if key.partition(".")[0] not in ("input", "backbone")}
    size = {} if varied and not shown else {"input": {"size": [_DRY_RUN_SIZE]}}
    return {**options, **size, **_DRY_RUN}


def networks_of(setting: Setting) -> Iterator[str]:
    """Yield the names of the networks in a setting's parts."""
    for part in setting.parts.values():
        for key in ("members", "backbones"):
            for member in part.options.get(key) or ():
                yield str(member_mapping(member)["model"])


def _with_networks(options: Mapping[str, Any], change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    changed = dict(options)
    for key in ("members", "backbones"):
        if options.get(key):
            changed[key] = [change(member_mapping(member)) for member in options[key]]
    return changed


def _shortened(part: RecipeStep, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options under which every training is one update."""
    if part.command == "ensemble":
        return {**options, "fusion": {**_nested(options.get("fusion")), "steps": 1}}
    short = {key: value for key, value in options.items() if key not in _LENGTH}
    short["stages"] = [{"lr": 1e-4, "steps": 1}]
    short["data"] = {**_nested(options.get("data")), "limit": _DRY_RUN_LIMIT}
    if part.command == "compare":
        return {**short, "seeds": 1}
    return {**short, "fusion": {**_nested(options.get("fusion")), "steps": 1}}


def _nested(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
