"""Cross-validation: one run per fold, with all trainings in parallel, and their combined results."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
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
from tercet.core.registry import PARTS
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import describe_environment, plan_threads
from tercet.core.yaml_io import dump_yaml, read_mapping
from tercet.data.data_module import read_data
from tercet.data.folds import make_folds
from tercet.data.run_reader import CHOSEN
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.experiments.crossval_results import finalize_folds
from tercet.experiments.custom_parts import custom_parts
from tercet.experiments.finalize import finalize
from tercet.experiments.fold_runs import FoldRun, FoldRuns, members_by_fold, plan_folds, write_fold
from tercet.experiments.jobs import planned_jobs, raise_failures, run_jobs
from tercet.experiments.pool import FailedJob
from tercet.experiments.train import check_members, check_unchanged, print_start, resolve_config, write_data
from tercet.metrics.classification import score
from tercet.models.members import default_members

_DATA = "crossval_source"  # key of the data source in config.yaml


@dataclass(frozen=True)
class CrossValidation:
    """A finished cross-validation."""

    path: Path
    metrics: Mapping[str, Any]
    """Content of `metrics.json`: scores per fold and of all held-out rows, of members and ensembles."""
    report: str
    modules: Mapping[str, Any] = field(default_factory=PARTS["network"].custom, repr=False, compare=False)
    """Networks of the caller's that it was trained with, by name."""

    def bundle(self) -> Bundle:
        """Load the average of the folds' chosen models."""
        return load_bundle(self.path / "bundle", modules=self.modules)

    def predictions(self, name: str = CHOSEN) -> Predictions:
        """Load the held-out predictions of all folds: of their chosen models, a member, or an ensemble method."""
        return Predictions.load(RunFolder(self.path).predictions(name, "pooled"))


def crossval(
    source: str | Path | None = None,
    /,
    *,
    resume: str | Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> CrossValidation:
    """Train and evaluate once per fold, and save the average of the folds' chosen models as a bundle.

    Args:
        source: Folder with one subfolder per class, table, zip file, or name of a data set.
        resume: Folder of an interrupted cross-validation to continue, instead of `source` and options.
        console: Console for progress; silent by default.
        **options: Options of `tercet crossval`, such as `folds=5`, `leave_one_group_out=True`,
            `members=["small-cnn"]`, `data={"group_column": "subject"}`.

    Raises:
        TercetError: See `tercet.core.errors`; continue an interrupted cross-validation with `resume`.
    """
    with custom_parts(options, resume=resume) as named:
        parsed = CROSSVAL.parse_object(named)
        return run_crossval(source, parsed, resume=resume, console=console or Console(quiet=True))


def run_crossval(
    data: str | Path | None, parsed: ParsedArguments, *, resume: str | Path | None, console: Console
) -> CrossValidation:
    """Start or continue a cross-validation, as `crossval` does, from parsed options."""
    if resume is not None:
        check_unchanged(data, parsed)
        root = RunFolder.open(resume)
        with root.lock():
            root.remove_unfinished()
            return _work(FoldRuns.load(root) or _begin_again(root), console)
    if data is None:
        raise ConfigError("give a folder of images, a table, a zip file or the name of a data set, or --resume CV")
    check_members(parsed)
    if parsed.of(CalibrationConfig).guarantees and not parsed.of(FoldsConfig).calibration_fraction:
        raise ConfigError(
            "calibration.reject_risk and coverage need images that no fold uses: set some aside with "
            "--calibration-fraction 0.1"
        )
    if "data.test_fraction" not in parsed.given:  # every image is held out in a fold already
        config = replace(parsed.of(DataConfig), test_fraction=0.0)
        parsed = replace(parsed, instances={**parsed.instances, DataConfig: config})
    root = RunFolder.create(parsed.of(RunConfig).output, f"{Path(str(data)).stem}-folds")
    with root.lock():
        options = parsed.to_dict(
            FoldsConfig, RunConfig, DataConfig, ModelConfig, TrainingConfig, FusionConfig, CalibrationConfig
        )
        write_text(root.config, dump_yaml({_DATA: str(data), **options}))
        with root.delete_if_invalid():
            runs = _begin(root, str(data), parsed)
        return _work(runs, console)


def _begin(root: RunFolder, data: str, parsed: ParsedArguments) -> FoldRuns:
    """Read the data, make the folds, and check all of them before anything is trained."""
    config, folds = parsed.of(RunConfig), parsed.of(FoldsConfig)
    write_json(root.path / "environment.json", describe_environment())
    prepared = read_data(data, parsed.of(DataConfig))
    fold_plan = make_folds(
        prepared.table,
        parsed.of(DataConfig),
        count=folds.folds,
        leave_one_group_out=folds.leave_one_group_out,
        calibration_fraction=folds.calibration_fraction,
    )
    prepared = replace(prepared, table=fold_plan.table)
    members = resolve_config(config.members or default_members(prepared.image_size), parsed)
    by_fold = members_by_fold(members, [fold.name for fold in fold_plan.folds], folds.fold_members)
    planned = plan_folds(root, data, parsed, prepared, fold_plan, by_fold)
    write_data(root, prepared)
    for fold, plan, divided in planned:
        write_fold(fold, plan, divided, parsed)
    calibration = parsed.of(CalibrationConfig) if folds.calibration_fraction else UNCALIBRATED
    runs = FoldRuns(root, fold_plan.description, tuple(fold for fold, _, _ in planned), calibration)
    runs.save()  # last: a cross-validation with a list of folds is complete
    return runs


def _begin_again(root: RunFolder) -> FoldRuns:
    stored = read_mapping(root.config)
    if _DATA not in stored:
        raise StorageError(f"{root.path} is not a cross-validation; continue a run with tercet train --resume")
    data = stored.pop(_DATA)
    return _begin(root, data, CROSSVAL.parse_object(stored, source=str(root.config)))


def _work(runs: FoldRuns, console: Console) -> CrossValidation:
    """Train what is unfinished, finalize each fold, then combine the folds."""
    plan = runs.plan
    with ExitStack() as locks:
        for fold in runs.folds:
            locks.enter_context(fold.run.lock())
        jobs = [job for fold in runs.folds for job in planned_jobs(fold.run, fold.plan, run_title=fold.title)]
        waiting = [job for job in jobs if not job.folder.finished()]
        failures: list[FailedJob] = []
        if waiting:
            threads = plan_threads(len(waiting), threads=plan.threads, device=plan.device)
            details = f"{len(runs.folds)} folds ({runs.how})"
            for fold in runs.folds:
                if fold.unlearned:
                    print_status(console, fold.unlearned_note())
            print_start(console, plan, details, waiting=len(waiting), threads=threads)
            failures = run_jobs(waiting, root=runs.root, threads=threads, console=console)
        for fold in runs.folds:
            trained = all(job.folder.finished() for job in jobs if job.run == fold.run)
            if trained and not fold.finalized():
                _finalize_fold(fold, console)
        raise_failures(failures, runs.root)
    results = finalize_folds(runs)
    return CrossValidation(runs.root.path, results.metrics, results.report)


def _finalize_fold(fold: FoldRun, console: Console) -> None:
    results = finalize(fold.run, fold.plan, fold.plan.open_data(fold.run))
    scores = score(results.winner.predictions["test"])
    print_status(console, f"{fold.title}: {results.name}, accuracy {scores.accuracy:.4f} on {scores.n} held-out images")
