"""Search for better options of one network: trials on one prepared data set, compared on validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from tercet.config.experiments import TUNE, TuneConfig
from tercet.config.parser import ParsedArguments
from tercet.config.run import FusionConfig, RunConfig
from tercet.core.errors import ConfigError, DataError, StorageError, TercetError
from tercet.core.files import write_json, write_text
from tercet.core.history import History
from tercet.core.progress import ProgressDisplay, print_status
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import choose_device, describe_environment, plan_threads
from tercet.core.yaml_io import dump_yaml
from tercet.data.data_module import DataModule, prepare_data
from tercet.experiments.plan import Plan
from tercet.experiments.pool import FailedJob, run_all
from tercet.experiments.train import make_plan, write_run
from tercet.experiments.tune_folder import SearchFolder, TrialOutcome
from tercet.experiments.tune_log import TrialLog, require_optuna, sample_trial
from tercet.experiments.tune_study import SearchStudy
from tercet.experiments.tune_trials import TrialRow, TrialWork, as_csv, best_row, train_command, trials_report

_DRAWN = 30  # points of a space that are tried, as configurations only, before data is touched
_GENERATIONS = 4  # trials side by side know nothing of each other: at most a quarter of all run at once
_STOPS_ALL = (DataError.exit_code, StorageError.exit_code, 130, 143)  # the disk, or a signal to one process


@dataclass(frozen=True)
class Tuning:
    """A finished search."""

    path: Path
    """The search's folder."""
    metrics: Mapping[str, Any]
    """What `trials.json` holds: every trial, the best one, the options as they are, the options' importance."""
    report: str
    """The trials as text."""

    @property
    def best(self) -> Path:
        """The configuration of the best trial, which `tercet train --config` takes."""
        return SearchFolder(self.path).best


