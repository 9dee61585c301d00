"""Cross-validation: the main job once a fold, all trainings side by side, and what the folds say together."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from tercet.config.experiments import CROSSVAL, FoldsConfig
from tercet.config.model import ModelConfig
from tercet.config.parser import ParsedArguments
from tercet.config.run import UNCALIBRATED, CalibrationConfig, DataConfig, FusionConfig, RunConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError, StorageError
from tercet.core.files import write_json, write_text
from tercet.core.predictions import Predictions
from tercet.core.progress import print_status
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import describe_environment, plan_threads
from tercet.core.yaml_io import dump_yaml, read_mapping
from tercet.data.data_module import read_data
from tercet.data.folds import make_folds
from tercet.data.run_reader import CHOSEN
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.experiments.crossval_results import finalize_folds
from tercet.experiments.finalize import finalize
from tercet.experiments.fold_runs import FoldRun, FoldRuns, members_by_fold, plan_folds, write_fold
from tercet.experiments.jobs import planned_jobs, raise_failures, run_jobs
from tercet.experiments.pool import FailedJob
from tercet.experiments.train import check_members, check_unchanged, resolve_config, write_data
from tercet.metrics.classification import score
from tercet.models.members import default_members

_DATA = "crossval_source"  # how config.yaml names what was divided, beside the options


@dataclass(frozen=True)
class CrossValidation:
    """A finished cross-validation."""

    path: Path
    """The folder."""
    metrics: Mapping[str, Any]
    """What `metrics.json` holds: each fold, all held-out rows together, members, ways to fuse."""
    report: str
    """The report as text."""

    def bundle(self) -> Bundle:
        """Load the mean of the folds' chosen models."""
        return load_bundle(self.path / "bundle")

    def predictions(self, name: str = CHOSEN) -> Predictions:
        """Load what each fold said of the rows it held out: by its own choice, by a member, or by a way to fuse."""
        return Predictions.load(RunFolder(self.path).predictions(name, "pooled"))


