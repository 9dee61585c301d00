"""Hyperparameter search for one network: trials on shared data, scored on validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

from rich.console import Console

from tercet.config.experiments import TUNE, TuneConfig
from tercet.config.option_types import TuneOptions
from tercet.config.parser import ParsedArguments
from tercet.config.presets import PresetConfig
from tercet.config.run import FusionConfig
from tercet.core.errors import ConfigError, DataError, StorageError, TercetError
from tercet.core.files import write_text
from tercet.core.history import History
from tercet.core.output import count
from tercet.core.progress import as_console, print_status
from tercet.core.run_folder import MemberFolder, RunFolder
from tercet.core.runtime import choose_device, plan_threads
from tercet.core.training_progress import ProgressDisplay
from tercet.core.yaml_io import dump_yaml
from tercet.data.data_module import DataModule, prepare_data
from tercet.data.in_memory import DataLike
from tercet.experiments.custom_parts import custom_parts
from tercet.experiments.experiment import run_experiment
from tercet.experiments.fold_runs import SHARED_IMAGES
from tercet.experiments.frozen import counts_of, sum_counts
from tercet.experiments.ladder_plan import with_preset_head
from tercet.experiments.plan import Plan
from tercet.experiments.pool import FailedJob, run_all
from tercet.experiments.results import RunResult
from tercet.experiments.train import PlannedExperiment, make_plan, write_run
from tercet.experiments.tune_folder import SearchFolder, TrialLog, TrialOutcome, require_optuna, sample_points
from tercet.experiments.tune_study import SearchStudy
from tercet.experiments.tune_trials import TrialRow, TrialTask, as_csv, best_row, train_command, trials_report
from tercet.models.members import Recipe

_CHECKED_POINTS = 30  # points of the space checked for valid configurations before any data is read
_MIN_GENERATIONS = 4  # concurrent trials cannot learn from each other, so at most a quarter run at the same time
_FATAL_CODES = (DataError.exit_code, StorageError.exit_code, 130, 143)  # further trials would fail in the same way


class Tuning(RunResult):
    """Result of `tune`: all trials, the best one, the baseline, and the importance of the options."""

    @property
    def best(self) -> Path:
        """Configuration file of the best trial, for `tercet train --config`."""
        return SearchFolder(self.path).best


def tune(
    source: DataLike = None,
    /,
    *,
    space: str | Path | Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    console: Console | bool | None = None,
    **options: Unpack[TuneOptions],
) -> Tuning:
    """Tune the hyperparameters of one network; write a table of trials and the best configuration.

    Args:
        source: Images, as for `train`.
        space: Options to vary, each with a list of choices or a range `{"low": ..., "high": ...}` with `step` or `log`;
            or a YAML file of them (default: learning rates, regularization and augmentation).
        resume: Folder of a search to continue, instead of data and options; `trials` may be changed.
        console: Console for progress, `False` for none (default: standard error, or the notebook).
        **options: Any option of `tercet tune`, such as `members=["row-lstm"]`, `trials=30`, `epochs=5`.

    Raises:
        TercetError: See `tercet.core.errors`; an interrupted search can be continued with `resume`.
    """
    with custom_parts({**options, "space": space}, resume=resume) as named:
        space = named.pop("space", None)
        parsed = TUNE.parse_object(named)
        return run_tuning(source, parsed, space=space, resume=resume, console=as_console(console))


def run_tuning(
    data: DataLike,
    parsed: ParsedArguments,
    *,
    space: str | Path | Mapping[str, Any] | None,
    resume: str | Path | None,
    console: Console,
) -> Tuning:
    """Start or resume a search and run it to the end."""
    require_optuna()
    return run_experiment(Search, data, parsed, resume=resume, console=console, space=space)


@dataclass(frozen=True)
class Search(PlannedExperiment[Tuning]):
    """Search of the hyperparameters of one network."""

    space: str | Path | Mapping[str, Any] | None = None
    """The options to vary, or a file of them."""

    command = "tune"
    options = TUNE
    suffix = "-tune"
    changeable = frozenset({"trials"})

    @cached_property
    def study(self) -> SearchStudy:
        """The search with its resolved options."""
        config = self.parsed.of(TuneConfig)
        parsed = with_preset_head(self.parsed)
        recipe = Recipe(parsed.of(PresetConfig).preset, parsed.given)
        return SearchStudy.make(
            str(self.source), parsed, self.space, trials=config.trials, pruner=config.pruner, recipe=recipe
        )

    def stored_options(self) -> dict[str, Any]:
        """Return the resolved options, independent of the files that they came from."""
        return {**self.study.to_options(), "preset": self.parsed.of(PresetConfig).preset}

    def check(self) -> None:
        """Check options, device and space."""
        choose_device(self.study.run.device)
        self.study.check(sample_points(self.study.space, _CHECKED_POINTS))

    def prepare(self, run: RunFolder) -> tuple[Plan, DataModule]:
        """Read the data that all trials share, and plan the unchanged options."""
        study = self.study
        member, data_config = study.configuration({})
        prepared = prepare_data(self.source, data_config)
        trainings, fusion = max_parallel(study.trials), study.base[FusionConfig]
        plan = make_plan(study.data, prepared, data_config, fusion, study.run, (member,), trainings=trainings)
        write_run(run, plan, prepared)
        return plan, prepared

    def reopen(self, run: RunFolder) -> tuple[Plan, DataModule] | None:
        """Read plan and data, after a check of the number of trials."""
        journal = SearchFolder(run.path).journal
        TrialLog.repair(journal)
        known = TrialLog(journal, self.study).count()
        if known > self.study.trials:
            raise ConfigError(f"{known} trials exist already: give --trials {known} or more")
        return super().reopen(run)

    def work(self, run: RunFolder, state: tuple[Plan, DataModule], console: Console) -> Tuning:
        """Train the missing trials, and report all."""
        folder = SearchFolder(run.path)
        return _Tuner(folder, self.study, *state, TrialLog(folder.journal, self.study), console).run()


def max_parallel(trials: int) -> int:
    """Return how many trials may run at the same time."""
    return max(1, trials // _MIN_GENERATIONS)


@dataclass
class _Tuner:
    """Runs the missing trials of a search."""

    folder: SearchFolder
    search: SearchStudy
    plan: Plan
    prepared: DataModule
    log: TrialLog
    console: Console
    fatal: list[FailedJob] = field(default_factory=list)
    """Failures that further trials would repeat."""

    def run(self) -> Tuning:
        """Train the missing trials, and report all."""
        missing = self.search.trials - self.log.count() + len(self.log.running())
        if missing:
            threads = plan_threads(max_parallel(self.search.trials), threads=self.plan.threads, device=self.plan.device)
            counts = ", ".join(f"{len(self.prepared.rows(split))} {split}" for split in ("train", "validation"))
            classes = count(len(self.plan.classes), "class")
            print_status(self.console, f"{self.plan.data}: {classes}; {counts} images")
            print_status(self.console, f"{missing} of {self.search.trials} trials on {self.plan.device}: {threads}")
            run_all(
                self.tasks(),
                root=self.folder,
                threads=threads,
                display=ProgressDisplay(self.console, total=missing),
                prepared=self.prepared,
            )
        if self.fatal:
            error = TercetError(f"{self.fatal[0].message}; continue with --resume {self.folder.path}")
            error.exit_code = self.fatal[0].exit_code
            raise error
        return self.finalize()

    def tasks(self) -> Iterator[TrialTask]:
        """Yield trials on demand: interrupted ones first, then new ones."""
        for number in self.log.running():
            yield from self.task(number)
        while self.log.count() < self.search.trials and not self.fatal:
            yield from self.task(self.log.propose())

    def task(self, number: int) -> Iterator[TrialTask]:
        """Yield a trial, unless it has ended or its configuration is invalid."""
        trial = self.folder.trial(number)
        task = TrialTask(self.folder, self.log, number, self.finish_trial)
        try:
            member, data_config = self.search.configuration(self.log.points()[number])
        except ConfigError as error:
            self.finish_trial(number, FailedJob(task, str(error), error.exit_code))
            return
        if trial.outcome_file.is_file():
            self.finish_trial(number, None)
            return
        trial.path.mkdir(parents=True, exist_ok=True)
        replace(self.plan, members=(member,), data_config=data_config, images=SHARED_IMAGES).save(trial)
        yield task

    def finish_trial(self, number: int, failure: FailedJob | None) -> None:
        """Record the end of a trial."""
        trial = self.folder.trial(number)
        if failure is not None and failure.exit_code in _FATAL_CODES:
            self.fatal.append(failure)
            return
        if failure is not None:
            self._save_failure(number, failure)
        trial.clear()
        row = self.row(number)
        self.log.finish(number, row.score if row.outcome.state == "complete" else None)
        score = f"{row.monitor} {row.score:.4f}" if row.score is not None else "no score"
        reason = f": {row.outcome.reason}" if row.outcome.reason else ""
        print_status(self.console, f"trial {number} {row.outcome.state}: {score}{reason}")

    def _save_failure(self, number: int, failure: FailedJob) -> None:
        trial, history = self.folder.trial(number), History()
        if trial.plan.is_file():
            history = trial.keep_history(Plan.load(trial).members[0].name)
        outcome = TrialOutcome.of_epochs("failed", history, self.plan.monitor)
        reason = failure.message.replace("\n", "; ")
        trial.end(replace(outcome, reason=reason, exit_code=failure.exit_code))

    def row(self, number: int) -> TrialRow:
        """Return the table row of a trial that has ended."""
        values = self.search.values(self.log.points()[number])
        return TrialRow(number, values, self.folder.trial(number).outcome(), self.plan.monitor)

    def finalize(self) -> Tuning:
        """Write the table and the best configuration, and return all results."""
        folder = self.folder
        rows = [self.row(number) for number in range(self.log.count())]
        best = best_row(rows)
        if best is None:
            failed = next((row.outcome for row in rows if row.outcome.state == "failed"), rows[0].outcome)
            error = TercetError(f"no trial completed: {failed.reason or 'no score is a number'}")
            error.exit_code = failed.exit_code or 6
            raise error
        importance = self.log.importance()
        folders = [MemberFolder(path) for row in rows for path in self.folder.trial(row.number).path.glob("members/*")]
        metrics = {
            "study": str(folder.path),
            "best_config": str(folder.best),
            "data": {"source": self.plan.data, "fingerprint": self.plan.fingerprint},
            "monitor": self.plan.monitor,
            "baseline": rows[0].to_dict(),
            "best": best.to_dict(),
            "train_command": train_command(self.plan.data, str(folder.best)),
            "importance": importance,
            "features": sum_counts(counts_of(folders)),
            "trials": [row.to_dict() for row in rows],
        }
        report = trials_report(rows, best, data=self.plan.data, best_file=str(folder.best), importance=importance)
        config = self.search.config_file(self.log.points()[best.number])
        header = f"# trial {best.number} of {len(rows)}: {best.monitor} {best.score:.4f} on validation\n"
        command = f"# {metrics['train_command']}\n"
        write_text(folder.best, header + command + dump_yaml(config))
        write_text(folder.table, as_csv(rows))
        return Tuning(folder.path, metrics, report)
