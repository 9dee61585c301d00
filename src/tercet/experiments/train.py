"""Train members and combine them: the train and demo commands."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from rich.console import Console

from tercet.config.commands import TRAIN, TestPredictionConfig
from tercet.config.model import ModelConfig
from tercet.config.option_types import TrainOptions
from tercet.config.parser import ParsedArguments
from tercet.config.presets import LadderConfig, PresetConfig, has_stages
from tercet.config.run import UNCALIBRATED, CalibrationConfig, DataConfig, FusionConfig, MemberConfig, RunConfig
from tercet.config.training import TrainingConfig
from tercet.core.files import write_json
from tercet.core.progress import as_console, phase
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import choose_device, plan_threads
from tercet.data.data_module import DataModule, held_out_digest, prepare_data
from tercet.data.in_memory import DataLike
from tercet.data.readers.scan import skipped_documents
from tercet.experiments.custom_parts import custom_parts
from tercet.experiments.experiment import Experiment, Result, run_experiment
from tercet.experiments.jobs import raise_failures, train_waiting
from tercet.experiments.ladder import Ladder
from tercet.experiments.ladder_plan import check_limits, climbs, first_rung, plan_rungs, with_preset_head
from tercet.experiments.plan import Plan
from tercet.experiments.results import RunResult
from tercet.experiments.task import task_of
from tercet.experiments.test_predictions import predict_test, require_test_images
from tercet.experiments.training_checks import check_trainings
from tercet.models.build import check_build, check_images
from tercet.models.members import PHOTOS, Recipe, default_members, resolve_members
from tercet.models.weight_check import check_weights

_DEMO: dict[str, Any] = {"preset": "best", "patience": 5}  # shorter than by default: two minutes on two cores


class Run(RunResult):
    """A finished run: data, members, ensembles, the chosen model, its comparison with the best member."""


def train(
    source: DataLike = None,
    /,
    *,
    resume: str | Path | None = None,
    console: Console | bool | None = None,
    **options: Unpack[TrainOptions],
) -> Run:
    """Train members, combine them, evaluate all, and save the best model as a bundle.

    Args:
        source: Folder with one subfolder per class, table, zip file, name of a data set; or Python objects, such as
            `(images, labels)`, a DataFrame or a Dataset.
        resume: Folder of an interrupted run to continue, instead of `source` and options.
        console: Console for progress, `False` for none (default: standard error, or the notebook).
        **options: Options of `tercet train`, such as `members=["small-cnn", "row-lstm"]`, `epochs=5`,
            `data={"val_fraction": 0.2}` or, equivalently, `**{"data.val_fraction": 0.2}`.

    Raises:
        TercetError: See `tercet.core.errors`; continue an interrupted run with `resume`.
    """
    with custom_parts(options, resume=resume) as named:
        parsed = TRAIN.parse_object(named)
        return run_training(source, parsed, resume=resume, console=as_console(console))


def probe(
    source: DataLike = None,
    /,
    *,
    resume: str | Path | None = None,
    console: Console | bool | None = None,
    **options: Unpack[TrainOptions],
) -> Run:
    """Fit a logistic regression on the features of a pretrained network: a measured classifier within a minute.

    It is `train(..., head="logistic")` with one member by default, and takes the same arguments.

    Raises:
        TercetError: See `tercet.core.errors`.
    """
    with custom_parts(options, resume=resume) as named:
        return run_probe(source, TRAIN.parse_object(named), resume=resume, console=as_console(console))


def run_probe(data: DataLike, parsed: ParsedArguments, *, resume: str | Path | None, console: Console) -> Run:
    """Start or continue a run, as `probe` does, from parsed options."""
    if resume is None:
        parsed = parsed.replace(PresetConfig("fast"))
    return run_training(data, parsed, resume=resume, console=console)


class PlannedExperiment(Experiment[tuple[Plan, DataModule], Result]):
    """An experiment whose trainings share one plan and one set of images."""

    def reopen(self, run: RunFolder) -> tuple[Plan, DataModule] | None:
        """Read plan and data."""
        if not run.plan.is_file():
            return None
        plan = Plan.load(run)
        return plan, plan.open_data(run)


class Training(PlannedExperiment[Run]):
    """Training of members, and their combination."""

    command = "train"
    options = TRAIN
    changeable = frozenset({"time_budget", "stop_at", "predict_test"})

    def check(self) -> None:
        """Check device and members."""
        check_limits(self.parsed)
        check_members(self.parsed)

    def reopen(self, run: RunFolder) -> tuple[Plan, DataModule] | None:
        """Read plan and data."""
        check_limits(self.parsed)  # a resume may change them
        return super().reopen(run)

    def prepare(self, run: RunFolder) -> tuple[Plan, DataModule]:
        """Read the data and plan the members."""
        started = time.monotonic()
        parsed, config = self.parsed, self.parsed.of(RunConfig)
        prepared = prepare_data(self.source, parsed.of(DataConfig), multilabel=True)
        if parsed.of(TestPredictionConfig).predict_test:
            require_test_images(prepared.table)
        rungs = plan_rungs(parsed, prepared) if climbs(parsed) else ()
        members = tuple(member for rung in rungs for member in rung.members) or preset_members(parsed, prepared)
        plan = make_plan(
            str(self.source),
            prepared,
            parsed.of(DataConfig),
            parsed.of(FusionConfig),
            config,
            members,
            calibration=parsed.of(CalibrationConfig),
        )
        if rungs:
            plan = first_rung(replace(plan, started=started), rungs, prepared, parsed.of(LadderConfig))
        write_run(run, plan, prepared)
        return plan, prepared

    def work(self, run: RunFolder, state: tuple[Plan, DataModule], console: Console) -> Run:
        """Train the members, combine them, and predict the unlabelled test images if requested."""
        result = self._train(run, *state, console)
        if not self.parsed.of(TestPredictionConfig).predict_test:
            return result
        plan, _ = state
        with phase(console, "predicting the unlabelled test images"):
            lines = predict_test(run, result.bundle(), self.source, plan.data_config, device=plan.device)
        return replace(result, report="\n".join([result.report, *lines]))

    def _train(self, run: RunFolder, plan: Plan, prepared: DataModule, console: Console) -> Run:
        if plan.rung is not None:
            config, preset = self.parsed.of(LadderConfig), self.parsed.of(PresetConfig).preset
            complete = preset == "best" or bool(self.parsed.of(RunConfig).members)  # named ones are all trained
            return Run(run.path, *Ladder(run, plan, prepared, config, complete, console).climb())
        raise_failures(train_waiting(run, plan, prepared, console), run)
        with phase(console, "combining members"):
            return Run(run.path, *task_of(plan).finalize(run, plan, prepared))


run_training = partial(run_experiment, Training)
"""Starts or continues a run, as `train` does, from parsed options."""


def check_members(parsed: ParsedArguments) -> None:
    """Check members before any data are read.

    Raises:
        ConfigError: Invalid device, network or option.
        ModelError: Weights cannot be loaded.
    """
    parsed, config = with_preset_head(parsed), parsed.of(RunConfig)
    choose_device(config.device)
    named = config.members
    if not named and parsed.of(ModelConfig).weights is not None and not has_stages(parsed.of(TrainingConfig)):
        named = PHOTOS[:1]  # a file has the weights of one network
    if named:
        members = resolve_config(named, parsed)
        check_weights(members)
        for member in members:
            check_build(member.network, member.model)


def preset_members(parsed: ParsedArguments, prepared: DataModule) -> tuple[MemberConfig, ...]:
    """Return the members of a run that trains all at once: the named ones, or those of the preset.

    Of the ladder, the preset good has the probe and one network.
    """
    parsed, config = with_preset_head(parsed), parsed.of(RunConfig)
    if config.members or not climbs(parsed):
        members = config.members or default_members(prepared.image_size, parsed.of(ModelConfig))
        return resolve_config(members, parsed, prepared)
    rungs = plan_rungs(parsed, prepared)
    best = parsed.of(PresetConfig).preset == "best"
    return tuple(member for rung in rungs if best or rung.name != "ensemble" for member in rung.members)


def resolve_config(
    members: Sequence[Any], parsed: ParsedArguments, prepared: DataModule | None = None
) -> tuple[MemberConfig, ...]:
    """Resolve members with the run's options; see `resolve_members`."""
    multilabel = prepared is not None and prepared.table.membership is not None
    recipe = Recipe(parsed.of(PresetConfig).preset, parsed.given, multilabel)
    return resolve_members(members, parsed.of(ModelConfig), parsed.of(TrainingConfig), recipe)


