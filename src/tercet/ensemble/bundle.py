"""The bundle: a folder that predicts, with nothing beside it.

    bundle/
      manifest.json        classes, members (network, options, input), combiner, data, SHA-256 of all files and itself
      NAME.safetensors     one a member
      head.safetensors     the fusion head, where the combiner is e2e (head-NUMBER.safetensors, one a fold)

Loading runs no code from these files and notices a changed byte. Shapes: B images, M members, K classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tercet.config.tta import TTAConfig
from tercet.core.calibration import Calibration
from tercet.core.errors import ConfigError, ModelError, StorageError
from tercet.core.files import UNFINISHED_PREFIX, slug
from tercet.core.model_formats import reject_program
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.predictions import Predictions
from tercet.core.types import BatchSource, InputSpec
from tercet.data.inputs import ImageLike, InputBatches
from tercet.ensemble.combiners import AnyCombiner, combine, combiner_name, fusion_heads, load_combiner, save_combiner
from tercet.ensemble.member import (
    MANIFEST,
    check_files,
    describe_member,
    is_bundle,
    load_member,
    read_manifest,
    write_manifest,
)
from tercet.ensemble.member import Member as Member
from tercet.ensemble.multilabel import MultilabelRule
from tercet.models.forward import predict_logits
from tercet.models.summary import count_parameters
from tercet.models.tta import enlarged_input_spec
from tercet.models.weight_files import save_weights


class _Members(nn.Module):
    """All members side by side, so that every image is read once."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(member.viewed() for member in members)

    def forward(self, images: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Return the members' logits one after the other, B (M K); images are one tensor, or one a geometry."""
        views = images if isinstance(images, tuple) else (images,) * len(self.classifiers)
        return torch.cat([classifier(view) for classifier, view in zip(self.classifiers, views, strict=True)], dim=1)


@dataclass(frozen=True)
class Bundle:
    """Members, how they are combined, and the names of the classes: everything that turns images into an answer."""

    classes: tuple[str, ...]
    """K class names, in the order of the outputs."""
    members: tuple[Member, ...]
    """M networks."""
    combiner: AnyCombiner | None = None
    """How their probabilities become one: a rule, a head, the mean of folds; nothing for a single member."""
    card: dict[str, Any] = field(default_factory=dict, repr=False)
    """What the manifest says beside: data, metrics, versions."""
    sets: MultilabelRule | None = None
    """How their scores become a set of labels; None where an image has one class."""
    calibration: Calibration | None = None
    """What is done to the combined probabilities; None where nothing is."""

    def __post_init__(self) -> None:
        for member in self.members:
            member.classifier.eval()
        for head in fusion_heads(self.combiner):
            head.eval()
        if self.sets is not None and self.calibration is not None:
            raise ModelError("sets of labels are not calibrated")
        if self.combiner is None and self.sets is None and len(self.members) != 1:
            raise ModelError(f"{len(self.members)} members need a combiner")

    @property
    def name(self) -> str:
        """Return the member's name, or the way the members are combined."""
        if self.combiner is None:
            return self.sets.method if self.sets and self.sets.method != "single" else self.members[0].name
        return combiner_name(self.combiner)

    def predict(
        self, images: ImageLike | Sequence[ImageLike], *, batch_size: int = 32, device: str = "cpu"
    ) -> Predictions | MultilabelPredictions:
        """Classify images, with the test-time augmentation that the members carry.

        Args:
            images: Paths, folders, arrays (H W, H W 1 or H W 3, uint8) or PIL images; one or many, of any sizes.
            batch_size: Images a forward pass.
            device: Where to compute.

        Returns:
            Predictions whose ids are the paths, or numbers for images without one; of label sets where `sets` is given.

        Raises:
            DataError: An image cannot be read, or there is none.
        """
        return self.answer(InputBatches(images, self.specs, batch_size=batch_size), device=device)

    def answer(self, source: BatchSource, *, device: str = "cpu") -> Predictions | MultilabelPredictions:
        """Classify the batches of a source, whose images are one tensor, or one a member; see `predict`."""
        if self.sets is None:
            return self.combine(self.predict_source(source, device=device))
        return self.sets.combine(self.predict_sets(source, device=device))

    def predict_sets(self, source: BatchSource, *, device: str = "cpu") -> list[MultilabelPredictions]:
        """Tell the label sets that each member chooses; only where `sets` is given."""
        assert self.sets is not None
        return self.sets.members(predict_logits(_Members(self.members), source, device=device), self.classes)

    def predict_members(
        self, images: ImageLike | Sequence[ImageLike], *, batch_size: int = 32, device: str = "cpu"
    ) -> list[Predictions]:
        """Classify images by each member alone (see `predict`)."""
        return self.predict_source(InputBatches(images, self.specs, batch_size=batch_size), device=device)

    def predict_source(self, source: BatchSource, *, device: str = "cpu") -> list[Predictions]:
        """Classify the batches of a source by each member; its images are one tensor, or one a member."""
        if self.sets is not None:
            raise ModelError("this bundle answers with sets of labels, not with one class an image")
        logits = predict_logits(_Members(self.members), source, device=device)
        stack = logits.values.reshape(len(logits.ids), len(self.members), len(self.classes))
        return [
            Predictions.from_logits(stack[:, index], ids=logits.ids, classes=self.classes, labels=logits.labels)
            for index in range(len(self.members))
        ]

    @property
    def specs(self) -> tuple[InputSpec, ...]:
        """Return what a source must bring for each member."""
        return tuple(enlarged_input_spec(member.classifier.spec, member.views) for member in self.members)

    @property
    def plain(self) -> bool:
        """Tell whether no member uses test-time augmentation."""
        return all(member.views.plain for member in self.members)

    def with_views(self, views: str | TTAConfig) -> Bundle:
        """Return the same bundle with other test-time augmentation, of all its members.

        Args:
            views: `none`, or as in `tercet.config.tta`; a text takes the seed that a member has already.

        Raises:
            ConfigError: The text cannot be read, several numbers of crops, or crops that do not fit a picture; or the
                bundle answers with sets of labels.
        """
        if self.sets is not None:
            raise ConfigError("test-time augmentation averages probabilities of one class an image, not sets of labels")
        changed = [
            replace(one, views=TTAConfig.parse(views, seed=one.views.seed) if isinstance(views, str) else views)
            for one in self.members
        ]
        return replace(self, members=tuple(changed))

    def parameter_count(self) -> int:
        """Return the learnable numbers of all members and of the fusion heads."""
        modules = [*(member.classifier for member in self.members), *fusion_heads(self.combiner)]
        return sum(map(count_parameters, modules))

    def combine(self, members: Sequence[Predictions]) -> Predictions:
        """Fuse the members' predictions, and calibrate the result."""
        fused = combine(self.combiner, members)
        return fused if self.calibration is None else self.calibration.apply(fused)

    # ------------------------------------------------------------------------------------------ on disk

    def save(self, folder: str | Path) -> Path:
        """Write the bundle; an older one of ours is replaced as a whole.

        Raises:
            StorageError: Something else is there, or the disk is full.
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


def load_bundle(path: str | Path, *, device: str = "cpu") -> Bundle:
    """Load a bundle, or the bundle of a run folder.

    Raises:
        ModelError: It is no bundle, or a byte of it was changed.
        ConfigError: It is a program of PyTorch.
    """
    reject_program(path)
    folder = Path(path)
    if not (folder / MANIFEST).exists() and (folder / "bundle" / MANIFEST).exists():
        folder = folder / "bundle"
    manifest = read_manifest(folder)
    try:
        check_files(folder, manifest["files"])
        return _rebuild(folder, manifest, device)
    except KeyError as error:
        raise ModelError(f"the bundle {folder} is damaged: its manifest lacks {error}") from error
    except (ValueError, TypeError, AttributeError, OSError) as error:  # what a manifest with odd values may end in
        raise ModelError(f"the bundle {folder} cannot be used: {error}") from error


def _rebuild(folder: Path, manifest: dict[str, Any], device: str) -> Bundle:
    listed = manifest["classes"]
    classes = tuple(listed) if isinstance(listed, list) else ()
    if not all(isinstance(name, str) for name in classes) or len(set(classes)) != len(listed):
        raise ModelError("its classes are not different names")
    weights = {file: folder / file for file in manifest["files"]}  # no other file is read
    members = tuple(load_member(weights, entry, len(classes), device) for entry in manifest["members"])
    combiner = load_combiner(weights, manifest["combiner"], len(members), len(classes))
    card: dict[str, Any] = {key: manifest[key] for key in ("data", "metrics", "versions") if key in manifest}
    sets = MultilabelRule.from_dict(manifest["sets"], len(members)) if "sets" in manifest else None
    calibration = Calibration.from_dict(manifest["calibration"]) if "calibration" in manifest else None
    return Bundle(classes, members, combiner, card, sets, calibration)
