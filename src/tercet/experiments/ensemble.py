"""Combine the trained members of runs on the same data and splits, or prediction files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from rich.console import Console

from tercet.config.commands import ENSEMBLE, EnsembleConfig
from tercet.config.option_types import EnsembleOptions
from tercet.config.parser import ParsedArguments
from tercet.config.run import DEFAULT_METHODS, CalibrationConfig, FusionConfig, RunConfig
from tercet.core.errors import ConfigError, DataError, StorageError
from tercet.core.predictions import Predictions
from tercet.core.progress import as_console, phase
from tercet.core.run_folder import RunFolder, RunRecord
from tercet.core.runtime import choose_device, plan_threads
from tercet.data.data_module import DataModule
from tercet.data.decoding import Decoding
from tercet.data.table import load_samples
from tercet.ensemble.bundle import load_bundle
from tercet.ensemble.combiners import apply_head
from tercet.experiments.ensemble_files import CombinedPredictions, are_files, combine_files, require_applicable
from tercet.experiments.finalize import finalize
from tercet.experiments.fit_ensemble import TrainedMember, read_members
from tercet.experiments.fusion_training import HeadFitter
from tercet.experiments.jobs import Job, raise_failures, run_jobs
from tercet.experiments.plan import Plan
from tercet.experiments.task import task_of
from tercet.experiments.train import Run
from tercet.experiments.tta import choose_tta, is_tta_chosen
from tercet.models.fusion_head import FusionHead


def combine(
    inputs: Sequence[str | Path | Predictions],
    *,
    method: str | None = None,
    console: Console | bool | None = None,
    **options: Unpack[EnsembleOptions],
) -> Run | CombinedPredictions:
    """Combine trained runs, or prediction files, into an ensemble.

    Args:
        inputs: Run folders with the same data and splits; or prediction files and `Predictions` of the same samples.
        method: Short for `ensemble_methods=[method]`.
        console: Console for progress, `False` for none (default: standard error, or the notebook).
        **options: Options of `tercet ensemble`, such as `ensemble_methods=["average", "e2e"]`,
            `fusion={"regime": "frozen"}` for runs, or `labels="truth.csv"` for files.

    Returns:
        For runs, a new run with a bundle; for files, the combined predictions. Both have a `report`.

    Raises:
        ConfigError: A mixture of runs and files, or options that do not apply to them.
        DataError: The inputs do not contain the same samples, splits and classes.
    """
    methods = {} if method is None else {"ensemble_methods": [method]}
    return combine_inputs(inputs, ENSEMBLE.parse_object({**options, **methods}), console=as_console(console))


def combine_inputs(
    inputs: Sequence[str | Path | Predictions], parsed: ParsedArguments, *, console: Console
) -> Run | CombinedPredictions:
    """Combine run folders or prediction files as `combine` does, from parsed options."""
    if not are_files(inputs):
        return run_ensemble([item for item in inputs if not isinstance(item, Predictions)], parsed, console=console)
    config = parsed.of(EnsembleConfig)
    heads = HeadFitter(parsed.of(FusionConfig), config.seed, device=choose_device(config.device))

    def fit_head(members: Sequence[Predictions]) -> tuple[Predictions, Predictions, FusionHead]:
        labelled = [member.take(members[0].known) for member in members]
        sized = replace(heads, fusion=heads.fusion.sized(len(labelled[0])))
        head = sized.fit(labelled)
        return apply_head(head, members), sized.cross_fitted(labelled), head

    return combine_files(inputs, parsed, fit_head=fit_head)


def run_ensemble(runs: Sequence[str | Path], parsed: ParsedArguments, *, console: Console) -> Run:
    """Combine run folders as `combine` does, from parsed options."""
    require_applicable(parsed, files=False)
    config, fusion = parsed.of(EnsembleConfig), parsed.of(FusionConfig)
    device = choose_device(config.device)
    folders = [RunFolder.open(path) for path in {Path(path).resolve(): path for path in runs}.values()]
    for folder in folders:
        if not folder.plan.is_file():
            raise StorageError(f"{folder.path} contains no trained members: give the runs that trained them")
    plans = [Plan.load(folder) for folder in folders]
    _require_same_data(folders, plans)
    if not all(task_of(plan).can_combine_runs for plan in plans):
        raise ConfigError("multi-label members can only be combined within one run: train them with one tercet train")
    methods = DEFAULT_METHODS if config.ensemble_methods is None else config.ensemble_methods
    run_config = RunConfig(ensemble_methods=methods, seed=config.seed, device=config.device, threads=config.threads)
    plan = replace(
        plans[0],
        run=run_config,
        fusion=fusion,
        calibration=parsed.of(CalibrationConfig),
        device=device,
        members=tuple(member for plan in plans for member in plan.members),
    )
    if len(_members(folders, plans)) < 2:
        raise ConfigError("an ensemble needs at least two members: give more runs")
    prepared = plans[0].open_data(folders[0])
    plan = plan.with_default_head(len(prepared.rows("validation")))
    plan.check()
    for folder, source_plan in zip(folders, plans, strict=True):
        if plan.needs_folds():
            _train_folds(folder, source_plan, fusion, prepared, console)
        if "train" in plan.predicted_splits():
            _predict_train(folder, source_plan, prepared, device)
    members = _unique_names(_members(folders, plans))
    run = RunFolder.create(config.output, "ensemble", resumes=False)
    with run.lock():
        run.begin(RunRecord("ensemble", [str(folder.path) for folder in folders], parsed.to_dict()))
        with phase(console, "combining members"):
            results = finalize(run, plan, prepared, members)
        run.write_results(results.metrics, results.report)
    return Run(run.path, results.metrics, results.report)


def _members(folders: Sequence[RunFolder], plans: Sequence[Plan]) -> list[TrainedMember]:
    """Read the members of all runs.

    Raises:
        StorageError: A run is not finished.
    """
    members: list[TrainedMember] = []
    for folder, plan in zip(folders, plans, strict=True):
        names = [member.name for member in plan.members]
        if unfinished := [name for name in names if not folder.member(name).finished()]:
            raise StorageError(
                f"{folder.path} is not finished (member {', '.join(unfinished)}): "
                f"run tercet train --resume {folder.path}"
            )
        if not is_tta_chosen(folder, plan):
            with folder.lock():
                choose_tta(folder, plan)
        members += read_members(folder, names, ("validation", "test", "train"))
    return members


def _require_same_data(folders: Sequence[RunFolder], plans: Sequence[Plan]) -> None:
    for folder, plan in zip(folders[1:], plans[1:], strict=True):
        if plan.fingerprint != plans[0].fingerprint or plan.classes != plans[0].classes:
            raise DataError(
                f"{folder.path} and {folders[0].path} were trained on different data: only runs on the same data can "
                "be combined"
            )
        if Decoding.of(plan.data_config) != Decoding.of(plans[0].data_config):
            raise DataError(
                f"{folder.path} and {folders[0].path} read their images in different ways: train with the same "
                "--data.value-range and --data.truncated"
            )
        if _splits(folder, plan) != _splits(folders[0], plan):
            raise DataError(
                f"{folder.path} and {folders[0].path} have different splits: train with the same --data.split-seed and "
                "fractions"
            )


def _splits(folder: RunFolder, plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return the names of the samples and their splits; runs of older versions have fewer columns besides."""
    table = load_samples(folder.samples, name=plan.data, classes=plan.classes, multilabel=plan.multilabel)
    return table.ids, table.splits


