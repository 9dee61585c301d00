"""The main job: from a folder of images to one fused model, measured, in one run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tercet.deploy.bundle import Bundle, load_bundle
from tercet.ground.errors import ConfigError, StorageError
from tercet.ground.files import write_json, write_text
from tercet.ground.runtime import choose_device, describe_environment, plan_threads
from tercet.models.build import check_build, check_images, check_weights
from tercet.records.config import UNCALIBRATED, CalibrationConfig, DataConfig, FusionConfig, MemberConfig, RunConfig
from tercet.records.documents import dump_yaml, read_mapping
from tercet.records.model_config import ModelConfig
from tercet.records.options import Parsed
from tercet.records.training_config import TrainingConfig
from tercet.workflows.options.run import TRAIN
from tercet.workflows.train.conclude import conclude
from tercet.workflows.train.conclude_sets import conclude_sets
from tercet.workflows.train.jobs import planned_jobs, raise_failures, run_jobs
from tercet.workflows.train.label_sets import for_sets
from tercet.workflows.train.member import check_bf16
from tercet.workflows.train.members import default_members, resolve_members
from tercet.workflows.train.plan import Plan
from tercet.workflows.train.pool import JobFailure
from tercet.workflows.train.prepared import PreparedData, held_out_digest, prepare_data
from tercet.workflows.train.progress import say
from tercet.workflows.train.run_folder import RunFolder

DATA_SOURCE = "data_source"
"""How config.yaml names what was trained on, beside the options."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    """The run folder."""
    metrics: Mapping[str, Any]
    """What `metrics.json` holds: data, members, ensembles, the chosen one, the comparison."""
    report: str
    """The report as text."""

    def bundle(self) -> Bundle:
        """Load the chosen model."""
        return load_bundle(self.path / "bundle")


def train(
    source: str | Path | None = None,
    /,
    *,
    resume: str | Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> Run:
    """Train members on images, fuse them, measure everything, and leave a bundle.

    Args:
        source: Folder of images by class, table, zip, or the name of a data set.
        resume: Run folder to go on with, instead of new data and options.
        console: Where to report progress; silent by default.
        **options: Any option of `tercet train`, such as `members=["small-cnn", "row-lstm"]`, `epochs=5`,
            `data={"val_fraction": 0.2}`; dots may also be written as keys, as in `**{"data.val_fraction": 0.2}`.

    Raises:
        TercetError: See `tercet.ground.errors`; a run that was begun can be continued with `resume`.
    """
    parsed = TRAIN.parse_object(options)
    return run_training(source, parsed, resume=resume, console=console or Console(quiet=True))


def run_training(data: str | Path | None, parsed: Parsed, *, resume: str | Path | None, console: Console) -> Run:
    """Begin or continue a run and see it to its end."""
    if resume is not None:
        refuse_changes(data, parsed)
        run = RunFolder.open(resume)
        with run.lock():
            run.remove_unfinished()
            plan, prepared = _reopen(run)
            return _work(run, plan, prepared, console)
    if data is None:
        raise ConfigError("give a folder of images, a table, a zip or the name of a data set, or --resume RUN")
    check_members(parsed)
    run = RunFolder.create(parsed.of(RunConfig).output, Path(str(data)).stem)
    with run.lock():
        options = parsed.to_dict(RunConfig, DataConfig, ModelConfig, TrainingConfig, FusionConfig, CalibrationConfig)
        write_text(run.config, dump_yaml({DATA_SOURCE: str(data), **options}))
        with run.beginning():
            plan, prepared = _begin(run, str(data), parsed)
        return _work(run, plan, prepared, console)


def refuse_changes(data: str | Path | None, parsed: Parsed) -> None:
    """Refuse new data and options beside `resume`.

    Raises:
        ConfigError: There are some.
    """
    ignored = sorted(parsed.given - {"resume", "json", "debug"}) + ([str(data)] if data is not None else [])
    if ignored:
        raise ConfigError(f"--resume goes on as the run was begun; it takes no {', '.join(ignored)}")


def check_members(parsed: Parsed) -> None:
    """Find wrong members before any data is touched.

    Raises:
        ConfigError: A device, network or option cannot be.
        ModelError: Weights cannot be used.
    """
    config = parsed.of(RunConfig)
    choose_device(config.device)
    if config.members:
        for member in resolve(config.members, parsed):
            check_weights(member.network, member.model)
            check_build(member.network, member.model)


def resolve(members: Sequence[Any], parsed: Parsed) -> tuple[MemberConfig, ...]:
    """Resolve members with the options of a run; see `resolve_members`."""
    return resolve_members(members, parsed.of(ModelConfig), parsed.of(TrainingConfig))


def _begin(run: RunFolder, data: str, parsed: Parsed) -> tuple[Plan, PreparedData]:
    config = parsed.of(RunConfig)
    write_json(run.path / "environment.json", describe_environment())
    prepared = prepare_data(data, parsed.of(DataConfig), sets=True)
    members = resolve(config.members or default_members(prepared.image_size), parsed)
    plan = make_plan(
        data,
        prepared,
        parsed.of(DataConfig),
        parsed.of(FusionConfig),
        config,
        members,
        calibration=parsed.of(CalibrationConfig),
    )
    lay_out(run, plan, prepared)
    return plan, prepared


def make_plan(
    data: str,
    prepared: PreparedData,
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
        data: What the user named.
        prepared: The data, divided.
        data_config: How they were divided.
        fusion: How the members are fused.
        config: What the run does beside.
        members: The members, resolved.
        trainings: How many trainings share the cores (default: one a member).
        calibration: How what is chosen is calibrated (default: not at all).

    Raises:
        ConfigError: The device is not there, it cannot compute a member in bf16, a member cannot read the images, or
            the members are chosen by different rules.
    """
    device = choose_device(config.device)
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
        notes=(*prepared.table.notes, *(f"unreadable: {image}" for image in prepared.bad)),
        sets=prepared.table.membership is not None,
        calibration=calibration,
    )
    plan = for_sets(plan) if plan.sets else plan
    plan.check()
    check_bf16(plan, prepared)
    return plan


