"""The folder of a cross-validation: one table, one store of decoded images, and a run a fold.

CV/
  config.yaml  environment.json  samples.csv  images/  folds.json     what was asked, where, of what
  folds/1/ folds/2/ ...                                               runs; the fold they hold out is their test split
  predictions/{NAME,METHOD,chosen}-pooled.npz  predictions/fold-mean-{validation,test}.npz
  metrics.json  report.txt  bundle/                                   what came out
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from tercet.config.model import ModelConfig
from tercet.config.parser import ParsedArguments
from tercet.config.run import UNCALIBRATED, CalibrationConfig, DataConfig, FusionConfig, MemberConfig, RunConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import raise_problems
from tercet.core.files import read_json, write_json, write_text
from tercet.core.registry import did_you_mean
from tercet.core.run_folder import RunFolder
from tercet.core.yaml_io import dump_yaml
from tercet.data.data_module import DataModule
from tercet.data.folds import FoldPlan
from tercet.data.run_reader import CHOSEN
from tercet.data.splits import require_rows
from tercet.experiments.plan import Plan
from tercet.experiments.train import DATA_SOURCE, make_plan

_SHARED_IMAGES = "../../images"  # seen from a fold's run


@dataclass(frozen=True)
class FoldRun:
    """One fold: the run that holds it out."""

    name: str
    """Its number, or the group that it holds out."""
    run: RunFolder
    """The run."""
    unlearned: tuple[str, ...] = ()
    """Classes that no other fold shows."""

    @cached_property
    def plan(self) -> Plan:
        """What the run does."""
        return Plan.load(self.run)

    @property
    def title(self) -> str:
        """What the fold is called in sentences."""
        return f"fold {self.name}"

    def concluded(self) -> bool:
        """Tell whether the fold has its report, which is written last."""
        return self.run.report.is_file()


@dataclass(frozen=True)
class FoldRuns:
    """All folds of a cross-validation."""

    whole: RunFolder
    """The folder that holds them."""
    how: str
    """How the folds were made."""
    folds: tuple[FoldRun, ...]
    """In order."""
    calibration: CalibrationConfig = UNCALIBRATED
    """How their mean is calibrated, where images were kept for that."""

    @property
    def plan(self) -> Plan:
        """The first fold's plan, for what all have alike: the data, the device, the ways to fuse, what chooses."""
        return self.folds[0].plan

    def save(self) -> None:
        """Write the list of folds."""
        folds = [{"name": fold.name, "unlearned": list(fold.unlearned)} for fold in self.folds]
        document = {"how": self.how, "folds": folds, "calibration": asdict(self.calibration)}
        write_json(_list_of(self.whole), document)

    @classmethod
    def load(cls, whole: RunFolder) -> FoldRuns | None:
        """Read the list of folds; None where the cross-validation was stopped before it had one."""
        if not _list_of(whole).is_file():
            return None
        values = read_json(_list_of(whole))
        folds = tuple(
            FoldRun(fold["name"], fold_folder(whole, number), tuple(fold["unlearned"]))
            for number, fold in enumerate(values["folds"], 1)
        )
        given = values.get("calibration")  # absent in those from before there was any
        return cls(whole, values["how"], folds, CalibrationConfig(**given) if given else UNCALIBRATED)


def _list_of(whole: RunFolder) -> Path:
    return whole.path / "folds.json"


def fold_folder(whole: RunFolder, number: int) -> RunFolder:
    """Return the run of a fold; they are numbered, as names may be no names of folders."""
    return RunFolder(whole.path / "folds" / str(number))


def members_by_fold(
    members: Sequence[MemberConfig], folds: Sequence[str], wanted: Sequence[str]
) -> dict[str, tuple[MemberConfig, ...]]:
    """Return the members that each fold trains.

    Args:
        members: All members.
        folds: The folds' names.
        wanted: `MEMBER=FOLD+FOLD`: the folds of a member that is not trained in all.

    Raises:
        ConfigError: A member or a fold does not exist, or a fold has no member.
    """
    names = [member.name for member in members]
    limits: dict[str, list[str]] = {}
    problems: list[str] = []
    for text in wanted:
        name, _, listed = text.rpartition("=")
        if name not in names:
            problems.append(
                f"fold_members: no member '{name}'{did_you_mean(name, names)} (there are: {', '.join(names)})"
            )
        elif name in limits:
            problems.append(f"fold_members names '{name}' twice")
        limits[name] = listed.split("+")
        problems += [
            f"fold_members: no fold '{fold}'{did_you_mean(fold, folds)} (there are: {', '.join(folds)})"
            for fold in limits[name]
            if fold not in folds
        ]
    chosen = {fold: tuple(member for member in members if fold in limits.get(member.name, folds)) for fold in folds}
    problems += [f"fold_members leave no member for fold {fold}" for fold, some in chosen.items() if not some]
    problems += [f"a member of a cross-validation cannot have the name '{CHOSEN}'"] if CHOSEN in names else []
    raise_problems(problems)
    return chosen


def plan_folds(
    whole: RunFolder,
    data: str,
    options: ParsedArguments,
    prepared: DataModule,
    division: FoldPlan,
    members: Mapping[str, tuple[MemberConfig, ...]],
) -> list[tuple[FoldRun, Plan, DataModule]]:
    """Return each fold's run, what it will do, and its data; nothing is written yet.

    Raises:
        ConfigError: Members are chosen by different rules.
        DataError: A fold leaves too little to train on or to choose with.
    """
    trainings = sum(map(len, members.values()))
    planned = []
    for number, fold in enumerate(division.folds, 1):
        divided = replace(prepared, table=division.fold_table(fold, options.of(DataConfig)))
        require_rows(divided.table)
        plan = make_plan(
            data,
            divided,
            options.of(DataConfig),
            options.of(FusionConfig),
            options.of(RunConfig),
            members[fold.name],
            trainings=trainings,
        )
        run = FoldRun(fold.name, fold_folder(whole, number), division.unlearned(fold))
        planned.append((run, replace(plan, images=_SHARED_IMAGES), divided))
    replace(plan, members=tuple(member for some in members.values() for member in some)).check()
    return planned


def write_fold(fold: FoldRun, plan: Plan, divided: DataModule, options: ParsedArguments) -> None:
    """Write what a fold's run needs; the configuration last, as only a folder that has one is a run."""
    values = options.to_dict(RunConfig, DataConfig, ModelConfig, TrainingConfig, FusionConfig)
    divided.table.save(fold.run.samples)
    plan.save(fold.run)
    write_text(fold.run.config, dump_yaml({DATA_SOURCE: plan.data, "fold": fold.name, **values}))
