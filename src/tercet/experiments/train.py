"""Train members and combine them: the train and demo commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tercet.config.commands import TRAIN
from tercet.config.model import ModelConfig
from tercet.config.parser import ParsedArguments
from tercet.config.run import UNCALIBRATED, CalibrationConfig, DataConfig, FusionConfig, MemberConfig, RunConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError, StorageError
from tercet.core.files import write_json, write_text
from tercet.core.progress import print_status
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import choose_device, describe_environment, plan_threads
from tercet.core.yaml_io import dump_yaml, read_mapping
from tercet.data.data_module import DataModule, held_out_digest, prepare_data
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.experiments.finalize import finalize
from tercet.experiments.finalize_multilabel import finalize_multilabel
from tercet.experiments.jobs import planned_jobs, raise_failures, run_jobs
from tercet.experiments.member import check_bf16
from tercet.experiments.multilabel import is_multilabel
from tercet.experiments.plan import Plan
from tercet.experiments.pool import FailedJob
from tercet.models.build import check_build, check_images, check_weights
from tercet.models.members import default_members, resolve_members

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
        TercetError: See `tercet.core.errors`; a run that was begun can be continued with `resume`.
    """
    parsed = TRAIN.parse_object(options)
    return run_training(source, parsed, resume=resume, console=console or Console(quiet=True))


def run_training(
    data: str | Path | None, parsed: ParsedArguments, *, resume: str | Path | None, console: Console
) -> Run:
    """Begin or continue a run and see it to its end."""
    if resume is not None:
        check_unchanged(data, parsed)
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
        with run.delete_if_invalid():
            plan, prepared = _begin(run, str(data), parsed)
        return _work(run, plan, prepared, console)


def check_unchanged(data: str | Path | None, parsed: ParsedArguments) -> None:
    """Refuse new data and options beside `resume`.

    Raises:
        ConfigError: There are some.
    """
    ignored = sorted(parsed.given - {"resume", "json", "debug"}) + ([str(data)] if data is not None else [])
    if ignored:
        raise ConfigError(f"--resume goes on as the run was begun; it takes no {', '.join(ignored)}")


def check_members(parsed: ParsedArguments) -> None:
    """Find wrong members before any data is touched.

    Raises:
        ConfigError: A device, network or option cannot be.
        ModelError: Weights cannot be used.
    """
    config = parsed.of(RunConfig)
    choose_device(config.device)
    if config.members:
        for member in resolve_config(config.members, parsed):
            check_weights(member.network, member.model)
            check_build(member.network, member.model)


def resolve_config(members: Sequence[Any], parsed: ParsedArguments) -> tuple[MemberConfig, ...]:
    """Resolve members with the options of a run; see `resolve_members`."""
    return resolve_members(members, parsed.of(ModelConfig), parsed.of(TrainingConfig))


def _begin(run: RunFolder, data: str, parsed: ParsedArguments) -> tuple[Plan, DataModule]:
    config = parsed.of(RunConfig)
    write_json(run.path / "environment.json", describe_environment())
    prepared = prepare_data(data, parsed.of(DataConfig), multilabel=True)
    members = resolve_config(config.members or default_members(prepared.image_size), parsed)
    plan = make_plan(
        data,
        prepared,
        parsed.of(DataConfig),
        parsed.of(FusionConfig),
        config,
        members,
        calibration=parsed.of(CalibrationConfig),
    )
    write_run(run, plan, prepared)
    return plan, prepared


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
    plan = is_multilabel(plan) if plan.sets else plan
    plan.check()
    check_bf16(plan, prepared)
    return plan


def write_run(run: RunFolder, plan: Plan, prepared: DataModule) -> None:
    """Write the data and the plan into the run folder, for every process that works on it and for a resume."""
    write_data(run, prepared)
    plan.save(run)  # last: a run with a plan has all it needs


def write_data(run: RunFolder, prepared: DataModule) -> None:
    """Write the data into a run's folder, or into one that several runs share."""
    prepared.table.save(run.samples)
    prepared.images.save(run.images)
    write_json(run.path / "unreadable.json", [image.__dict__ for image in prepared.bad])


def _reopen(run: RunFolder) -> tuple[Plan, DataModule]:
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


def _work(run: RunFolder, plan: Plan, prepared: DataModule, console: Console) -> Run:
    """Train what is not trained yet, fuse, report."""
    raise_failures(train_waiting(run, plan, prepared, console), run)
    conclusion = finalize_multilabel(run, plan) if plan.sets else finalize(run, plan, prepared)
    return Run(run.path, conclusion.metrics, conclusion.report)


def train_waiting(run: RunFolder, plan: Plan, prepared: DataModule, console: Console) -> list[FailedJob]:
    """Run the trainings of a run that are not finished yet; return the ones that failed.

    Raises:
        Interrupted: A signal came; every training has saved itself.
    """
    waiting = [job for job in planned_jobs(run, plan) if not job.folder.finished()]
    if not waiting:
        return []
    threads = plan_threads(len(waiting), threads=plan.threads, device=plan.device)  # a resume goes on as it began
    counts = ", ".join(f"{len(prepared.rows(split))} {split}" for split in ("train", "validation", "test"))
    print_status(console, f"{plan.data}: {len(prepared.table.classes)} classes; {counts} images")
    for note in plan.notes[:10]:
        print_status(console, f"left out: {note}")
    print_status(console, f"{len(waiting)} training(s) on {plan.device}: {threads}")
    return run_jobs(waiting, whole=run, threads=threads, console=console, prepared=prepared)


MEMBERS = (
    {"model": "small-cnn", "epochs": 30, "augment": "light"},
    {"model": "row-lstm", "epochs": 60, "augment": "light"},
    {"model": "test_resnet", "pretrained": False, "input.size": [32], "epochs": 20, "augment": "light"},
)
"""A small CNN, an LSTM that reads the image row by row, and a residual network."""


def demo(*, output: str | None = None, console: Console | None = None) -> Run:
    """Train and fuse the demonstration's members on scikit-learn's digits; no download, one fixed split and seed.

    Args:
        output: Run folder (default: the next free one under runs/).
        console: Where to report progress; silent by default.
    """
    options = {"members": list(MEMBERS), "lr": 2e-3, "schedule": "cosine", "output": output}
    return run_training("digits", TRAIN.parse_object(options), resume=None, console=console or Console(quiet=True))