def lay_out(run: RunFolder, plan: Plan, prepared: PreparedData) -> None:
    """Write the data and the plan into the run folder, for every process that works on it and for a resume."""
    lay_out_data(run, prepared)
    plan.save(run)  # last: a run with a plan has all it needs


def lay_out_data(run: RunFolder, prepared: PreparedData) -> None:
    """Write the data into a run's folder, or into one that several runs share."""
    prepared.table.save(run.samples)
    prepared.store.save(run.images)
    write_json(run.path / "unreadable.json", [image.__dict__ for image in prepared.bad])


def _reopen(run: RunFolder) -> tuple[Plan, PreparedData]:
    stored = read_mapping(run.config)
    if DATA_SOURCE not in stored:
        raise StorageError(
            f"{run.path} holds fused or compared members, or folds, not a training that `train` could continue "
            "(folds go on with tercet crossval --resume)"
        )
    if not run.plan.is_file():
        data = stored.pop(DATA_SOURCE)
        return _begin(run, data, TRAIN.parse_object(stored, source=str(run.config)))
    plan = Plan.load(run)
    return plan, plan.open_data(run)


def _work(run: RunFolder, plan: Plan, prepared: PreparedData, console: Console) -> Run:
    """Train what is not trained yet, fuse, report."""
    raise_failures(train_waiting(run, plan, prepared, console), run)
    conclusion = conclude_sets(run, plan) if plan.sets else conclude(run, plan, prepared)
    return Run(run.path, conclusion.metrics, conclusion.report)


def train_waiting(run: RunFolder, plan: Plan, prepared: PreparedData, console: Console) -> list[JobFailure]:
    """Run the trainings of a run that are not finished yet; return the ones that failed.

    Raises:
        Interrupted: A signal came; every training has saved itself.
    """
    waiting = [job for job in planned_jobs(run, plan) if not job.folder.finished()]
    if not waiting:
        return []
    threads = plan_threads(len(waiting), threads=plan.threads, device=plan.device)  # a resume goes on as it began
    counts = ", ".join(f"{len(prepared.rows(split))} {split}" for split in ("train", "validation", "test"))
    say(console, f"{plan.data}: {len(prepared.table.classes)} classes; {counts} images")
    for note in plan.notes[:10]:
        say(console, f"left out: {note}")
    say(console, f"{len(waiting)} training(s) on {plan.device}: {threads}")
    return run_jobs(waiting, whole=run, threads=threads, console=console, prepared=prepared)
