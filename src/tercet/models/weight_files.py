"""Weights of a module as a safetensors file."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tercet.core.errors import ModelError, StorageError
from tercet.core.files import atomic_path, sha256


def save_weights(path: Path, module: nn.Module) -> str:
    """Write parameters and buffers atomically; return the SHA-256 of the file."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:
            raise StorageError(f"cannot write {path}: {error}; free disk space or choose another folder") from error
    return sha256(path)


def load_weights(path: Path, module: nn.Module, *, digest: str | None = None) -> None:
    """Load a file of `save_weights` into a module.

    Raises:
        ModelError: The file is missing, changed (its SHA-256 is not `digest`), or of another network.
    """
    try:
        if digest is not None and sha256(path) != digest:
            raise ModelError(f"{path} was changed: its SHA-256 is not the recorded one")
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the weights {path}: {error}") from error
    restore_module(module, tensors, source=path)


def restore_module(module: nn.Module, tensors: dict[str, Tensor], *, source: Path) -> None:
    """Load parameters and buffers into a module.

    Raises:
        ModelError: Names or shapes differ.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        first = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise ModelError(f"{source} belongs to another network: {first}") from error
