"""The bundle: a self-contained folder with everything needed for prediction.

    bundle/
      manifest.json        classes, members (network, options, input), combiner, data, SHA-256 of all files and itself
      NAME.safetensors     weights, one file per member
      head.safetensors     fusion head of an e2e combiner (head-NUMBER.safetensors per fold)

Loading executes no code from these files and detects changed bytes. Shapes: M members, K classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tercet.config.tta import TTAConfig
from tercet.core.calibration import Calibration
from tercet.core.errors import ConfigError, ModelError, StorageError
from tercet.core.files import UNFINISHED_PREFIX, slug
from tercet.core.model_formats import reject_program
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.predictions import Predictions
from tercet.core.runtime import choose_device
from tercet.core.types import BatchSource, InputSpec
from tercet.data.decoding import Decoding
from tercet.data.input_batches import InputBatches, batches_of
from tercet.data.inputs import AnyImages, ImageInputs, LabelledImages
from tercet.ensemble.combiners import AnyCombiner, combine, combiner_name, fusion_heads, load_combiner, save_combiner
from tercet.ensemble.manifest import MANIFEST, check_files, is_bundle, read_manifest, write_manifest
from tercet.ensemble.member import JointMembers, describe_member, load_member, predict_together
from tercet.ensemble.member import Member as Member
from tercet.ensemble.multilabel import MultilabelRule
from tercet.models.forward import predict_logits
from tercet.models.registry import NETWORKS, Factory, as_factory
from tercet.models.summary import count_parameters
from tercet.models.tta import enlarged_input_spec
from tercet.models.weight_files import save_weights


@dataclass(frozen=True, repr=False)
class Bundle:
    """A trained ensemble: members, combiner, calibration and class names."""

    classes: tuple[str, ...]
    """K class names, in the order of the outputs."""
    members: tuple[Member, ...]
    combiner: AnyCombiner | None = None
    """None for a single member and for multi-label bundles."""
    card: dict[str, Any] = field(default_factory=dict, repr=False)
    """Further entries of the manifest: data, metrics, versions."""
    sets: MultilabelRule | None = None
    """Thresholds and ensemble method of a multi-label bundle; None if each image has one class."""
    calibration: Calibration | None = None
    """Applied to the combined probabilities."""

    runtime: ClassVar[str] = "PyTorch, eager"
    note: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        for member in self.members:
            member.classifier.eval()
        for head in fusion_heads(self.combiner):
            head.eval()
        if self.sets is not None and self.calibration is not None:
            raise ModelError("multi-label bundles have no calibration")
        if self.combiner is None and self.sets is None and len(self.members) != 1:
            raise ModelError(f"{len(self.members)} members need a combiner")

    def __repr__(self) -> str:
        members = f" of {', '.join(member.name for member in self.members)}" if len(self.members) > 1 else ""
        return f"<Bundle: {self.name}{members}; {len(self.classes)} classes>"

    @property
    def name(self) -> str:
        """Name of the only member, or of the combiner."""
        if self.combiner is None:
            return self.sets.method if self.sets and self.sets.method != "single" else self.members[0].name
        return combiner_name(self.combiner)

    @property
    def member_names(self) -> tuple[str, ...]:
        """M names."""
        return tuple(member.name for member in self.members)

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.sets is not None

    @property
    def parameters(self) -> int:
        """Number of trainable parameters, fusion heads included."""
        return sum(self.member_parameters) + sum(map(count_parameters, fusion_heads(self.combiner)))

    @property
    def member_parameters(self) -> tuple[int, ...]:
        """Number of trainable parameters of each member."""
        return tuple(count_parameters(member.classifier) for member in self.members)

    def predict(
        self, images: AnyImages, *, batch_size: int = 32, device: str = "cpu"
    ) -> Predictions | MultilabelPredictions:
        """Classify images of any kind and size, with the members' test-time augmentation.

        The ids are the paths, or numbers for arrays and PIL images. See `tercet.inference.predictor.Predictor`.
        """
        inputs = ImageInputs.of(images, self.decoding)
        return self.predict_with_members(inputs, batch_size=batch_size, device=device)[0]

    def predict_with_members(
        self, source: ImageInputs | LabelledImages, *, batch_size: int = 32, device: str = "cpu"
    ) -> tuple[Predictions | MultilabelPredictions, Sequence[Predictions | MultilabelPredictions]]:
        """Return the predictions of the ensemble, and those of each member; see `predict`."""
        batches = batches_of(source, self.specs, batch_size=batch_size)
        if self.sets is None:
            members = self.predict_member_batches(batches, device=device)
            return self.combine(members), members
        labels = self.predict_member_labels(batches, device=device)
        return self.sets.combine(labels), labels

    def run(self, images: NDArray[np.uint8]) -> Predictions | MultilabelPredictions:
        """Predict images B H W 3 as one batch."""
        return self.predict([*images], batch_size=len(images))

    def resolve_device(self, name: str) -> str:
        """Return the device for `auto`, or for the name of a device; see `choose_device`."""
        return choose_device(name)

    def predict_member_labels(self, source: BatchSource, *, device: str = "cpu") -> list[MultilabelPredictions]:
        """Return each member's predicted label sets; only for multi-label bundles."""
        assert self.sets is not None
        return self.sets.members(predict_logits(JointMembers(self.members), source, device=device), self.classes)

    def predict_members(self, images: AnyImages, *, batch_size: int = 32, device: str = "cpu") -> list[Predictions]:
        """Return each member's predictions; see `predict`."""
        inputs = ImageInputs.of(images, self.decoding)
        return self.predict_member_batches(InputBatches(inputs, self.specs, batch_size=batch_size), device=device)

    def predict_member_batches(self, source: BatchSource, *, device: str = "cpu") -> list[Predictions]:
        """Return each member's predictions of batches whose images are one tensor, or one tensor per member.

        Raises:
            ModelError: The bundle is multi-label.
        """
        if self.sets is not None:
            raise ModelError("this bundle is multi-label: it has no predictions of one class per image")
        return predict_together(self.members, source, classes=self.classes, device=device)

    @property
    def decoding(self) -> Decoding:
        """How image files were decoded in training."""
        return Decoding.of_card(self.card)

    @property
    def specs(self) -> tuple[InputSpec, ...]:
        """Input of each member, large enough for its test-time augmentation."""
        return tuple(enlarged_input_spec(member.classifier.spec, member.views) for member in self.members)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the first member's input."""
        return self.specs[0].size

    @property
    def plain(self) -> bool:
        """Whether no member uses test-time augmentation."""
        return all(member.views.plain for member in self.members)

    def with_tta(self, tta: str | TTAConfig) -> Bundle:
        """Return a copy of the bundle with another test-time augmentation of all its members.

        Args:
            tta: A configuration, or its text form (see `tercet.config.tta`), which keeps each member's seed.

        Raises:
            ConfigError: The text is invalid, lists several numbers of crops, or has crops larger than the image; or the
                bundle is multi-label.
        """
        if self.sets is not None:
            raise ConfigError("test-time augmentation averages class probabilities: it does not apply to label sets")
        members = [
            replace(member, views=TTAConfig.parse(tta, seed=member.views.seed) if isinstance(tta, str) else tta)
            for member in self.members
        ]
        return replace(self, members=tuple(members))

    def combine(self, members: Sequence[Predictions]) -> Predictions:
        """Combine the members' predictions and calibrate the result."""
        combined = combine(self.combiner, members)
        return combined if self.calibration is None else self.calibration.apply(combined)

    # ------------------------------------------------------------------------------------------ on disk

    def save(self, folder: str | Path) -> Path:
        """Write the bundle; an existing bundle is replaced.

        Raises:
            StorageError: The folder exists and is not a bundle, or it cannot be written.
        """
        folder = Path(folder)
        try:
            if folder.exists() and not (folder.is_dir() and (is_bundle(folder) or not any(folder.iterdir()))):
                raise StorageError(f"{folder} exists and is not a bundle: choose another folder")
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=UNFINISHED_PREFIX, dir=folder.parent) as temporary:
                new = Path(temporary) / "new"
                new.mkdir()
                self._write(new)
                if folder.exists():
                    folder.rename(Path(temporary) / "old")
                new.rename(folder)
        except StorageError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise StorageError(f"cannot write the bundle {folder}: {reason}; choose another folder") from error
        return folder

    def _write(self, folder: Path) -> None:
        members, files = [], {}
        for index, member in enumerate(self.members):
            file = f"{index + 1}-{slug(member.name)}.safetensors"
            files[file] = save_weights(folder / file, member.classifier)
            members.append(describe_member(member, file))
        combiner, heads = save_combiner(folder, self.combiner)
        manifest = {
            "classes": list(self.classes),
            "members": members,
            "combiner": combiner,
            **({"sets": self.sets.to_dict()} if self.sets is not None else {}),
            **({"calibration": self.calibration.to_dict()} if self.calibration is not None else {}),
            **self.card,
            "files": files | heads,
        }
        write_manifest(folder, manifest)


