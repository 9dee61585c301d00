"""Members of a bundle, and the manifest that describes the bundle on disk."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tercet.config.model import InputConfig, ModelConfig
from tercet.config.tta import NO_TTA, TTAConfig
from tercet.core.errors import ConfigError, ModelError
from tercet.core.files import read_json, sha256, write_json
from tercet.core.model_formats import format_of
from tercet.models.build import build
from tercet.models.classifier import Classifier
from tercet.models.tta import TTAModel
from tercet.models.weight_files import load_weights

MANIFEST = "manifest.json"
FORMAT = "tercet-bundle-1"


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write a manifest, including its own SHA-256."""
    manifest = {"format": FORMAT, **content}
    write_json(folder / MANIFEST, {**manifest, "sha256": _digest(manifest)})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a bundle's manifest after verifying its format and SHA-256.

    Raises:
        ModelError: The folder is not a bundle, or the manifest was changed.
    """
    if not folder.exists():
        raise ModelError(f"{folder} is not a bundle: the folder does not exist")
    if format_of(folder) is not None:
        raise ModelError(
            f"{folder} is an exported file, not a bundle: give the run or bundle from which it was exported"
        )
    if not (folder / MANIFEST).is_file():
        raise ModelError(f"{folder} is not a bundle: it has no {MANIFEST} (the bundle of a run is RUN/bundle)")
    try:
        manifest = read_json(folder / MANIFEST)
    except RecursionError as error:
        raise ModelError(f"{folder / MANIFEST} is not a bundle's manifest: it is nested too deeply") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ModelError(f"{folder / MANIFEST} is not a bundle's manifest of format {FORMAT}")
    if manifest.pop("sha256", None) != _digest(manifest):
        raise ModelError(f"{folder / MANIFEST} was changed: its content does not match its SHA-256")
    return manifest


def is_bundle(folder: Path) -> bool:
    """Return whether a folder is a bundle with an unchanged manifest."""
    try:
        read_manifest(folder)
    except ModelError:
        return False
    return True


def check_files(folder: Path, files: dict[str, str]) -> None:
    """Verify the files of a bundle against the SHA-256 sums of its manifest (`files`, by name).

    Raises:
        ModelError: A file is missing, outside the folder, or has another SHA-256.
    """
    for file, digest in files.items():
        path = folder / file
        if Path(file).name != file or not path.is_file():
            raise ModelError(f"the bundle {folder} lacks its file {file}")
        if sha256(path) != digest:
            raise ModelError(f"{path} was changed: its SHA-256 differs from the manifest")


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Member:
    """One network of a bundle, with its configuration and test-time augmentation."""

    name: str
    classifier: Classifier
    """Takes images B C H W in [0, 1], returns logits B K."""
    config: ModelConfig
    """Options from which the network can be built again."""
    views: TTAConfig = NO_TTA

    def __post_init__(self) -> None:
        if len(self.views.levels()) > 1:
            raise ConfigError(f"tta '{self.views}': give one number of crops; only training chooses among several")
        self.views.picture_size(self.classifier.spec.size)

    def tta_model(self) -> TTAModel:
        """Return the network with its test-time augmentation."""
        return TTAModel(self.classifier, self.views, self.classifier.spec)


def describe_member(member: Member, file: str) -> dict[str, Any]:
    """Return a member's manifest entry; `file` is the name of its weight file."""
    classifier = member.classifier
    config = replace(member.config, weights=None, pretrained=False, input=InputConfig(**classifier.spec.to_dict()))
    tta = {} if member.views == NO_TTA else {"tta": {"views": str(member.views), "seed": member.views.seed}}
    return {
        "name": member.name,
        "network": classifier.network,
        "options": config.to_dict(),
        "input": classifier.spec.to_dict(),
        **tta,
        "weights": file,
    }


def load_member(weights: dict[str, Path], entry: dict[str, Any], num_classes: int, device: str) -> Member:
    """Build a member from its manifest entry.

    Args:
        weights: Paths of the bundle's files by name; no other file is read.
        entry: The manifest entry from `describe_member`.
        num_classes: K.
        device: Device of the network.

    Raises:
        ModelError: The weights do not fit the network, or are not finite.
    """
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
    load_finite(weights[entry["weights"]], classifier)
    values = entry.get("tta", {"views": "none", "seed": 0})
    tta = TTAConfig.parse(values["views"], seed=int(values["seed"]))
    return Member(entry["name"], classifier.to(device), config, tta)


def load_finite(path: Path, module: nn.Module) -> None:
    """Load weights into a module.

    Raises:
        ModelError: The weights do not fit the module, or are not finite.
    """
    load_weights(path, module)
    names = [name for name, value in module.state_dict().items() if not torch.isfinite(value).all()]
    if names:
        raise ModelError(f"{path} has weights that are not finite, such as {names[0]}")
