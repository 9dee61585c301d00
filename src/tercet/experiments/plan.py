"""The plan of a run: everything a member's process needs to know, in one file that a resume reads again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tercet.config.model import ModelConfig
from tercet.config.parser import CommandOptions
from tercet.config.run import UNCALIBRATED, CalibrationConfig, DataConfig, FusionConfig, MemberConfig, Method, RunConfig
from tercet.config.training import Monitor, TrainingConfig
from tercet.core.errors import ConfigError, raise_problems
from tercet.core.files import read_json, write_json
from tercet.core.run_folder import RunFolder
from tercet.data.data_module import DataModule
from tercet.data.image_cache import open_cache
from tercet.data.table import load_samples
from tercet.ensemble.weights import is_fitted
from tercet.models.build import build
from tercet.models.members import MEMBER_OPTIONS


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    data: str
    data_config: DataConfig
    fusion: FusionConfig
    run: RunConfig
    members: tuple[MemberConfig, ...]
    device: str
    threads: int
    channels: int
    image_size: tuple[int, int]
    fingerprint: str
    classes: tuple[str, ...]
    held_out: str
    """SHA-256 over the ids of the test split."""
    images: str = "images"
    """Where the decoded images are, relative to the run: the folds of a cross-validation share them."""
    notes: tuple[str, ...] = ()
    """What was left out while reading the data, one sentence each."""
    compared: bool = False
    """Whether every member also tells its training accuracy and how fast it predicts."""
    sets: bool = False
    """Whether an image has a set of labels, not one class."""
    calibration: CalibrationConfig = UNCALIBRATED
    """What is done to the probabilities of what is chosen."""

    def member(self, name: str) -> MemberConfig:
        """Return a member by name."""
        return next(member for member in self.members if member.name == name)

    def seed(self, name: str, fold: int | None = None) -> int:
        """Return a seed of its own for every training of the run."""
        own, further = self.member(name).seed, 0 if fold is None else fold + 1
        if own is not None:
            return own * 10_000 + further
        position = [member.name for member in self.members].index(name)
        return self.run.seed * 10_000 + position * 100 + further

    @property
    def monitor(self) -> Monitor:
        """What 'best' means, for members and for ensembles."""
        return self.members[0].training.monitor

    @property
    def monitor_split(self) -> str:
        """The split that chooses: validation, or test where a paper is reproduced that did so."""
        return self.members[0].training.monitor_split

    def check(self) -> None:
        """Refuse members chosen by different rules, crops that do not fit, promises that cannot be kept, and
        what is for label sets where none are.

        Raises:
            ConfigError: Members differ in `monitor` or `monitor_split`, or these are for label sets; a crop is too
                large; or no validation rows would be left to calibrate with.
        """
        if not self.sets:
            decoders = [member.name for member in self.members if member.model.labels.decoder != "sigmoid"]
            only_sets = self.monitor in ("o_f1", "c_f1", "map")
            needs = "needs sets of labels (several --data.label-columns, or --data.label-separator)"
            raise_problems(
                [
                    bool(decoders) and f"labels.decoder of {', '.join(decoders)} {needs}",
                    only_sets and f"monitor {self.monitor} {needs}",
                ]
            )
        fused = len(self.members) > 1 and self.fusion.num_members != 1
        if self.calibration.guarantees and fused and all(map(self.learns_from_validation, self.run.ensemble_methods)):
            raise ConfigError(
                "calibration.reject_risk and coverage need validation rows that nothing was fitted on, and "
                f"{', '.join(self.run.ensemble_methods)} learn from all of them: add average, pruned or vote, or give "
                "fusion.data out-of-fold with e2e"
            )
        for what in ("monitor", "monitor_split"):
            kinds = sorted({getattr(member.training, what) for member in self.members})
            if len(kinds) > 1:
                raise ConfigError(f"members differ in {what} ({', '.join(kinds)}): give one for the whole run")
        if self.run.views.crops:
            for member in self.members:
                self.run.views.enlarged_size(self._input_size(member))

    def _input_size(self, member: MemberConfig) -> tuple[int, int]:
        """Return height and width of what a member's network is shown; only building it tells."""
        network = build(
            member.network,
            num_classes=len(self.classes),
            config=member.model,
            channels=self.channels,
            image_size=self.image_size,
            load_weights=False,
        )
        return network.spec.size

    def learns_from_validation(self, method: Method) -> bool:
        """Tell whether a way to fuse is fitted on the validation rows."""
        return self.fusion.data == "validation" if method == "e2e" else is_fitted(method)

    def needs_folds(self) -> bool:
        """Tell whether the fusion learns from out-of-fold predictions."""
        return "e2e" in self.run.ensemble_methods and len(self.members) > 1 and self.fusion.data == "out-of-fold"

    def predicted_splits(self) -> tuple[str, ...]:
        """Return the splits that members predict: the training rows only where the fusion learns from them."""
        learns_from_train = "e2e" in self.run.ensemble_methods and (self.fusion.regime, self.fusion.data) == (
            "cached",
            "train",
        )
        return ("validation", "test", "train") if learns_from_train else ("validation", "test")

    def save(self, run: RunFolder) -> None:
        """Write the plan."""
        options = CommandOptions("plan", groups=_GROUPS)
        values = {
            "data": self.data,
            "options": options.to_dict(self.data_config, self.fusion, self.calibration, replace(self.run, members=())),
            "members": [describe_member(member) for member in self.members],
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
            "sets": self.sets,
        }
        write_json(run.plan, values)

    @classmethod
    def load(cls, run: RunFolder) -> Plan:
        """Read the plan of a run."""
        values = read_json(run.plan)
        parsed = CommandOptions("plan", groups=_GROUPS).parse_object(values["options"])
        return cls(
            data=values["data"],
            data_config=parsed.of(DataConfig),
            fusion=parsed.of(FusionConfig),
            run=parsed.of(RunConfig),
            members=tuple(read_member(member) for member in values["members"]),
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
            sets=values.get("sets", False),  # absent in runs from before there were label sets
            calibration=parsed.of(CalibrationConfig),
        )

    def open_data(self, run: RunFolder) -> DataModule:
        """Return the samples and decoded images that the run keeps."""
        table = load_samples(run.samples, name=Path(self.data).name, classes=self.classes, multilabel=self.sets)
        return DataModule(table, open_cache(run.path / self.images), fingerprint=self.fingerprint)


_GROUPS = [("data", DataConfig), ("fusion", FusionConfig), ("calibration", CalibrationConfig), ("", RunConfig)]


def describe_member(member: MemberConfig) -> dict[str, Any]:
    """Return a member as plain values."""
    options = MEMBER_OPTIONS.to_dict(member.model, member.training)
    return {"name": member.name, "model": member.network, "options": options, "seed": member.seed}


def read_member(values: dict[str, Any]) -> MemberConfig:
    """Rebuild from `describe_member`'s result."""
    parsed = MEMBER_OPTIONS.parse_object(values["options"])
    model, training = parsed.of(ModelConfig), parsed.of(TrainingConfig)
    return MemberConfig(values["name"], values["model"], model, training, values.get("seed"))