def crossval(
    source: str | Path | None = None,
    /,
    *,
    resume: str | Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> CrossValidation:
    """Train and measure once a fold, each held out in turn, and leave one bundle: the mean of the folds' answers.

    Args:
        source: Folder of images by class, table, zip, or the name of a data set.
        resume: Folder of a cross-validation to go on with, instead of new data and options.
        console: Where to report progress; silent by default.
        **options: Any option of `tercet crossval`, such as `folds=5`, `leave_one_group_out=True`,
            `members=["small-cnn"]`, `data={"group_column": "subject"}`.

    Raises:
        TercetError: See `tercet.core.errors`; what was begun can be continued with `resume`.
    """
    parsed = CROSSVAL.parse_object(options)
    return run_crossval(source, parsed, resume=resume, console=console or Console(quiet=True))


def run_crossval(
    data: str | Path | None, parsed: ParsedArguments, *, resume: str | Path | None, console: Console
) -> CrossValidation:
    """Begin or continue a cross-validation and see it to its end."""
    if resume is not None:
        check_unchanged(data, parsed)
        whole = RunFolder.open(resume)
        with whole.lock():
            whole.remove_unfinished()
            return _work(FoldRuns.load(whole) or _begin_again(whole), console)
    if data is None:
        raise ConfigError("give a folder of images, a table, a zip or the name of a data set, or --resume CV")
    check_members(parsed)
    if parsed.of(CalibrationConfig).guarantees and not parsed.of(FoldsConfig).calibration_fraction:
        raise ConfigError(
            "calibration.reject_risk and coverage need images that no fold learned from: keep some with "
            "--calibration-fraction 0.1"
        )
    if "data.test_fraction" not in parsed.given:  # the folds are what is held out, unless a test split is asked for
        config = replace(parsed.of(DataConfig), test_fraction=0.0)
        parsed = replace(parsed, instances={**parsed.instances, DataConfig: config})
    whole = RunFolder.create(parsed.of(RunConfig).output, f"{Path(str(data)).stem}-folds")
    with whole.lock():
        options = parsed.to_dict(
            FoldsConfig, RunConfig, DataConfig, ModelConfig, TrainingConfig, FusionConfig, CalibrationConfig
        )
        write_text(whole.config, dump_yaml({_DATA: str(data), **options}))
        with whole.delete_if_invalid():
            runs = _begin(whole, str(data), parsed)
        return _work(runs, console)


def _begin(whole: RunFolder, data: str, parsed: ParsedArguments) -> FoldRuns:
    """Read and divide the data; whatever is wrong with any fold is found before anything is trained."""
    config, folds = parsed.of(RunConfig), parsed.of(FoldsConfig)
    write_json(whole.path / "environment.json", describe_environment())
    prepared = read_data(data, parsed.of(DataConfig))
    division = make_folds(
        prepared.table,
        parsed.of(DataConfig),
        count=folds.folds,
        leave_one_group_out=folds.leave_one_group_out,
        calibration_fraction=folds.calibration_fraction,
    )
    prepared = replace(prepared, table=division.table)
    members = resolve_config(config.members or default_members(prepared.image_size), parsed)
    by_fold = members_by_fold(members, [fold.name for fold in division.folds], folds.fold_members)
    planned = plan_folds(whole, data, parsed, prepared, division, by_fold)
    write_data(whole, prepared)
    for fold, plan, divided in planned:
        write_fold(fold, plan, divided, parsed)
    calibration = parsed.of(CalibrationConfig) if folds.calibration_fraction else UNCALIBRATED
    runs = FoldRuns(whole, division.description, tuple(fold for fold, _, _ in planned), calibration)
    runs.save()  # last: a cross-validation with its list of folds has all it needs
    return runs


def _begin_again(whole: RunFolder) -> FoldRuns:
    stored = read_mapping(whole.config)
    if _DATA not in stored:
        raise StorageError(f"{whole.path} is no cross-validation: a run goes on with tercet train --resume")
    data = stored.pop(_DATA)
    return _begin(whole, data, CROSSVAL.parse_object(stored, source=str(whole.config)))


def _work(runs: FoldRuns, console: Console) -> CrossValidation:
    """Train what is not trained yet, conclude each fold, and put the folds together."""
    plan = runs.plan
    with ExitStack() as locks:
        for fold in runs.folds:
            locks.enter_context(fold.run.lock())
        jobs = [job for fold in runs.folds for job in planned_jobs(fold.run, fold.plan, part=fold.title)]
        waiting = [job for job in jobs if not job.folder.finished()]
        failures: list[FailedJob] = []
        if waiting:
            threads = plan_threads(len(waiting), threads=plan.threads, device=plan.device)
            print_status(console, f"{plan.data}: {len(plan.classes)} classes; {len(runs.folds)} folds ({runs.how})")
            for note in plan.notes[:10]:
                print_status(console, f"left out: {note}")
            for fold in runs.folds:
                if fold.unlearned:
                    print_status(
                        console, f"{fold.title} alone shows {', '.join(fold.unlearned)}: without it they are unknown"
                    )
            print_status(console, f"{len(waiting)} training(s) on {plan.device}: {threads}")
            failures = run_jobs(waiting, whole=runs.whole, threads=threads, console=console)
        for fold in runs.folds:
            trained = all(job.folder.finished() for job in jobs if job.run == fold.run)
            if trained and not fold.concluded():
                _conclude(fold, console)
        raise_failures(failures, runs.whole)
    conclusion = finalize_folds(runs)
    return CrossValidation(runs.whole.path, conclusion.metrics, conclusion.report)


def _conclude(fold: FoldRun, console: Console) -> None:
    conclusion = finalize(fold.run, fold.plan, fold.plan.open_data(fold.run))
    reached = score(conclusion.winner.predictions["test"])
    print_status(
        console, f"{fold.title}: {conclusion.name}, accuracy {reached.accuracy:.4f} of {reached.n} held-out images"
    )