def make_plan(
    data: str,
    prepared: DataModule,
    data_config: DataConfig,
    fusion: FusionConfig,
    config: RunConfig,
    members: tuple[MemberConfig, ...],
    *,
    trainings: int | None = None,
    calibration: CalibrationConfig = UNCALIBRATED,
) -> Plan:
    """Return the plan of a run on prepared data.

    Args:
        data: Data source as the user named it.
        prepared: The data with their splits.
        data_config: Options that produced them.
        fusion: Options of the fusion head.
        config: Other options of the run.
        members: Resolved members.
        trainings: Number of trainings that share the cores (default: one per member).
        calibration: Calibration of the chosen model (default: none).

    Raises:
        ConfigError: The device is not available or cannot compute a member in bf16, a member does not accept the
            images, or the options contradict each other (see `Plan.check`).
    """
    device = choose_device(config.device)
    check_weights(members)  # those of default members are known only now
    for member in members:
        check_images(member.network, member.model, channels=prepared.channels, image_size=prepared.image_size)
    plan = Plan(
        data=data,
        data_config=data_config,
        fusion=fusion,
        run=config,
        members=members,
        device=device,
        threads=plan_threads(trainings or len(members), threads=config.threads, device=device).threads,
        channels=prepared.channels,
        image_size=prepared.image_size,
        fingerprint=prepared.fingerprint,
        classes=prepared.table.classes,
        held_out=held_out_digest(prepared.table),
        notes=(*_layout_note(prepared), *prepared.table.notes, *(f"unreadable: {image}" for image in prepared.bad)),
        multilabel=prepared.table.membership is not None,
        calibration=calibration,
    )
    plan = task_of(plan).adapt(plan).with_default_head(len(prepared.rows("validation")))
    plan.check()
    check_trainings(plan, prepared)
    return plan


def _layout_note(prepared: DataModule) -> tuple[str, ...]:
    return (f"layout: {prepared.table.layout}",) if prepared.table.layout else ()


def write_run(run: RunFolder, plan: Plan, prepared: DataModule) -> None:
    """Write data and plan into the run folder, for child processes and for a resume."""
    write_data(run, prepared)
    plan.save(run)  # last: a run with a plan is complete


def write_data(run: RunFolder, prepared: DataModule) -> None:
    """Write samples and decoded images into the folder of a run, or one that several runs share."""
    prepared.table.save(run.samples)
    prepared.images.save(run.images)
    write_json(run.path / "unreadable.json", [image.__dict__ for image in prepared.bad])
    write_json(run.path / "skipped.json", skipped_documents(prepared.table.skipped))


def demo(*, output: str | None = None, console: Console | bool | None = None) -> Run:
    """Climb the ladder on scikit-learn's digits, without download: their pixels, a small network, three of them.

    Args:
        output: Run folder (default: the next free one under runs/).
        console: Console for progress, `False` for none (default: standard error, or the notebook).
    """
    options = TRAIN.parse_object({**_DEMO, "output": output})
    return run_training("digits", options, resume=None, console=as_console(console))
