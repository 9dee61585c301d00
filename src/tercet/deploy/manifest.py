"""The manifest of a bundle: what the folder holds, and the proof that it is unchanged.

A manifest may come from anywhere: the files it names are read only if they lie in the folder itself, and only with
the SHA-256 that it gives.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tercet.deploy.formats import format_of
from tercet.ground.errors import ModelError
from tercet.ground.files import read_json, sha256, write_json

MANIFEST = "manifest.json"
FORMAT = "tercet-bundle-1"


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write a manifest with its own SHA-256."""
    manifest = {"format": FORMAT, **content}
    write_json(folder / MANIFEST, {**manifest, "sha256": _digest(manifest)})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a bundle's manifest after checking that it is one and is unchanged.

    Raises:
        ModelError: The folder is no bundle, or the manifest was changed.
    """
    if not folder.exists():
        raise ModelError(f"{folder} is not a bundle: there is no such folder")
    if format_of(folder) is not None:
        raise ModelError(f"{folder} is an exported file, not a bundle: name the run or bundle it was made of")
    if not (folder / MANIFEST).is_file():
        raise ModelError(f"{folder} is not a bundle: it has no {MANIFEST} (a run's bundle is RUN/bundle)")
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
    """Tell whether a folder holds a bundle with an unchanged manifest."""
    try:
        read_manifest(folder)
    except ModelError:
        return False
    return True


def check_files(folder: Path, files: dict[str, str]) -> None:
    """Check that every file of a bundle lies in its folder and is unchanged.

    Raises:
        ModelError: One is elsewhere, missing, or has another SHA-256.
    """
    for file, digest in files.items():
        path = folder / file
        if Path(file).name != file or not path.is_file():
            raise ModelError(f"the bundle {folder} lacks its file {file}")
        if sha256(path) != digest:
            raise ModelError(f"{path} was changed: its SHA-256 is not the manifest's")


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
