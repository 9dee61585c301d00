"""Train members and combine them: the train and demo commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from tercet.core.registry import PARTS
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import ThreadPlan, choose_device, describe_environment, plan_threads
from tercet.core.yaml_io import dump_yaml, read_mapping
from tercet.data.data_module import DataModule, held_out_digest, prepare_data
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.experiments.custom_parts import custom_parts
from tercet.experiments.finalize import finalize
from tercet.experiments.finalize_multilabel import finalize_multilabel
from tercet.experiments.jobs import planned_jobs, raise_failures, run_jobs
from tercet.experiments.member import check_trainings
from tercet.experiments.multilabel import adapt_plan
from tercet.experiments.plan import Plan
from tercet.experiments.pool import FailedJob
from tercet.models.build import check_build, check_images, check_weights
from tercet.models.members import default_members, resolve_members

DATA_SOURCE = "data_source"
"""Key of the data source in config.yaml."""
_DEMO_MEMBERS = (
    {"model": "small-cnn", "epochs": 30, "augment": "light"},
    {"model": "row-lstm", "epochs": 60, "augment": "light"},
    {"model": "test_resnet", "pretrained": False, "input.size": [32], "epochs": 20, "augment": "light"},
)


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    metrics: Mapping[str, Any]
    """Content of `metrics.json`: data, members, ensembles, the chosen model, its comparison with the best member."""
    report: str
    modules: Mapping[str, Any] = field(default_factory=PARTS["network"].custom, repr=False, compare=False)
    """Networks of the caller's that it was trained with, by name."""

    def bundle(self) -> Bundle:
        """Load the chosen model."""
        return load_bundle(self.path / "bundle", modules=self.modules)


def train(
    source: str | Path | None = None,
    /,
    *,
    resume: str | Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> Run:
    """Train members, combine them, evaluate all, and save the best model as a bundle.

    Args:
        source: Folder with one subfolder per class, table, zip file, or name of a data set.
        resume: Folder of an interrupted run to continue, instead of `source` and options.
        console: Console for progress; silent by default.
        **options: Options of `tercet train`, such as `members=["small-cnn", "row-lstm"]`, `epochs=5`,
            `data={"val_fraction": 0.2}` or, equivalently, `**{"data.val_fraction": 0.2}`.

    Raises:
        TercetError: See `tercet.core.errors`; continue an interrupted run with `resume`.
    """
    with custom_parts(options, resume=resume) as named:
        parsed = TRAIN.parse_object(named)
        return run_training(source, parsed, resume=resume, console=console or Console(quiet=True))


def run_training(
    data: str | Path | None, parsed: ParsedArguments, *, resume: str | Path | None, console: Console
) -> Run:
    """Start or continue a run, as `train` does, from parsed options."""
    if resume is not None:
        check_unchanged(data, parsed)
        run = RunFolder.open(resume)
        with run.lock():
            run.remove_unfinished()
            plan, prepared = _reopen(run)
            return _work(run, plan, prepared, console)
    if data is None:
        raise ConfigError("give a folder of images, a table, a zip file or the name of a data set, or --resume RUN")
    check_members(parsed)
    run = RunFolder.create(parsed.of(RunConfig).output, Path(str(data)).stem)
    with run.lock():
        options = parsed.to_dict(RunConfig, DataConfig, ModelConfig, TrainingConfig, FusionConfig, CalibrationConfig)
        write_text(run.config, dump_yaml({DATA_SOURCE: str(data), **options}))
        with run.delete_if_invalid():
            plan, prepared = _begin(run, str(data), parsed)
        return _work(run, plan, prepared, console)


def check_unchanged(data: str | Path | None, parsed: ParsedArguments) -> None:
    """Check that `resume` is not combined with data or options.

    Raises:
        ConfigError: It is.
    """
    ignored = sorted(parsed.given - {"resume", "json", "debug"}) + ([str(data)] if data is not None else [])
    if ignored:
        raise ConfigError(f"--resume continues with the options of the run: remove {', '.join(ignored)}")


def check_members(parsed: ParsedArguments) -> None:
    """Check members before any data are read.

    Raises:
        ConfigError: Invalid device, network or option.
        ModelError: Weights cannot be loaded.
    """
    config = parsed.of(RunConfig)
    choose_device(config.device)
    if config.members:
        for member in resolve_config(config.members, parsed):
            check_weights(member.network, member.model)
            check_build(member.network, member.model)


def resolve_config(members: Sequence[Any], parsed: ParsedArguments) -> tuple[MemberConfig, ...]:
    """Resolve members with the run's options; see `resolve_members`."""
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
        multilabel=prepared.table.membership is not None,
        calibration=calibration,
    )
    plan = adapt_plan(plan) if plan.multilabel else plan
    plan.check()
    check_trainings(plan, prepared)
    return plan


