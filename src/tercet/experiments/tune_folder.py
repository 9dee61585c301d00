"""The folder of a search: where everything is, and how each trial ended.

STUDY/
  study.yaml  study.journal  plan.json  samples.csv  images/   what is searched, and the data that all trials share
  trials/0007/{plan.json trial.json members/NAME/...}          one trial
  trials.json  trials.csv  report.txt  best.yaml               what came out
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from tercet.config.training import Monitor
from tercet.core.errors import StorageError
from tercet.core.files import read_json, write_json
from tercet.core.history import History
from tercet.core.run_folder import RunFolder
from tercet.metrics.classification import is_better

TrialState = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended."""

    state: TrialState
    """Trained to the end, given up early, or not trainable."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Validation scores of its best epoch."""
    epochs: int = 0
    """Epochs that were trained."""
    seconds: float = 0.0
    """What they took."""
    parameters: int | None = None
    """Parameters of the network, where it was trained to the end."""
    reason: str = ""
    """Why it failed."""
    exit_code: int = 0
    """The exit code that goes with the reason."""

    @classmethod
    def of_epochs(cls, state: TrialState, history: History, monitor: Monitor) -> TrialOutcome:
        """Return how a trial ended that was not trained to its end."""
        best: Mapping[str, float] | None = None
        for row in history:
            if all(map(math.isfinite, row.validation.values())) and is_better(monitor, row.validation, best):
                best = row.validation
        return cls(state, best or {}, len(history), sum(row.seconds for row in history))


@dataclass(frozen=True)
class TrialFolder:
    """Paths of one trial."""

    path: Path

    @property
    def run(self) -> RunFolder:
        """The trial as a run with one member, without images of its own."""
        return RunFolder(self.path)

    @property
    def ended(self) -> Path:
        """Written last: how it ended."""
        return self.path / "trial.json"

    def history(self, name: str) -> History:
        """Return the epochs so far of the trial's member."""
        path = self.run.member(name).checkpoints / "history.jsonl"
        return History.load(path) if path.is_file() else History()

    def keep_history(self, name: str) -> History:
        """Return the epochs so far, and store them where those of a finished training are."""
        history = self.history(name)
        if len(history):
            history.save(self.run.member(name).path / "history.jsonl")
        return history

    def outcome(self) -> TrialOutcome:
        """Return what `end` wrote."""
        return TrialOutcome(**read_json(self.ended))

    def end(self, outcome: TrialOutcome) -> None:
        """Record how the trial ended."""
        write_json(self.ended, asdict(outcome))

    def clear(self) -> None:
        """Delete checkpoints: the weights of a trial are not kept."""
        for folder in self.path.glob("members/*/checkpoints"):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class SearchFolder:
    """Paths of a search."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> SearchFolder:
        """Return an existing search.

        Raises:
            StorageError: The folder holds none.
        """
        study = cls(Path(path))
        if not study.search.is_file():
            raise StorageError(f"{path} holds no search: it has no study.yaml")
        return study

    @property
    def run(self) -> RunFolder:
        """The folder of the data and the plan that all trials share."""
        return RunFolder(self.path)

    @property
    def search(self) -> Path:
        """What is searched."""
        return self.path / "study.yaml"

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.path / "study.journal"

    @property
    def best(self) -> Path:
        """The configuration of the best trial."""
        return self.path / "best.yaml"

    @property
    def summary(self) -> Path:
        """All trials as JSON."""
        return self.path / "trials.json"

    @property
    def table(self) -> Path:
        """All trials as CSV."""
        return self.path / "trials.csv"

    @property
    def report(self) -> Path:
        """All trials as text."""
        return self.path / "report.txt"

    def trial(self, number: int) -> TrialFolder:
        """Return the folder of a trial."""
        return TrialFolder(self.path / "trials" / f"{number:04d}")
