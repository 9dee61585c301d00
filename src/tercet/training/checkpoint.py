"""Checkpoints: what a training needs to go on, bit for bit, after it was killed at any moment.

A checkpoint is one file, written whole or not at all, that carries its own SHA-256: a flipped bit is noticed.
The best weights lie beside it in files of their own; a checkpoint names the ones that belong to it and is only
written after them, so the two never contradict each other.
"""

from __future__ import annotations

import hashlib
import io
import pickle  # only for the name of its error
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tercet.ground.errors import ModelError
from tercet.ground.files import atomic_path

_MAGIC = b"tercet-checkpoint-1 "
LAST = "last.ckpt"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values atomically.

    Raises:
        StorageError: The disk is full or closed; the previous checkpoint is untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        stream.write(_MAGIC + digest.encode() + b"\n")
        stream.write(content)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; never runs code from the file.

    Raises:
        ModelError: The file is absent, truncated, changed, or no checkpoint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    header, _, body = content.partition(b"\n")
    if not header.startswith(_MAGIC):
        raise ModelError(f"{path} is not a Tercet checkpoint")
    if hashlib.sha256(body).hexdigest().encode() != header[len(_MAGIC) :]:
        raise ModelError(f"{path} was damaged: its content does not match its SHA-256; start again without --resume")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(body), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelError(f"{path} holds more than tensors and plain values, and is not loaded") from error
    return state


def remove_unreferenced(folder: Path, keep: Iterable[str]) -> None:
    """Delete weights that no checkpoint names any more, and what a crash left half written."""
    kept = {*keep, LAST}
    for path in folder.iterdir():
        if path.name not in kept and (path.suffix == ".safetensors" or path.name.endswith(".tmp")):
            path.unlink(missing_ok=True)