def write_run(run: RunFolder, plan: Plan, prepared: DataModule) -> None:
    """Write data and plan into the run folder, for child processes and for a resume."""
    write_data(run, prepared)
    plan.save(run)  # last: a run with a plan is complete


def write_data(run: RunFolder, prepared: DataModule) -> None:
    """Write samples and decoded images into the folder of a run, or one that several runs share."""
    prepared.table.save(run.samples)
    prepared.images.save(run.images)
    write_json(run.path / "unreadable.json", [image.__dict__ for image in prepared.bad])


def _reopen(run: RunFolder) -> tuple[Plan, DataModule]:
    stored = read_mapping(run.config)
    if DATA_SOURCE not in stored:
        raise StorageError(
            f"{run.path} was not created by tercet train; continue a cross-validation with tercet crossval --resume"
        )
    if not run.plan.is_file():
        data = stored.pop(DATA_SOURCE)
        return _begin(run, data, TRAIN.parse_object(stored, source=str(run.config)))
    plan = Plan.load(run)
    return plan, plan.open_data(run)


def _work(run: RunFolder, plan: Plan, prepared: DataModule, console: Console) -> Run:
    raise_failures(train_waiting(run, plan, prepared, console), run)
    results = finalize_multilabel(run, plan) if plan.multilabel else finalize(run, plan, prepared)
    return Run(run.path, results.metrics, results.report)


def train_waiting(run: RunFolder, plan: Plan, prepared: DataModule, console: Console) -> list[FailedJob]:
    """Run the unfinished trainings of a run; return the ones that failed.

    Raises:
        Interrupted: A signal arrived; every training has saved a checkpoint.
    """
    waiting = [job for job in planned_jobs(run, plan) if not job.folder.finished()]
    if not waiting:
        return []
    threads = plan_threads(len(waiting), threads=plan.threads, device=plan.device)  # a resume keeps its number
    counts = ", ".join(f"{len(prepared.rows(split))} {split}" for split in ("train", "validation", "test"))
    print_start(console, plan, f"{counts} images", waiting=len(waiting), threads=threads)
    return run_jobs(waiting, root=run, threads=threads, console=console, prepared=prepared)


def print_start(console: Console, plan: Plan, details: str, *, waiting: int, threads: ThreadPlan) -> None:
    """Print data, skipped files and resources before training starts."""
    classes = count_noun(len(plan.classes), "label" if plan.multilabel else "class")
    print_status(console, f"{plan.data}: {classes}; {details}")
    for note in plan.notes[:10]:
        print_status(console, f"data: {note}")
    if len(plan.notes) > 10:
        print_status(console, f"data: ... and {len(plan.notes) - 10} more (see metrics.json)")
    print_status(console, f"{count_noun(waiting, 'training')} on {plan.device}: {threads}")


def count_noun(count: int, noun: str) -> str:
    """Return a count with its noun in singular or plural."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def demo(*, output: str | None = None, console: Console | None = None) -> Run:
    """Train and combine the members of the demo on scikit-learn's digits, without download, with fixed split and seed.

    Args:
        output: Run folder (default: the next free one under runs/).
        console: Console for progress; silent by default.
    """
    options = {"members": list(_DEMO_MEMBERS), "lr": 2e-3, "schedule": "cosine", "output": output}
    return run_training("digits", TRAIN.parse_object(options), resume=None, console=console or Console(quiet=True))
