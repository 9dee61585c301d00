"""Folder of a search, and the outcome of each trial.

FOLDER/
  study.yaml  study.journal  plan.json  samples.csv  images/   options, Optuna's journal, data shared by all trials
  trials/0007/{plan.json trial.json members/NAME/...}          one trial
  trials.json  trials.csv  report.txt  best.yaml               results
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
    """Outcome of a trial."""

    state: TrialState
    scores: Mapping[str, float] = field(default_factory=dict)
    """Validation scores of the best epoch."""
    epochs: int = 0
    seconds: float = 0.0
    """Training time."""
    parameters: int | None = None
    """Number of parameters of the network; None unless the trial completed."""
    reason: str = ""
    """Error message of a failed trial."""
    exit_code: int = 0
    """Exit code of a failed trial."""

    @classmethod
    def of_epochs(cls, state: TrialState, history: History, monitor: Monitor) -> TrialOutcome:
        """Return the outcome of a trial that stopped before its end."""
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
        """The trial as a run with one member; its images are those of the search."""
        return RunFolder(self.path)

    @property
    def outcome_file(self) -> Path:
        """File of the outcome, written last."""
        return self.path / "trial.json"

    def history(self, name: str) -> History:
        """Return the epochs trained so far."""
        path = self.run.member(name).checkpoints / "history.jsonl"
        return History.load(path) if path.is_file() else History()

    def keep_history(self, name: str) -> History:
        """Return the epochs trained so far, and store them like those of a finished training."""
        history = self.history(name)
        if len(history):
            history.save(self.run.member(name).path / "history.jsonl")
        return history

    def outcome(self) -> TrialOutcome:
        """Read the outcome."""
        return TrialOutcome(**read_json(self.outcome_file))

    def end(self, outcome: TrialOutcome) -> None:
        """Write the outcome."""
        write_json(self.outcome_file, asdict(outcome))

    def clear(self) -> None:
        """Delete the checkpoints; weights of trials are not kept."""
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
            StorageError: The folder does not contain a search.
        """
        folder = cls(Path(path))
        if not folder.search.is_file():
            raise StorageError(f"{path} is not a folder of `tercet tune`: it has no study.yaml")
        return folder

    @property
    def run(self) -> RunFolder:
        """Folder of the data and plan shared by all trials."""
        return RunFolder(self.path)

    @property
    def search(self) -> Path:
        """Options and search space."""
        return self.path / "study.yaml"

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.path / "study.journal"

    @property
    def best(self) -> Path:
        """Configuration of the best trial."""
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