def _train_folds(folder: RunFolder, plan: Plan, fusion: FusionConfig, prepared: DataModule, console: Console) -> None:
    """Train the missing fold members of a run, in its folder."""
    if plan.fusion.folds != fusion.folds:
        raise ConfigError(
            f"{folder.path} was trained with --fusion.folds {plan.fusion.folds}: use the same number of folds"
        )
    jobs = [Job(folder, member.name, fold) for member in plan.members for fold in range(fusion.folds)]
    waiting = [job for job in jobs if not job.folder.finished()]
    if waiting:
        with folder.lock():
            threads = plan_threads(len(waiting), threads=plan.threads, device=plan.device)
            failures = run_jobs(waiting, root=folder, threads=threads, console=console, prepared=prepared)
            raise_failures(failures, folder)


def _predict_train(folder: RunFolder, plan: Plan, prepared: DataModule, device: str) -> None:
    """Store missing predictions of the training rows, in the members' run."""
    with folder.lock():
        for member in plan.members:
            path = folder.predictions(member.name, "train")
            if not path.is_file():
                bundle = load_bundle(folder.member(member.name).bundle)
                source = prepared.loader(prepared.rows("train"), bundle.specs)
                bundle.predict_member_batches(source, device=device)[0].save(path)


def _unique_names(members: Sequence[TrainedMember]) -> list[TrainedMember]:
    """Prefix the names that several members share with their run, and number what is still ambiguous."""
    names = [member.name for member in members]
    titles = [
        f"{member.folder.path.parent.parent.name}/{member.name}" if names.count(member.name) > 1 else member.name
        for member in members
    ]
    numbered = [
        f"{title}-{titles[: index + 1].count(title)}" if titles.count(title) > 1 else title
        for index, title in enumerate(titles)
    ]
    return [replace(member, name=name) for member, name in zip(members, numbered, strict=True)]
