"""Folder of a cross-validation: shared samples and decoded images, and one run per fold.

CV/
  run.json  environment.json  samples.csv  images/  folds.json        inputs
  folds/1/ folds/2/ ...                                               runs; their test split is the held-out fold
  predictions/{NAME,METHOD,chosen}-pooled.npz  predictions/fold-mean-{validation,test}.npz
  metrics.json  report.txt  bundle/                                   results
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
from tercet.core.files import read_json, write_json
from tercet.core.registry import did_you_mean
from tercet.core.run_folder import RunFolder, RunRecord
from tercet.data.data_module import DataModule
from tercet.data.folds import FoldPlan
from tercet.data.run_reader import CHOSEN
from tercet.data.splits import require_rows
from tercet.experiments.plan import Plan
from tercet.experiments.train import make_plan

SHARED_IMAGES = "../../images"
"""Images of a folder of runs, relative to one of its runs."""


@dataclass(frozen=True)
class FoldRun:
    """One fold and the run that holds it out."""

    name: str
    """Its number, or the group that it holds out."""
    run: RunFolder
    unlearned: tuple[str, ...] = ()
    """Classes that occur in no other fold."""

    @cached_property
    def plan(self) -> Plan:
        """Plan of the run."""
        return Plan.load(self.run)

    @property
    def title(self) -> str:
        """Name in messages and tables."""
        return f"fold {self.name}"

    def finalized(self) -> bool:
        """Whether the fold has its report, which is written last."""
        return self.run.report.is_file()

    def unlearned_note(self) -> str:
        """Return a warning about the classes that occur in no other fold."""
        classes = ", ".join(self.unlearned)
        return f"{self.title} has the only images of {classes}: the models that hold it out cannot predict them"


@dataclass(frozen=True)
class FoldRuns:
    """All folds of a cross-validation."""

    root: RunFolder
    """Folder of the cross-validation."""
    how: str
    """How the folds were made."""
    folds: tuple[FoldRun, ...]
    calibration: CalibrationConfig = UNCALIBRATED
    """Calibration of their average, if images were set aside for it."""

    @property
    def plan(self) -> Plan:
        """Plan of the first fold, for the options that all folds share, such as data, device and ensemble methods."""
        return self.folds[0].plan

    def save(self) -> None:
        """Write the list of folds."""
        folds = [{"name": fold.name, "unlearned": list(fold.unlearned)} for fold in self.folds]
        document = {"how": self.how, "folds": folds, "calibration": asdict(self.calibration)}
        write_json(_folds_file(self.root), document)

    @classmethod
    def load(cls, root: RunFolder) -> FoldRuns | None:
        """Read the list of folds; None if the cross-validation was stopped before it was written."""
        if not _folds_file(root).is_file():
            return None
        values = read_json(_folds_file(root))
        folds = tuple(
            FoldRun(fold["name"], fold_folder(root, number), tuple(fold["unlearned"]))
            for number, fold in enumerate(values["folds"], 1)
        )
        return cls(root, values["how"], folds, CalibrationConfig(**values["calibration"]))


def _folds_file(root: RunFolder) -> Path:
    return root.path / "folds.json"


def fold_folder(root: RunFolder, number: int) -> RunFolder:
    """Return the run of a fold; numbered, as group names may not be valid folder names."""
    return RunFolder(root.path / "folds" / str(number))


def members_by_fold(
    members: Sequence[MemberConfig], folds: Sequence[str], fold_members: Sequence[str]
) -> dict[str, tuple[MemberConfig, ...]]:
    """Return the members that each fold trains.

    Args:
        members: All members.
        folds: Names of the folds.
        fold_members: `MEMBER=FOLD+FOLD` for each member that is trained only in these folds.

    Raises:
        ConfigError: Unknown member or fold, or a fold without members.
    """
    names = [member.name for member in members]
    folds_of: dict[str, list[str]] = {}
    problems: list[str] = []
    for text in fold_members:
        name, _, selected = text.rpartition("=")
        if name not in names:
            problems.append(f"fold_members: no member '{name}'{did_you_mean(name, names)} (use {', '.join(names)})")
        elif name in folds_of:
            problems.append(f"fold_members: '{name}' occurs twice")
        folds_of[name] = selected.split("+")
        problems += [
            f"fold_members: no fold '{fold}'{did_you_mean(fold, folds)} (use {', '.join(folds)})"
            for fold in folds_of[name]
            if fold not in folds
        ]
    by_fold = {fold: tuple(member for member in members if fold in folds_of.get(member.name, folds)) for fold in folds}
    problems += [f"fold_members: no member for fold {fold}" for fold in folds if not by_fold[fold]]
    problems += [f"the member name '{CHOSEN}' is reserved in a cross-validation"] if CHOSEN in names else []
    raise_problems(problems)
    return by_fold


def plan_folds(
    root: RunFolder,
    data: str,
    options: ParsedArguments,
    prepared: DataModule,
    fold_plan: FoldPlan,
    members: Mapping[str, tuple[MemberConfig, ...]],
) -> list[tuple[FoldRun, Plan, DataModule]]:
    """Return run, plan and data of each fold; nothing is written yet.

    Raises:
        ConfigError: Members differ in `monitor` or `monitor_split`.
        DataError: A fold leaves too few images for training or validation.
    """
    trainings = sum(map(len, members.values()))
    planned = []
    for number, fold in enumerate(fold_plan.folds, 1):
        fold_data = replace(prepared, table=fold_plan.fold_table(fold, options.of(DataConfig)))
        require_rows(fold_data.table)
        plan = make_plan(
            data,
            fold_data,
            options.of(DataConfig),
            options.of(FusionConfig),
            options.of(RunConfig),
            members[fold.name],
            trainings=trainings,
        )
        run = FoldRun(fold.name, fold_folder(root, number), fold_plan.unlearned(fold))
        planned.append((run, replace(plan, images=SHARED_IMAGES), fold_data))
    # every fold tries the same methods: e2e only if all have the rows for it
    methods = min((fold_plan.run.ensemble_methods for _, fold_plan, _ in planned), key=len)
    planned = [
        (run, replace(fold_plan, run=replace(fold_plan.run, ensemble_methods=methods)), fold_data)
        for run, fold_plan, fold_data in planned
    ]
    replace(plan, members=tuple(member for fold_members in members.values() for member in fold_members)).check()
    return planned


def write_fold(fold: FoldRun, plan: Plan, prepared: DataModule, options: ParsedArguments) -> None:
    """Write the run of a fold; here run.json is last, as a fold without a plan cannot be prepared by `train`."""
    prepared.table.save(fold.run.samples)
    plan.save(fold.run)
    values = options.to_dict(RunConfig, DataConfig, ModelConfig, TrainingConfig, FusionConfig)
    fold.run.write_record(RunRecord("train", plan.data, values))
