"""The bundle: a folder that predicts, with nothing beside it.

    bundle/
      manifest.json        classes, members (network, options, input), combiner, data, SHA-256 of all files and itself
      NAME.safetensors     one a member
      head.safetensors     the fusion head, where the combiner is e2e

Loading runs no code from these files and notices a changed byte. Shapes: B images, M members, K classes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tercet.deploy.images import ImageLike, LooseImages
from tercet.evaluation.combining import Combiner
from tercet.evaluation.predict import predict_logits
from tercet.ground.errors import ModelError, StorageError
from tercet.ground.files import read_json, sha256, slug, write_json
from tercet.models.build import build
from tercet.models.classifier import Classifier
from tercet.models.fusion import FusionHead
from tercet.models.summary import count_parameters
from tercet.records.contracts import BatchSource, InputSpec
from tercet.records.model_config import InputConfig, ModelConfig
from tercet.records.predictions import Predictions
from tercet.training.checkpoint import load_weights, save_weights

MANIFEST = "manifest.json"
_FORMAT = "tercet-bundle-1"
_HEAD = "head.safetensors"


@dataclass(frozen=True)
class Member:
    """One network of a bundle and what is needed to build it again."""

    name: str
    """Name in tables."""
    classifier: Classifier
    """Takes images B C H W in [0, 1], returns logits B K."""
    config: ModelConfig
    """The options it was built with."""


class _Members(nn.Module):
    """All members side by side, so that every image is read once."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(member.classifier for member in members)

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
    combiner: Combiner | FusionHead | None = None
    """How their probabilities become one: a rule, a trained fusion head, or nothing for a single member."""
    card: dict[str, Any] = field(default_factory=dict)
    """What the manifest says beside: data, metrics, versions."""

    def __post_init__(self) -> None:
        for member in self.members:
            member.classifier.eval()
        if isinstance(self.combiner, FusionHead):
            self.combiner.eval()
        if self.combiner is None and len(self.members) != 1:
            raise ModelError(f"{len(self.members)} members need a combiner")

    @property
    def name(self) -> str:
        """Return the member's name, or the way the members are combined."""
        if self.combiner is None:
            return self.members[0].name
        return "e2e" if isinstance(self.combiner, FusionHead) else self.combiner.method

    def predict(
        self, images: ImageLike | Sequence[ImageLike], *, batch_size: int = 32, device: str = "cpu"
    ) -> Predictions:
        """Classify images.

        Args:
            images: Paths, folders, arrays (H W, H W 1 or H W 3, uint8) or PIL images; one or many, of any sizes.
            batch_size: Images a forward pass.
            device: Where to compute.

        Returns:
            Predictions whose ids are the paths, or numbers for images without one.

        Raises:
            DataError: An image cannot be read, or there is none.
        """
        return self.combine(self.predict_members(images, batch_size=batch_size, device=device))

    def predict_members(
        self, images: ImageLike | Sequence[ImageLike], *, batch_size: int = 32, device: str = "cpu"
    ) -> list[Predictions]:
        """Classify images by each member alone (see `predict`)."""
        source = LooseImages(images, self.specs, batch_size=batch_size)
        return self.predict_source(source, device=device)

    def predict_source(self, source: BatchSource, *, device: str = "cpu") -> list[Predictions]:
        """Classify the batches of a source by each member; its images are one tensor, or one a member."""
        logits = predict_logits(_Members(self.members), source, device=device)
        stack = logits.values.reshape(len(logits.ids), len(self.members), len(self.classes))
        return [
            Predictions.from_logits(stack[:, index], ids=logits.ids, classes=self.classes, labels=logits.labels)
            for index in range(len(self.members))
        ]

    @property
    def specs(self) -> tuple[InputSpec, ...]:
        """Return what each member wants to be shown."""
        return tuple(member.classifier.spec for member in self.members)

    def parameter_count(self) -> int:
        """Return the learnable numbers of all members and of the fusion head."""
        modules = [member.classifier for member in self.members]
        return sum(
            count_parameters(module)
            for module in (*modules, *([self.combiner] if isinstance(self.combiner, FusionHead) else []))
        )

    @torch.inference_mode()
    def combine(self, members: Sequence[Predictions]) -> Predictions:
        """Fuse the members' predictions."""
        first = members[0]
        if self.combiner is None:
            return first
        if isinstance(self.combiner, Combiner):
            return self.combiner.apply(members)
        columns = [torch.from_numpy(member.aligned_to(first).probabilities) for member in members]
        logits = self.combiner.cpu()(torch.stack(columns, dim=1).float())  # B M K -> B K
        return Predictions.from_logits(logits.numpy(), ids=first.ids, classes=first.classes, labels=first.labels)

    # ------------------------------------------------------------------------------------------ on disk

    def save(self, folder: Path) -> Path:
        """Write the bundle; an older one of ours is replaced as a whole.

        Raises:
            StorageError: Something else is there, or the disk is full.
        """
        if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
            raise StorageError(f"{folder} exists and is not a bundle: choose another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".bundle-", dir=folder.parent) as temporary:
            self._write(Path(temporary))
            if folder.exists():
                shutil.rmtree(folder)
            Path(temporary).rename(folder)
            Path(temporary).mkdir()  # what the context manager removes
        folder.chmod(0o755)
        return folder

    def _write(self, folder: Path) -> None:
        members, files = [], {}
        for index, member in enumerate(self.members):
            file = f"{index + 1}-{slug(member.name)}.safetensors"
            files[file] = save_weights(folder / file, member.classifier)
            members.append(_describe(member, file))
        combiner: dict[str, Any] | None = None
        if isinstance(self.combiner, FusionHead):
            files[_HEAD] = save_weights(folder / _HEAD, self.combiner)
            combiner = {"method": "e2e", "options": self.combiner.options(), "weights": _HEAD}
        elif self.combiner is not None:
            combiner = self.combiner.to_dict()
        manifest = {
            "format": _FORMAT,
            "classes": list(self.classes),
            "members": members,
            "combiner": combiner,
            "temperature": 1.0,
            **self.card,
            "files": files,
        }
        write_json(folder / MANIFEST, {**manifest, "sha256": _digest(manifest)})


def _describe(member: Member, file: str) -> dict[str, Any]:
    classifier = member.classifier
    shown = InputConfig(**classifier.spec.to_dict())
    config = replace(member.config, weights=None, pretrained=False, input=shown)
    return {
        "name": member.name,
        "network": classifier.network,
        "options": config.to_dict(),
        "input": classifier.spec.to_dict(),
        "weights": file,
    }


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a bundle's manifest after checking that it is one and is unchanged.

    Raises:
        ModelError: The folder is no bundle, or the manifest was changed.
    """
    if not (folder / MANIFEST).is_file():
        raise ModelError(f"{folder} is not a bundle: it has no {MANIFEST} (a run's bundle is RUN/bundle)")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ModelError(f"{folder / MANIFEST} is not a bundle's manifest of format {_FORMAT}")
    if manifest.pop("sha256", None) != _digest(manifest):
        raise ModelError(f"{folder / MANIFEST} was changed: its content does not match its SHA-256")
    return manifest


def load_bundle(path: str | Path, *, device: str = "cpu") -> Bundle:
    """Load a bundle, or the bundle of a run folder.

    Raises:
        ModelError: It is no bundle, or a byte of it was changed.
    """
    folder = Path(path)
    if not (folder / MANIFEST).exists() and (folder / "bundle" / MANIFEST).exists():
        folder = folder / "bundle"
    manifest = read_manifest(folder)
    for file, digest in manifest["files"].items():
        if "/" in file or not (folder / file).is_file():
            raise ModelError(f"the bundle {folder} lacks its file {file}")
        if sha256(folder / file) != digest:
            raise ModelError(f"{folder / file} was changed: its SHA-256 is not the manifest's")
    classes = tuple(manifest["classes"])
    members = tuple(_load_member(folder, entry, len(classes), device) for entry in manifest["members"])
    card: dict[str, Any] = {key: manifest[key] for key in ("data", "metrics", "versions") if key in manifest}
    return Bundle(classes, members, _load_combiner(folder, manifest["combiner"], len(members), len(classes)), card)


def _load_combiner(
    folder: Path, entry: dict[str, Any] | None, num_members: int, num_classes: int
) -> Combiner | FusionHead | None:
    if entry is None:
        return None
    if entry["method"] != "e2e":
        return Combiner.from_dict(entry)
    head = FusionHead(num_members, num_classes, **entry["options"])
    load_weights(folder / entry["weights"], head)
    return head


def _load_member(folder: Path, entry: dict[str, Any], num_classes: int, device: str) -> Member:
    config = ModelConfig.from_dict(entry["options"])
    size, channels = tuple(entry["input"]["size"]), entry["input"]["channels"]
    classifier = build(
        entry["network"],
        num_classes=num_classes,
        config=config,
        channels=channels,
        image_size=size,
        load_weights=False,
    )
    load_weights(folder / entry["weights"], classifier)
    return Member(entry["name"], classifier.to(device), config)
