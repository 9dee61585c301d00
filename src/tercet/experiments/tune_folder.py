"""Folder of a search, and its trial log (an Optuna journal)."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tercet.config.search_space import Choices, NumberRange, SearchSpace
from tercet.config.training import Monitor
from tercet.core.errors import ConfigError
from tercet.core.files import read_json, write_json
from tercet.core.history import History
from tercet.core.run_folder import RunFolder
from tercet.experiments.tune_study import SearchStudy
from tercet.metrics.metric import find_metric, is_better

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


class TrialFolder(RunFolder):
    """A trial as a run with one member; its images are those of the search."""

    @property
    def outcome_file(self) -> Path:
        """File of the outcome, written last."""
        return self.path / "trial.json"

    def history(self, name: str) -> History:
        """Return the epochs trained so far."""
        path = self.member(name).checkpoints / "history.jsonl"
        return History.load(path) if path.is_file() else History()

    def keep_history(self, name: str) -> History:
        """Return the epochs trained so far, and store them like those of a finished training."""
        history = self.history(name)
        if len(history):
            history.save(self.member(name).path / "history.jsonl")
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


class SearchFolder(RunFolder):
    """A search; data and plan are shared by all trials."""

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.path / "study.journal"

    @property
    def best(self) -> Path:
        """Configuration of the best trial."""
        return self.path / "best.yaml"

    @property
    def table(self) -> Path:
        """All trials as CSV."""
        return self.path / "trials.csv"

    def trial(self, number: int) -> TrialFolder:
        """Return the folder of a trial."""
        return TrialFolder(self.path / "trials" / f"{number:04d}")


try:
    import optuna
except ImportError:  # an extra: `pip install tercet[search]`
    optuna = None

_NAME = "tercet"
_MAX_RANDOM_TRIALS = 10  # Optuna's default for the random trials before TPE
_MIN_TRIALS_FOR_IMPORTANCE = 10


def require_optuna() -> None:
    """Raise ConfigError if Optuna is not installed."""
    if optuna is None:
        raise ConfigError("tercet tune needs Optuna, which is not installed: pip install 'tercet[search]'")


def sample_points(space: SearchSpace, count: int) -> list[dict[str, Any]]:
    """Return random points of a space, with a fixed seed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [study.ask(_distributions(space)).params for _ in range(count)]


class TrialLog:
    """The trials of a search as an Optuna study.

    Args:
        path: The journal file.
        search: The search.
    """

    def __init__(self, path: Path, search: SearchStudy) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search, self._distributions = search, _distributions(search.space)
        self._monitor, self._seed = search.monitor, search.run.seed
        self._settings = {
            "study_name": _NAME,
            "direction": "maximize" if find_metric(self._monitor).higher_is_better else "minimize",
            "pruner": _pruner(search),
        }
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        storage = optuna.storages.JournalStorage(backend)
        self._study = optuna.create_study(storage=storage, load_if_exists=True, **self._settings)

    @staticmethod
    def repair(path: Path) -> None:
        """Remove the lock and the incomplete last line of a killed process; the caller must hold the run's lock."""
        path.with_name(path.name + ".lock").unlink(missing_ok=True)
        if path.is_file():
            complete_lines = path.read_bytes().rpartition(b"\n")[:2]
            os.truncate(path, sum(map(len, complete_lines)))

    def count(self) -> int:
        """Return the number of trials, including unfinished ones."""
        return len(self._study.get_trials(deepcopy=False))

    def points(self) -> list[dict[str, Any]]:
        """Return the point of every trial, by number."""
        return [dict(trial.params) for trial in self._study.get_trials(deepcopy=False)]

    def running(self) -> list[int]:
        """Return the numbers of unfinished trials."""
        return [trial.number for trial in self._study.get_trials(deepcopy=False) if not trial.state.is_finished()]

    def propose(self) -> int:
        """Add a trial and return its number; the first has the unchanged options, later ones are sampled by TPE."""
        number = self.count()
        point = self._search.start_point() if number == 0 else self._suggest(number)
        distributions = {key: self._distributions[key] for key in point}
        running = optuna.trial.TrialState.RUNNING
        self._study.add_trial(
            optuna.trial.create_trial(state=running, params=point, distributions=distributions)
        )  # a single line of the journal, so that no trial is stored without its complete point
        return number

    def _suggest(self, number: int) -> dict[str, Any]:
        """Sample a point in a copy of the study, with a seed derived from the trial's number."""
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        startup = min(_MAX_RANDOM_TRIALS, max(2, self._search.trials // 4))
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
        copy = optuna.create_study(sampler=sampler, **self._settings)
        copy.add_trials(self._study.get_trials(deepcopy=False))
        return dict(copy.ask(self._distributions).params)

    def report(self, number: int, scores: Sequence[Mapping[str, float]]) -> None:
        """Report the validation scores of a trial's epochs that have not been reported yet."""
        trial = self._trial(number)
        reported = self._study.get_trials(deepcopy=False)[number].intermediate_values
        for epoch, values in enumerate(scores):
            if epoch not in reported:
                trial.report(values[self._monitor], epoch)

    def is_pruned(self, number: int) -> bool:
        """Return whether the pruner would stop a trial now."""
        return bool(self._trial(number).should_prune())

    def finish(self, number: int, value: float | None) -> None:
        """Record the score of a trial, or None if it was pruned or failed.

        A failed trial is recorded as pruned, so that the sampler avoids its point.
        """
        state = optuna.trial.TrialState.COMPLETE if value is not None else optuna.trial.TrialState.PRUNED
        self._study.tell(number, value, state=state, skip_if_finished=True)

    def importance(self) -> dict[str, float]:
        """Return each option's share of the variance of the scores (PED-ANOVA); empty after too few trials."""
        complete = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        if len(complete) < _MIN_TRIALS_FOR_IMPORTANCE or len({trial.value for trial in complete}) < 2:
            return {}
        return {key: float(share) for key, share in optuna.importance.get_param_importances(self._study).items()}

    def _trial(self, number: int) -> Any:
        trials = self._study.get_trials(deepcopy=False)
        return optuna.trial.Trial(self._study, trials[number]._trial_id)


def _distributions(space: SearchSpace) -> dict[str, Any]:
    return {axis.key: _distribution(axis) for axis in space.axes}


def _distribution(axis: NumberRange | Choices) -> Any:
    if isinstance(axis, Choices):
        return optuna.distributions.CategoricalDistribution(axis.labels)
    if axis.integer:
        return optuna.distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=axis.step or 1)
    return optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def _pruner(search: SearchStudy) -> Any:
    if search.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4)
    if search.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=search.epochs or "auto")
    return optuna.pruners.NopPruner()
