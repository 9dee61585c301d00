"""What a finished run of any verb left in its folder, as far as it is still there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tercet.core.errors import DataError, ModelError, StorageError
from tercet.core.files import read_json
from tercet.core.history import History
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder, command_of
from tercet.core.yaml_io import read_mapping
from tercet.data.image_cache import CachedImages, open_cache
from tercet.data.table import SampleTable, load_samples

_METRICS, _BEGUN = ("metrics.json", "trials.json"), ("config.yaml", "study.yaml")
_NEEDED = {
    "train": ("data", "protocol", "members", "ensembles", "chosen"),
    "ensemble": ("data", "protocol", "members", "ensembles", "chosen"),
    "crossval": ("data", "protocol", "folds", "pooled", "members", "ensembles"),
    "compare": ("data", "protocol", "networks", "pairs", "tested_on", "chosen"),
    "tune": ("data", "monitor", "best", "trials"),
    "reproduce": ("title", "source", "scale", "table", "tests", "parts"),
}
CHOSEN = "chosen"
"""How a cross-validation calls each fold's own choice in tables and files."""


@dataclass(frozen=True, eq=False)
class RunReader:
    """A finished run."""

    run: RunFolder
    """Its folder."""
    kind: str
    """The verb that left it: train, ensemble, crossval, compare, tune or reproduce."""
    document: Mapping[str, Any]
    """What its `metrics.json` (or `trials.json`) holds."""
    config: Mapping[str, Any]
    """The configuration it was begun with; empty where that is gone."""

    @classmethod
    def open(cls, path: str | Path) -> RunReader:
        """Read a run.

        Raises:
            StorageError: The folder is none, no run's, or that of a run which is not finished.
            ModelError: Its metrics cannot be read, or are not those of a run.
        """
        place = Path(path)
        if not place.is_dir():
            raise StorageError(f"there is no folder {path}: name a run folder")
        source = next((place / name for name in _METRICS if (place / name).is_file()), None)
        begun = next((place / name for name in _BEGUN if (place / name).is_file()), None)
        if source is None and begun is not None:
            raise StorageError(f"{path} is not finished: go on with the verb that began it and --resume {path}")
        if source is None:
            raise StorageError(f"{path} is not a run folder: it has no {_METRICS[0]}")
        document = read_json(source)
        if not isinstance(document, dict):
            raise ModelError(f"{source} does not hold the metrics of a run")
        kind = command_of(document, place)
        missing = [key for key in _NEEDED.get(kind, ()) if key not in document]
        if missing or kind not in _NEEDED:
            raise ModelError(f"{source} does not hold the metrics of a run: {', '.join(missing) or kind} is missing")
        return cls(RunFolder(place), kind, document, read_mapping(begun) if begun else {})

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.run.path.resolve().name

    @property
    def source(self) -> str:
        """What the run was given."""
        data = self.document.get("data")
        return str(data["source"]) if data else str(self.config.get("data") or self.document["source"])

    @property
    def monitor_split(self) -> str:
        """The split that chose."""
        return str(self.document.get("protocol", {}).get("monitor_split", "validation"))

    @property
    def finished(self) -> float:
        """When it ended, in seconds since 1970."""
        return next(path for name in _METRICS if (path := self.run.path / name).is_file()).stat().st_mtime

    @cached_property
    def parts(self) -> dict[str, Path]:
        """The folders of a reproduction's parts by title, as far as they are there."""
        places = {title: self.run.path / part["run"] for title, part in self.document.get("parts", {}).items()}
        return {title: path for title, path in places.items() if path.is_dir()}

    @cached_property
    def sets(self) -> bool:
        """Whether images have sets of labels."""
        return any("rule" in row for row in self.document.get("members", ()))

    @cached_property
    def home(self) -> RunFolder:
        """The run that holds images and samples: this one, or for an ensemble the first of those it fused."""
        sources = self.config.get("ensemble_of") or [self.run.path]
        return RunFolder(Path(sources[0]))

    @cached_property
    def plan(self) -> Mapping[str, Any]:
        """The plan of the training, as plain values; empty where it is gone."""
        plan = RunFolder(self.run.path / "folds" / "1").plan if self.kind == "crossval" else self.home.plan
        return read_json(plan) if plan.is_file() else {}

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """The machine and the versions, where they were noted."""
        path = self.home.path / "environment.json"
        noted: Mapping[str, Any] = read_json(path) if path.is_file() else {}
        return noted or {"packages": self.document.get("versions", {})}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes, where they are known."""
        return tuple(self.document.get("data", {}).get("classes") or self.plan.get("classes") or ())

    @cached_property
    def table(self) -> SampleTable | None:
        """The samples with their splits; None where the table is gone."""
        if not self.home.samples.is_file() or not self.classes:
            return None
        try:
            return load_samples(self.home.samples, name=self.source, classes=self.classes, sets=self.sets)
        except DataError:
            return None

    @cached_property
    def images(self) -> CachedImages | None:
        """The images by row of the table; None where they are gone."""
        shared = self.plan.get("images", "images") if self.kind != "crossval" else "images"
        try:
            store = open_cache(self.home.path / shared)
        except DataError:
            return None
        return store if self.table is not None and len(store) == len(self.table) else None

    def said(self, name: str, split: str) -> Predictions | None:
        """Return what a member or a way to fuse said of a split; None where that is gone."""
        path = self.run.predictions(name, split)
        return Predictions.load(path) if path.is_file() and not self.sets else None

    def said_sets(self, name: str, split: str) -> MultilabelPredictions | None:
        """Return the sets of labels that were said of a split; None where they are gone."""
        path = self.run.predictions(name, split)
        return MultilabelPredictions.load(path) if path.is_file() else None

    @cached_property
    def judged(self) -> str:
        """The split by which the run is judged: test where its labels are known, else validation; or pooled folds."""
        if self.kind == "crossval":
            return "pooled"
        if self.kind == "compare":
            return str(self.document["tested_on"])
        rows = [*self.document.get("members", ()), *self.document.get("ensembles", ())]
        return "test" if any(row.get("test") for row in rows) else "validation"

    @cached_property
    def choice(self) -> Predictions | None:
        """What the chosen model said of the judged split; of a comparison the first training of the best network."""
        if self.kind == "crossval":
            return self.said(CHOSEN, self.judged)
        if self.kind == "compare":
            return next((said for name, said in self.answers.items() if name == self.document["chosen"]), None)
        return self.said(self.document["chosen"], self.judged) if "chosen" in self.document else None

    @cached_property
    def answers(self) -> dict[str, Predictions]:
        """What the members said of the judged split, as far as it is there; of a network its first training."""
        found = {name: Predictions.load(path) for name, path in self._answers() if path.is_file()}
        return found if not self.sets else {}

    def _answers(self) -> Iterator[tuple[str, Path]]:
        if self.sets:
            return
        if self.kind == "compare":
            for row in self.document["networks"]:
                for training in row.get("trainings", ())[:1]:
                    yield row["name"], self.run.predictions(training["member"], self.judged)
        elif self.kind == "ensemble":
            yield from ((name, run.predictions(own, self.judged)) for name, run, own in self._fused())
        else:
            for row in self.document.get("members", ()):
                yield row["name"], self.run.predictions(row["name"], self.judged)

    def _fused(self) -> list[tuple[str, RunFolder, str]]:
        """Return every member that was fused: its name here, its run, its name there; none where a run is gone."""
        runs = [RunFolder(Path(path)) for path in self.config.get("ensemble_of", ())]
        if not all(run.plan.is_file() for run in runs):
            return []
        owners = [(run, member["name"]) for run in runs for member in read_json(run.plan)["members"]]
        return [(row["name"], *owner) for row, owner in zip(self.document["members"], owners, strict=True)]

    @cached_property
    def judged_images(self) -> tuple[str, str, frozenset[str]]:
        """What tells whether two runs were judged on the same images: the data, the split, and its ids if stored."""
        data = str(self.document.get("data", {}).get("fingerprint") or self.source)
        said = next(iter(self.answers.values()), None)
        return data, self.judged, frozenset() if said is None else frozenset(said.ids)

    @cached_property
    def histories(self) -> dict[str, History]:
        """The trainings by name, as far as their histories are there."""
        return {name: History.load(path) for name, path in self._histories() if path.is_file()}

    def _histories(self) -> Iterator[tuple[str, Path]]:
        if self.kind == "crossval":
            for number, fold in enumerate(self.document["folds"], 1):
                run = RunFolder(self.run.path / "folds" / str(number))
                names = [member["name"] for member in read_json(run.plan)["members"]] if run.plan.is_file() else []
                yield from ((f"{name}, fold {fold['name']}", _history(run, name)) for name in names)
        elif self.kind == "tune":
            for row in self.document["trials"]:
                places = (self.run.path / "trials" / f"{row['number']:04d}").glob("members/*/history.jsonl")
                yield from ((f"trial {row['number']}", path) for path in places)
        elif self.kind == "ensemble":
            yield from ((name, _history(run, own)) for name, run, own in self._fused())
        elif self.kind == "compare":
            for row in self.document["networks"]:
                trainings = row.get("trainings", ())
                yield from ((training["member"], _history(self.run, training["member"])) for training in trainings)
        else:
            for row in self.document.get("members", ()):
                yield row["name"], _history(self.run, row["name"])


def _history(run: RunFolder, name: str) -> Path:
    return run.member(name).path / "history.jsonl"
