"""Cross-validation: one run per fold, with all trainings in parallel, and their combined results."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from rich.console import Console

from tercet.config.experiments import CROSSVAL, FoldsConfig
from tercet.config.option_types import CrossvalOptions
from tercet.config.parser import ParsedArguments
from tercet.config.run import UNCALIBRATED, CalibrationConfig, DataConfig
from tercet.core.errors import ConfigError
from tercet.core.output import count
from tercet.core.predictions import Predictions
from tercet.core.progress import as_console, phase, print_status
from tercet.core.run_folder import RunFolder
from tercet.data.copies import torn_notes
from tercet.data.data_module import read_data
from tercet.data.folds import make_folds
from tercet.data.in_memory import DataLike
from tercet.data.run_reader import CHOSEN
from tercet.experiments.crossval_results import finalize_folds
from tercet.experiments.custom_parts import custom_parts
from tercet.experiments.experiment import Experiment, run_experiment
from tercet.experiments.finalize import finalize
from tercet.experiments.fold_runs import FoldRun, FoldRuns, members_by_fold, plan_folds, write_fold
from tercet.experiments.jobs import planned_jobs, raise_failures, train_jobs
from tercet.experiments.results import RunResult
from tercet.experiments.train import check_members, preset_members, write_data
from tercet.metrics.classification import score


class CrossValidation(RunResult):
    """A finished cross-validation: scores per fold and of all held-out rows, of members and ensembles.

    Its bundle is the average of the folds' chosen models.
    """

    def predictions(self, name: str = CHOSEN) -> Predictions:
        """Load the held-out predictions of all folds: of their chosen models, a member, or an ensemble method."""
        return Predictions.load(RunFolder(self.path).predictions(name, "pooled"))


def crossval(
    source: DataLike = None,
    /,
    *,
    resume: str | Path | None = None,
    console: Console | bool | None = None,
    **options: Unpack[CrossvalOptions],
) -> CrossValidation:
    """Train and evaluate once per fold, and save the average of the folds' chosen models as a bundle.

    Args:
        source: Images, as for `train`.
        resume: Folder of an interrupted cross-validation to continue, instead of `source` and options.
        console: Console for progress, `False` for none (default: standard error, or the notebook).
        **options: Options of `tercet crossval`, such as `folds=5`, `leave_one_group_out=True`,
            `members=["small-cnn"]`, `data={"group_column": "subject"}`.

    Raises:
        TercetError: See `tercet.core.errors`; continue an interrupted cross-validation with `resume`.
    """
    with custom_parts(options, resume=resume) as named:
        parsed = CROSSVAL.parse_object(named)
        return run_crossval(source, parsed, resume=resume, console=as_console(console))


def run_crossval(
    data: DataLike, parsed: ParsedArguments, *, resume: str | Path | None, console: Console
) -> CrossValidation:
    """Start or continue a cross-validation, as `crossval` does, from parsed options."""
    if resume is None and "data.test_fraction" not in parsed.given:  # every image is held out in a fold already
        parsed = parsed.replace(replace(parsed.of(DataConfig), test_fraction=0.0))
    return run_experiment(Folds, data, parsed, resume=resume, console=console)


class Folds(Experiment[FoldRuns, CrossValidation]):
    """Training and evaluation once per fold."""

    command = "crossval"
    options = CROSSVAL
    suffix = "-folds"

    def check(self) -> None:
        """Check device and members, and that calibration has images."""
        check_members(self.parsed)
        if self.parsed.of(CalibrationConfig).guarantees and not self.parsed.of(FoldsConfig).calibration_fraction:
            raise ConfigError(
                "calibration.reject_risk and coverage need images that no fold uses: set some aside with "
                "--calibration-fraction 0.1"
            )

    def prepare(self, run: RunFolder) -> FoldRuns:
        """Read the data, make the folds, and check all of them before anything is trained."""
        parsed, folds = self.parsed, self.parsed.of(FoldsConfig)
        prepared = read_data(self.source, parsed.of(DataConfig))
        fold_plan = make_folds(
            prepared.table,
            parsed.of(DataConfig),
            count=folds.folds,
            leave_one_group_out=folds.leave_one_group_out,
            calibration_fraction=folds.calibration_fraction,
        )
        prepared = replace(prepared, table=fold_plan.table.with_notes(*torn_notes(fold_plan.table)))
        members = preset_members(parsed, prepared)
        by_fold = members_by_fold(members, [fold.name for fold in fold_plan.folds], folds.fold_members)
        planned = plan_folds(run, str(self.source), parsed, prepared, fold_plan, by_fold)
        write_data(run, prepared)
        for fold, plan, divided in planned:
            write_fold(fold, plan, divided, parsed)
        calibration = parsed.of(CalibrationConfig) if folds.calibration_fraction else UNCALIBRATED
        runs = FoldRuns(run, fold_plan.description, tuple(fold for fold, _, _ in planned), calibration)
        runs.save()  # last: a cross-validation with a list of folds is complete
        return runs

    def reopen(self, run: RunFolder) -> FoldRuns | None:
        """Read the list of folds."""
        return FoldRuns.load(run)

    def work(self, run: RunFolder, state: FoldRuns, console: Console) -> CrossValidation:
        """Train what is unfinished, finalize each fold, then combine the folds."""
        with ExitStack() as locks:
            for fold in state.folds:
                locks.enter_context(fold.run.lock())
            jobs = [job for fold in state.folds for job in planned_jobs(fold.run, fold.plan, run_title=fold.title)]
            for fold in state.folds:
                if fold.unlearned:
                    print_status(console, fold.unlearned_note())
            details = f"{count(len(state.folds), 'fold')} ({state.how})"
            failures = train_jobs(jobs, state.plan, root=run, details=details, console=console)
            for fold in state.folds:
                trained = all(job.folder.finished() for job in jobs if job.run == fold.run)
                if trained and not fold.finalized():
                    _finalize_fold(fold, console)
            raise_failures(failures, run)
        with phase(console, "combining the folds"):
            return CrossValidation(run.path, *finalize_folds(state))


def _finalize_fold(fold: FoldRun, console: Console) -> None:
    with phase(console, f"combining the members of {fold.title}"):
        results = finalize(fold.run, fold.plan, fold.plan.open_data(fold.run))
    fold.run.write_results(results.metrics, results.report)
    scores = score(results.winner.predictions["test"])
    print_status(console, f"{fold.title}: {results.name}, accuracy {scores.accuracy:.4f} on {scores.n} held-out images")
