"""Reads a finished run of any command: metrics, samples, images, predictions and histories, as far as they exist."""

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
from tercet.core.run_folder import RECORD, RunFolder, RunRecord, how_to_continue
from tercet.data.image_cache import CachedImages
from tercet.data.image_store import open_cache
from tercet.data.table import SampleTable, load_samples

_REQUIRED_KEYS = {
    "train": ("data", "protocol", "members", "ensembles", "chosen"),
    "ensemble": ("data", "protocol", "members", "ensembles", "chosen"),
    "crossval": ("data", "protocol", "folds", "pooled", "members", "ensembles"),
    "compare": ("data", "protocol", "networks", "pairs", "tested_on", "chosen"),
    "tune": ("data", "monitor", "best", "trials"),
    "reproduce": ("title", "source", "scale", "table", "tests", "steps"),
}
CHOSEN = "chosen"
"""Name of each fold's selected model in the tables and files of a cross-validation."""


@dataclass(frozen=True, eq=False)
class RunReader:
    """A finished run. Properties are None or empty where their files no longer exist."""

    run: RunFolder
    record: RunRecord
    """Its `run.json`."""
    metrics: Mapping[str, Any]
    """Content of `metrics.json`."""

    @classmethod
    def open(cls, path: str | Path) -> RunReader:
        """Read a run.

        Raises:
            StorageError: The path is not a run folder, or the run is not finished.
            ModelError: The metrics cannot be read or are incomplete.
        """
        if not Path(path).is_dir():
            raise StorageError(f"there is no folder {path}: name a run folder")
        run = RunFolder.open(path)
        record = run.record()
        if not run.metrics.is_file():
            raise StorageError(f"{path} is not finished: {how_to_continue(record, path)}")
        metrics = read_json(run.metrics)
        required = _REQUIRED_KEYS.get(record.command)
        if required is None or not isinstance(metrics, dict):
            raise ModelError(f"{run.metrics} does not hold the metrics of a run ({RECORD}: {record.command})")
        if missing := [key for key in required if key not in metrics]:
            raise ModelError(f"{run.metrics} does not hold the metrics of a run: {', '.join(missing)} is missing")
        return cls(run, record, metrics)

    @property
    def kind(self) -> str:
        """Command of the run: train, ensemble, crossval, compare, tune or reproduce."""
        return self.record.command

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self.run.path.resolve().name

    @property
    def source(self) -> str:
        """The data argument of the command."""
        data = self.metrics.get("data")
        return str(data["source"]) if data else str(self.record.options.get("data") or self.metrics["source"])

    @property
    def monitor_split(self) -> str:
        """The split used for model selection."""
        return str(self.metrics.get("protocol", {}).get("monitor_split", "validation"))

    @property
    def finished_at(self) -> float:
        """Time of the end of the run, in seconds since 1970."""
        return self.run.metrics.stat().st_mtime

    @cached_property
    def step_runs(self) -> dict[str, Path]:
        """Existing run folders of a reproduction's steps, by title."""
        folders = {title: self.run.path / step["run"] for title, step in self.metrics.get("steps", {}).items()}
        return {title: path for title, path in folders.items() if path.is_dir()}

    @cached_property
    def is_multilabel(self) -> bool:
        """Whether each image has a set of labels."""
        return any("rule" in row for row in self.metrics.get("members", ()))

    @cached_property
    def data_run(self) -> RunFolder:
        """The run that holds images and samples: this one, or the first source run of an ensemble."""
        return self._source_runs[0] if self.kind == "ensemble" else self.run

    @property
    def _source_runs(self) -> list[RunFolder]:
        """The runs of an ensemble."""
        return [RunFolder(Path(path)) for path in self.record.source] if self.kind == "ensemble" else []

    @cached_property
    def plan(self) -> Mapping[str, Any]:
        """The training plan as plain values."""
        plan = RunFolder(self.run.path / "folds" / "1").plan if self.kind == "crossval" else self.data_run.plan
        return read_json(plan) if plan.is_file() else {}

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """Machine and library versions."""
        path = self.data_run.path / "environment.json"
        recorded: Mapping[str, Any] = read_json(path) if path.is_file() else {}
        return recorded or {"packages": self.metrics.get("versions", {})}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return tuple(self.metrics.get("data", {}).get("classes") or self.plan.get("classes") or ())

    @cached_property
    def table(self) -> SampleTable | None:
        """The samples with their splits."""
        if not self.data_run.samples.is_file() or not self.classes:
            return None
        try:
            return load_samples(
                self.data_run.samples, name=self.source, classes=self.classes, multilabel=self.is_multilabel
            )
        except DataError:
            return None

    @cached_property
    def images(self) -> CachedImages | None:
        """The decoded images, one per row of the table."""
        folder = self.plan.get("images", "images") if self.kind != "crossval" else "images"
        try:
            images = open_cache(self.data_run.path / folder)
        except DataError:
            return None
        return images if self.table is not None and len(images) == len(self.table) else None

    def predictions(self, name: str, split: str) -> Predictions | None:
        """Return the single-label predictions of a member or an ensemble on a split."""
        path = self.run.predictions(name, split)
        return Predictions.load(path) if path.is_file() and not self.is_multilabel else None

    def multilabel_predictions(self, name: str, split: str) -> MultilabelPredictions | None:
        """Return the multi-label predictions of a member or an ensemble on a split."""
        path = self.run.predictions(name, split)
        return MultilabelPredictions.load(path) if path.is_file() else None

    @cached_property
    def selected(self) -> tuple[str, Mapping[str, float], Mapping[str, float]] | None:
        """Name of the selected model, and its scores on validation and test, if any; None if the run has no such model.

        For a cross-validation, in which each fold selects, all held-out images take the place of validation.
        """
        document = self.metrics
        if self.kind == "crossval":
            return f"{len(document['folds'])} folds", document["pooled"], document.get("test") or {}
        if self.kind == "tune":
            return f"trial {document['best']['number']}", document["best"]["scores"], {}
        if self.kind == "reproduce":
            return None
        chosen = document["chosen"]
        rows = document["networks"] if self.kind == "compare" else [*document["members"], *document["ensembles"]]
        row = next((row for row in reversed(rows) if row["name"] == chosen), None)
        if row is None:
            return None
        validation, test = (row.get(split) or {} for split in ("validation", "test"))
        if self.kind == "compare":  # over seeds
            validation, test = ({key: value["mean"] for key, value in scores.items()} for scores in (validation, test))
        return chosen, validation, test

    @cached_property
    def evaluation_split(self) -> str:
        """The split of the reported scores: test if it has labels, else validation; pooled for a cross-validation."""
        if self.kind == "crossval":
            return "pooled"
        if self.kind == "compare":
            return str(self.metrics["tested_on"])
        rows = [*self.metrics.get("members", ()), *self.metrics.get("ensembles", ())]
        return "test" if any(row.get("test") for row in rows) else "validation"

    @cached_property
    def chosen_predictions(self) -> Predictions | None:
        """Predictions of the chosen model on the evaluation split; for a comparison, the best network's first seed."""
        if self.kind == "crossval":
            return self.predictions(CHOSEN, self.evaluation_split)
        if self.kind == "compare":
            return self.member_predictions.get(self.metrics["chosen"])
        return self.predictions(self.metrics["chosen"], self.evaluation_split) if "chosen" in self.metrics else None

    @cached_property
    def member_predictions(self) -> dict[str, Predictions]:
        """Predictions of the members on the evaluation split; for a comparison, of each network's first seed."""
        return {name: Predictions.load(path) for name, path in self._prediction_paths() if path.is_file()}

    def _prediction_paths(self) -> Iterator[tuple[str, Path]]:
        split = self.evaluation_split
        if self.is_multilabel:
            return
        if self.kind == "compare":
            for row in self.metrics["networks"]:
                for training in row.get("trainings", ())[:1]:
                    yield row["name"], self.run.predictions(training["member"], split)
        elif self.kind == "ensemble":
            yield from ((name, run.predictions(member, split)) for name, run, member in self._source_members())
        else:
            for row in self.metrics.get("members", ()):
                yield row["name"], self.run.predictions(row["name"], split)

    def _source_members(self) -> list[tuple[str, RunFolder, str]]:
        """Return each member of an ensemble of runs: name here, source run, name there; empty if a run is missing."""
        runs = self._source_runs
        if not all(run.plan.is_file() for run in runs):
            return []
        sources = [(run, member["name"]) for run in runs for member in read_json(run.plan)["members"]]
        return [(row["name"], *source) for row, source in zip(self.metrics["members"], sources, strict=True)]

    @cached_property
    def evaluation_key(self) -> tuple[str, str, frozenset[str]]:
        """Data, split and sample ids of the evaluation: equal for runs that were evaluated on the same images."""
        data = str(self.metrics.get("data", {}).get("fingerprint") or self.source)
        predictions = next(iter(self.member_predictions.values()), None)
        return data, self.evaluation_split, frozenset() if predictions is None else frozenset(predictions.ids)

    @cached_property
    def histories(self) -> dict[str, History]:
        """Training histories by name."""
        return {name: History.load(path) for name, path in self._history_paths() if path.is_file()}

    def _history_paths(self) -> Iterator[tuple[str, Path]]:
        if self.kind == "crossval":
            for number, fold in enumerate(self.metrics["folds"], 1):
                run = RunFolder(self.run.path / "folds" / str(number))
                names = [member["name"] for member in read_json(run.plan)["members"]] if run.plan.is_file() else []
                yield from ((f"{name}, fold {fold['name']}", _history_path(run, name)) for name in names)
        elif self.kind == "tune":
            for row in self.metrics["trials"]:
                paths = (self.run.path / "trials" / f"{row['number']:04d}").glob("members/*/history.jsonl")
                yield from ((f"trial {row['number']}", path) for path in paths)
        elif self.kind == "ensemble":
            yield from ((name, _history_path(run, member)) for name, run, member in self._source_members())
        elif self.kind == "compare":
            for row in self.metrics["networks"]:
                for training in row.get("trainings", ()):
                    yield training["member"], _history_path(self.run, training["member"])
        else:
            for row in self.metrics.get("members", ()):
                yield row["name"], _history_path(self.run, row["name"])


def _history_path(run: RunFolder, name: str) -> Path:
    return run.member(name).path / "history.jsonl"
