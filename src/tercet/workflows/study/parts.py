"""The parts of a reproduction: each an ordinary run of a command."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tercet.ground.errors import ConfigError, DataError
from tercet.ground.files import read_json, write_json, write_text
from tercet.records.options import Options, Parsed
from tercet.records.prediction_files import read_predictions
from tercet.records.recipe import Part, Setting
from tercet.workflows.blend import FileMethod, combine_predictions
from tercet.workflows.compare.run import run_comparison
from tercet.workflows.crossval.run import run_crossval
from tercet.workflows.options.run import ENSEMBLE, TRAIN
from tercet.workflows.options.study import COMPARE, CROSSVAL
from tercet.workflows.train.ensemble import run_ensemble
from tercet.workflows.train.run import run_training
from tercet.workflows.train.run_folder import RunFolder

_OPTIONS: Mapping[str, Options] = {"train": TRAIN, "compare": COMPARE, "crossval": CROSSVAL, "ensemble": ENSEMBLE}
_FILE_METHODS: tuple[FileMethod, ...] = ("average", "pruned", "vote")


@dataclass(frozen=True)
class Work:
    """One run of a part, with one of its seeds if it has several."""

    name: str
    """The part's name."""
    part: Part
    """What is done."""
    run: RunFolder
    """Where."""
    seed: int | None
    """The seed, where the part is repeated."""
    parsed: Parsed | None
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
        if not begun or self.part.verb == "ensemble":
            shutil.rmtree(folder, ignore_errors=True)  # not begun, or too short to be continued
        if self.part.files:
            _combine(self.run, self.part)
            return
        assert self.parsed is not None
        if self.part.verb == "ensemble":
            run_ensemble([run.path for run in self.of], self.parsed, console=console)
            return
        work: Any = {"train": run_training, "compare": run_comparison, "crossval": run_crossval}[self.part.verb]
        if begun:
            untouched = _OPTIONS[self.part.verb].parse_object({})
            work(None, untouched, resume=folder, console=console)
        else:
            work(self.part.data, self.parsed, resume=None, console=console)


def works(setting: Setting, folder: Path, shared: Mapping[str, Any], only: tuple[str, ...] = ()) -> list[Work]:
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


def _works_of(name: str, part: Part, setting: Setting, folder: Path, shared: Mapping[str, Any]) -> Iterator[Work]:
    for seed in part.seeds or (None,):
        run = _run(folder, name, seed)
        if part.files:
            yield Work(name, part, run, seed, None)
            continue
        options = {**part.options, "output": str(run.path)} | ({} if seed is None else {"seed": seed})
        known = _OPTIONS[part.verb].schema.fields
        options |= {key: value for key, value in shared.items() if key in known and value is not None}
        parsed = _OPTIONS[part.verb].parse_object(options, source=f"part {name}")
        of = tuple(_run(folder, other, seed if seed in setting.parts[other].seeds else None) for other in part.of)
        yield Work(name, part, run, seed, parsed, of)


def _run(folder: Path, name: str, seed: int | None) -> RunFolder:
    return RunFolder(folder / "parts" / (name if seed is None else f"{name}-seed-{seed}"))


def _combine(run: RunFolder, part: Part) -> None:
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