def load_bundle(
    path: str | Path, *, device: str = "cpu", modules: Mapping[str, Factory | nn.Module] | None = None
) -> Bundle:
    """Load a bundle, or the bundle of a run folder.

    Args:
        path: The folder.
        device: Device of the networks.
        modules: The caller's networks by name: factories, or modules. A bundle stores their weights, but no code.

    Raises:
        ModelError: The folder is not a bundle, was changed, or has a network of the caller's that is not in `modules`.
        ConfigError: The path is a torch.export program.
    """
    reject_program(path)
    folder = Path(path)
    if not (folder / MANIFEST).exists() and (folder / "bundle" / MANIFEST).exists():
        folder = folder / "bundle"
    manifest = read_manifest(folder)
    try:
        check_files(folder, manifest["files"])
        with NETWORKS.scoped({name: as_factory(network) for name, network in (modules or {}).items()}):
            return _rebuild(folder, manifest, device)
    except KeyError as error:
        raise ModelError(f"the bundle {folder} is damaged: {error} is missing from its manifest") from error
    except (ValueError, TypeError, AttributeError, OSError) as error:  # malformed values in the manifest
        raise ModelError(f"the bundle {folder} cannot be used: {error}") from error


def _rebuild(folder: Path, manifest: dict[str, Any], device: str) -> Bundle:
    names = manifest["classes"]
    classes = tuple(names) if isinstance(names, list) else ()
    if not all(isinstance(name, str) for name in classes) or len(set(classes)) != len(names):
        raise ModelError("the classes are not distinct names")
    weights = {file: folder / file for file in manifest["files"]}  # no other file is read
    members = tuple(load_member(weights, entry, len(classes), device) for entry in manifest["members"])
    combiner = load_combiner(weights, manifest["combiner"], len(members), len(classes))
    card: dict[str, Any] = {key: manifest[key] for key in ("data", "metrics", "versions") if key in manifest}
    sets = MultilabelRule.from_dict(manifest["sets"], len(members)) if "sets" in manifest else None
    calibration = Calibration.from_dict(manifest["calibration"]) if "calibration" in manifest else None
    return Bundle(classes, members, combiner, card, sets, calibration)
