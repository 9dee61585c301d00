"""Plan of a run: everything that training a member needs, in one file (`plan.json`) that a resume reads again."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tercet.config.model import ModelConfig
from tercet.config.parser import CommandOptions
from tercet.config.presets import RungName
from tercet.config.run import (
    DEFAULT_METHODS,
    METHODS,
    UNCALIBRATED,
    CalibrationConfig,
    DataConfig,
    FusionConfig,
    FusionData,
    MemberConfig,
    RunConfig,
    head_rows,
)
from tercet.config.training import Monitor, TrainingConfig
from tercet.core.errors import ConfigError
from tercet.core.files import read_json, write_json
from tercet.core.run_folder import RunFolder
from tercet.data.data_module import DataModule
from tercet.data.decoding import Decoding
from tercet.data.image_store import open_cache
from tercet.data.seen_images import training_digests
from tercet.data.table import SampleTable, load_samples
from tercet.ensemble.combine import ensemble_method, is_fitted
from tercet.experiments.custom_parts import require_parts, used_parts
from tercet.models.build import build
from tercet.models.classifier import Classifier
from tercet.models.members import MEMBER_OPTIONS

_NOT_OF_SPLITS = frozenset(
    {
        *("max_pixels", "value_range", "truncated", "memory_budget", "num_workers", "data_dir", "image_digests"),
        *("weight_column", "class_balanced_sampling", "exclude"),
    }
)
"""Data options without effect on the splits; with the others, `evaluate` finds the same held-out rows again."""


@dataclass(frozen=True)
class Rung:
    """Members that are trained together, on the ladder from cheap to expensive models."""

    name: RungName
    members: tuple[MemberConfig, ...]
    """The members; if it is `fine-tune`, the most promising of them, the others by the next rung."""


@dataclass(frozen=True)
class Plan:
    """Resolved configuration of a run."""

    data: str
    """Data source as the user named it."""
    data_config: DataConfig
    fusion: FusionConfig
    run: RunConfig
    members: tuple[MemberConfig, ...]
    """Members that are trained, or in training; the waiting rungs have more."""
    device: str
    threads: int
    channels: int
    image_size: tuple[int, int]
    fingerprint: str
    classes: tuple[str, ...]
    held_out: str
    """SHA-256 over the ids of the test split."""
    images: str = "images"
    """Folder of the decoded images, relative to the run; the folds of a cross-validation share one."""
    notes: tuple[str, ...] = ()
    """Skipped files and rows, one sentence each."""
    compared: bool = False
    """Whether to measure training accuracy and prediction speed of every member, too."""
    multilabel: bool = False
    """Whether an image has a set of labels instead of one class."""
    calibration: CalibrationConfig = UNCALIBRATED
    """Calibration of the chosen model."""
    rung: RungName | None = None
    """Rung of the ladder that was started last; None if all members are trained at once."""
    rungs: tuple[Rung, ...] = ()
    """Rungs that wait."""
    started: float = 0.0
    """Time as of `time.monotonic()` at which this process started the run; it is not saved."""

    def member(self, name: str) -> MemberConfig:
        """Return a member by name."""
        return next(member for member in self.members if member.name == name)

    def seed(self, name: str, fold: int | None = None) -> int:
        """Return the seed of one training; no two trainings of a run share theirs."""
        member_seed, offset = self.member(name).seed, 0 if fold is None else fold + 1
        if member_seed is not None:
            return member_seed * 10_000 + offset
        position = [member.name for member in self.members].index(name)
        return self.run.seed * 10_000 + position * 100 + offset

    @property
    def monitor(self) -> Monitor:
        """The score that selects epochs, members and ensembles."""
        return self.members[0].training.monitor

    @property
    def monitor_split(self) -> str:
        """The split it is computed on: validation, or test to reproduce a paper that selected on test."""
        return self.members[0].training.monitor_split

    def check(self) -> None:
        """Check combinations of options.

        Raises:
            ConfigError: Members differ in `monitor` or `monitor_split`, a crop is too large, or no validation rows are
                left for calibration.
        """
        combined = len(self.members) > 1 and self.fusion.num_members != 1
        if (
            self.calibration.guarantees
            and combined
            and all(self.fusion_data(method) == "validation" for method in self.run.ensemble_methods)
        ):
            raise ConfigError(
                "calibration.reject_risk and coverage need validation images that nothing was fitted on, but all "
                f"ensemble methods ({', '.join(self.run.ensemble_methods)}) are fitted on them: add average, pruned or "
                "vote, or use fusion.data out-of-fold with e2e"
            )
        for option in ("monitor", "monitor_split"):
            values = sorted({getattr(member.training, option) for member in self.members})
            if len(values) > 1:
                raise ConfigError(f"members differ in {option} ({', '.join(values)}): set one for the whole run")
        if self.run.views.crops:
            for member in self.members:
                self.run.views.enlarged_size(self._input_size(member))

    def _input_size(self, member: MemberConfig) -> tuple[int, int]:
        """Return height and width of a member's input; known only once the network is built."""
        return self.build(member, load_weights=False).spec.size

    def build(self, member: MemberConfig, *, load_weights: bool = True) -> Classifier:
        """Build the network of a member for the classes and images of the run."""
        return build(
            member.network,
            num_classes=len(self.classes),
            config=member.model,
            channels=self.channels,
            image_size=self.image_size,
            load_weights=load_weights,
        )

    def with_default_head(self, rows: int) -> Plan:
        """Return the plan with e2e among the default methods, if its options are given or the rows suffice.

        Args:
            rows: Number of validation rows. With `fusion.choose best` they add nothing: methods are as published.
        """
        optional = self.run.ensemble_methods == DEFAULT_METHODS and len(self.members) > 1 and not self.multilabel
        suffices = rows >= head_rows(self.fusion.num_members or len(self.members), len(self.classes))
        if optional and (self.fusion.configures_head or (suffices and self.fusion.choose == "simplest")):
            return replace(self, run=replace(self.run, ensemble_methods=METHODS))
        return self

    def fusion_data(self, method: str) -> FusionData | None:
        """Return the split that an ensemble method is fitted on; None if it fits nothing."""
        if ensemble_method(method).operation == "head":
            return self.fusion.data
        return "validation" if is_fitted(method) else None

    def needs_folds(self) -> bool:
        """Whether the fusion head is trained on out-of-fold predictions."""
        return "e2e" in self.run.ensemble_methods and len(self.members) > 1 and self.fusion.data == "out-of-fold"

    def predicted_splits(self) -> tuple[str, ...]:
        """Return the splits that members predict; train only if the fusion head is trained on it."""
        uses_train = "e2e" in self.run.ensemble_methods and (self.fusion.regime, self.fusion.data) == (
            "cached",
            "train",
        )
        return ("validation", "test", "train") if uses_train else ("validation", "test")

    def data_card(self, table: SampleTable | None = None) -> dict[str, Any]:
        """Return the description of the data for metrics and bundles.

        Args:
            table: The samples with their splits, to add digests of training and validation images, which `evaluate`
                must not score.
        """
        digests = {} if table is None or not self.data_config.image_digests else training_digests(table)
        return {
            "source": self.data,
            "classes": list(self.classes),
            "fingerprint": self.fingerprint,
            "options": {
                field.name: getattr(self.data_config, field.name)
                for field in fields(self.data_config)
                if field.name not in _NOT_OF_SPLITS
            },
            "held_out": self.held_out,
            "decoding": Decoding.of(self.data_config).to_dict(),
            "notes": list(self.notes),
            **digests,
        }

    def save(self, run: RunFolder) -> None:
        """Write the plan."""
        options, members = CommandOptions(*_KINDS), [member_to_dict(member) for member in self.members]
        values = {
            "data": self.data,
            "options": options.to_dict(self.data_config, self.fusion, self.calibration, replace(self.run, members=())),
            "members": members,
            "device": self.device,
            "threads": self.threads,
            "channels": self.channels,
            "image_size": list(self.image_size),
            "fingerprint": self.fingerprint,
            "classes": list(self.classes),
            "held_out": self.held_out,
            "images": self.images,
            "notes": list(self.notes),
            "compared": self.compared,
            "multilabel": self.multilabel,
            "custom": used_parts(members),
            "rung": self.rung,
            "rungs": [[rung.name, [member_to_dict(member) for member in rung.members]] for rung in self.rungs],
        }
        write_json(run.plan, values)

    @classmethod
    def load(cls, run: RunFolder) -> Plan:
        """Read the plan of a run.

        Raises:
            ConfigError: It has parts of the caller's that are not registered.
        """
        values = read_json(run.plan)
        require_parts(run.path, values.get("custom", {}))
        parsed = CommandOptions(*_KINDS).parse_object(values["options"])
        return cls(
            data=values["data"],
            data_config=parsed.of(DataConfig),
            fusion=parsed.of(FusionConfig),
            run=parsed.of(RunConfig),
            members=tuple(member_from_dict(member) for member in values["members"]),
            device=values["device"],
            threads=values["threads"],
            channels=values["channels"],
            image_size=tuple(values["image_size"]),
            fingerprint=values["fingerprint"],
            classes=tuple(values["classes"]),
            held_out=values["held_out"],
            images=values.get("images", "images"),  # absent from plans of version 0.1.0
            notes=tuple(values["notes"]),
            compared=values.get("compared", False),
            multilabel=values.get("multilabel", False),
            calibration=parsed.of(CalibrationConfig),
            rung=values.get("rung"),
            rungs=tuple(
                Rung(name, tuple(member_from_dict(member) for member in members))
                for name, members in values.get("rungs", [])
            ),
        )

    def open_data(self, run: RunFolder) -> DataModule:
        """Open the samples and decoded images of the run."""
        table = load_samples(
            run.samples,
            name=Path(self.data).name,
            classes=self.classes,
            multilabel=self.multilabel,
            weighted=self.data_config.weight_column is not None,
        )
        return DataModule(table, open_cache(run.path / self.images), fingerprint=self.fingerprint)


_KINDS = (DataConfig, FusionConfig, CalibrationConfig, RunConfig)


def member_to_dict(member: MemberConfig) -> dict[str, Any]:
    """Return a member as plain values for JSON."""
    options = MEMBER_OPTIONS.to_dict(member.model, member.training)
    return {"name": member.name, "model": member.network, "options": options, "seed": member.seed}


def member_from_dict(values: dict[str, Any]) -> MemberConfig:
    """Inverse of `member_to_dict`."""
    parsed = MEMBER_OPTIONS.parse_object(values["options"])
    model, training = parsed.of(ModelConfig), parsed.of(TrainingConfig)
    return MemberConfig(values["name"], values["model"], model, training, values.get("seed"))