def tune(
    source: str | Path | None = None,
    /,
    *,
    space: str | Path | Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> Tuning:
    """Search for better options of one network, and leave a table of trials and the best configuration.

    Args:
        source: Folder of images by class, table, zip, or the name of a data set.
        space: The options to vary, each with a list of choices or a range `{"low": ..., "high": ...}` with `step` or
            `log`; or a YAML file that holds them.
        resume: Folder of a search to go on with, instead of new data and options; `trials` may be given anew.
        console: Where to report progress; silent by default.
        **options: Any option of `tercet tune`, such as `members=["row-lstm"]`, `trials=30`, `epochs=5`.

    Raises:
        TercetError: See `tercet.core.errors`; a search that was begun can be continued with `resume`.
    """
    parsed = TUNE.parse_object(options)
    return run_tuning(source, parsed, space=space, resume=resume, console=console or Console(quiet=True))


def run_tuning(
    data: str | Path | None,
    parsed: ParsedArguments,
    *,
    space: str | Path | Mapping[str, Any] | None,
    resume: str | Path | None,
    console: Console,
) -> Tuning:
    """Begin or continue a search and see it to its end."""
    require_optuna()
    config = parsed.of(TuneConfig)
    if resume is not None:
        words = [str(word) for word in (data, space) if word is not None]
        ignored = sorted(parsed.given - {"resume", "trials", "json", "debug", "space"}) + words
        if ignored:
            raise ConfigError(f"--resume goes on as the search was begun, save for --trials; it takes no {ignored[0]}")
        study = SearchFolder.open(resume)
        with study.run.lock():
            study.run.remove_unfinished()
            TrialLog.repair(study.journal)
            search = SearchStudy.load(study.search)
            if "trials" in parsed.given:
                search = replace(search, trials=config.trials)
            return _Tuner.begin(study, search, console).finish()
    if data is None:
        raise ConfigError("give a folder of images, a table, a zip or the name of a data set, or --resume FOLDER")
    if space is None:
        raise ConfigError("say which options vary: --space SPACE.yaml, with lines such as 'hidden_size: [32, 64, 128]'")
    search = SearchStudy.make(str(data), parsed, space, trials=config.trials, pruner=config.pruner)
    choose_device(search.run.device)
    search.check(sample_trial(search.space, _DRAWN))
    study = SearchFolder(RunFolder.create(parsed.of(RunConfig).output, f"{Path(str(data)).stem}-tune").path)
    with study.run.lock():
        search.save(study.search)
        with study.run.delete_if_invalid():
            tuner = _Tuner.begin(study, search, console)
        return tuner.finish()


def _prepare(study: SearchFolder, search: SearchStudy) -> tuple[Plan, DataModule]:
    """Return the data that all trials share, prepared once, and the plan of the options as they are."""
    if study.run.plan.is_file():
        plan = Plan.load(study.run)
        return plan, plan.open_data(study.run)
    member, data_config = search.configuration({})
    write_json(study.path / "environment.json", describe_environment())
    prepared = prepare_data(search.data, data_config)
    trainings = at_once(search.trials)
    plan = make_plan(
        search.data, prepared, data_config, search.given[FusionConfig], search.run, (member,), trainings=trainings
    )
    write_run(study.run, plan, prepared)
    return plan, prepared


def at_once(trials: int) -> int:
    """Return how many trials may run side by side, which know nothing of each other."""
    return max(1, trials // _GENERATIONS)


@dataclass
class _Tuner:
    """A search at work."""

    study: SearchFolder
    search: SearchStudy
    plan: Plan
    prepared: DataModule
    journal: TrialLog
    console: Console
    stopped: list[FailedJob] = field(default_factory=list)
    """Failures after which no further trial would fare better."""

    @classmethod
    def begin(cls, study: SearchFolder, search: SearchStudy, console: Console) -> _Tuner:
        """Make the data ready, or take them up again."""
        plan, prepared = _prepare(study, search)
        return cls(study, search, plan, prepared, TrialLog(study.journal, search), console)

    def finish(self) -> Tuning:
        """Train the trials that are missing, and report all."""
        done = self.journal.count()
        if done > self.search.trials:
            raise ConfigError(f"{done} trials were begun already: give --trials {done} or more")
        self.search.save(self.study.search)  # with a new number of trials, if there is one
        missing = self.search.trials - done + len(self.journal.running())
        if missing:
            threads = plan_threads(at_once(self.search.trials), threads=self.plan.threads, device=self.plan.device)
            counts = ", ".join(f"{len(self.prepared.rows(split))} {split}" for split in ("train", "validation"))
            print_status(self.console, f"{self.plan.data}: {len(self.plan.classes)} classes; {counts} images")
            print_status(self.console, f"{missing} of {self.search.trials} trials on {self.plan.device}: {threads}")
            run_all(
                self.works(),
                root=self.study.run,
                threads=threads,
                display=ProgressDisplay(self.console),
                prepared=self.prepared,
            )
        if self.stopped:
            error = TercetError(f"{self.stopped[0].message}; continue with --resume {self.study.path}")
            error.exit_code = self.stopped[0].exit_code
            raise error
        return self.conclude()

    def works(self) -> Iterator[TrialWork]:
        """Yield trials as there is room for them: first those that were stopped, then new ones."""
        for number in self.journal.running():
            yield from self.work(number)
        while self.journal.count() < self.search.trials and not self.stopped:
            yield from self.work(self.journal.propose())

    def work(self, number: int) -> Iterator[TrialWork]:
        """Yield a trial, unless it has ended already or cannot be."""
        folder = self.study.trial(number)
        work = TrialWork(self.study, self.journal, number, self.settle)
        try:
            member, data_config = self.search.configuration(self.journal.points()[number])
        except ConfigError as error:
            self.settle(number, FailedJob(work, str(error), error.exit_code))
            return
        if folder.ended.is_file():
            self.settle(number, None)
            return
        folder.path.mkdir(parents=True, exist_ok=True)
        replace(self.plan, members=(member,), data_config=data_config).save(folder.run)
        yield work

    def settle(self, number: int, failure: FailedJob | None) -> None:
        """Enter how a trial ended."""
        folder = self.study.trial(number)
        if failure is not None and failure.exit_code in _STOPS_ALL:
            self.stopped.append(failure)
            return
        if failure is not None:
            self._fail(number, failure)
        folder.clear()
        row = self.row(number)
        self.journal.tell(number, row.score if row.outcome.state == "complete" else None)
        score = f"{row.monitor} {row.score:.4f}" if row.score is not None else "no score"
        reason = f": {row.outcome.reason}" if row.outcome.reason else ""
        print_status(self.console, f"trial {number} {row.outcome.state}: {score}{reason}")

    def _fail(self, number: int, failure: FailedJob) -> None:
        folder, history = self.study.trial(number), History()
        if folder.run.plan.is_file():
            history = folder.keep_history(Plan.load(folder.run).members[0].name)
        outcome = TrialOutcome.of_epochs("failed", history, self.plan.monitor)
        reason = failure.message.replace("\n", "; ")
        folder.end(replace(outcome, reason=reason, exit_code=failure.exit_code))

    def row(self, number: int) -> TrialRow:
        """Return a trial that ended."""
        values = self.search.values(self.journal.points()[number])
        return TrialRow(number, values, self.study.trial(number).outcome(), self.plan.monitor)

    def conclude(self) -> Tuning:
        """Write the table, the report and the best configuration."""
        study = self.study
        rows = [self.row(number) for number in range(self.journal.count())]
        best = best_row(rows)
        if best is None:
            failed = next((row.outcome for row in rows if row.outcome.state == "failed"), rows[0].outcome)
            error = TercetError(f"no trial could be trained to its end: {failed.reason or 'no score is a number'}")
            error.exit_code = failed.exit_code or 6
            raise error
        importance = self.journal.importance()
        metrics = {
            "study": str(study.path),
            "best_config": str(study.best),
            "data": {"source": self.plan.data, "fingerprint": self.plan.fingerprint},
            "monitor": self.plan.monitor,
            "baseline": rows[0].to_dict(),
            "best": best.to_dict(),
            "importance": importance,
            "trials": [row.to_dict() for row in rows],
        }
        report = trials_report(rows, best, data=self.plan.data, best_file=str(study.best), importance=importance)
        document = self.search.document(self.journal.points()[best.number])
        head = f"# trial {best.number} of {len(rows)}: {best.monitor} {best.score:.4f} on validation\n"
        command = f"# {train_command(self.plan.data, str(study.best))}\n"
        write_text(study.best, head + command + dump_yaml(document))
        write_text(study.table, as_csv(rows))
        write_json(study.summary, metrics)
        write_text(study.report, report)
        return Tuning(study.path, metrics, report)
