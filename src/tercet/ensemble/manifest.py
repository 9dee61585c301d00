"""The manifest of a bundle: reading, writing and verification, without PyTorch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tercet.core.errors import ModelError
from tercet.core.files import read_json, sha256, write_json
from tercet.core.model_formats import format_of

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
