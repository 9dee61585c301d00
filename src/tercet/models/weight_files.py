"""Weights of one module as a safetensors file."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tercet.core.errors import ModelError, StorageError
from tercet.core.files import atomic_path, sha256


def save_weights(path: Path, module: nn.Module) -> str:
    """Write a module's parameters and buffers as safetensors, atomically; return the file's SHA-256."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:
            raise StorageError(f"cannot write {path}: {error}; free space or choose another folder") from error
    return sha256(path)


def load_weights(path: Path, module: nn.Module, *, digest: str | None = None) -> None:
    """Read `save_weights`' file into a module; every name must match.

    Raises:
        ModelError: The file is absent, changed (its SHA-256 is not `digest`), or made for another network.
    """
    try:
        if digest is not None and sha256(path) != digest:
            raise ModelError(f"{path} was changed: its SHA-256 is not the recorded one")
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the weights {path}: {error}") from error
    restore_module(module, tensors, source=path)


def restore_module(module: nn.Module, tensors: dict[str, Tensor], *, source: Path) -> None:
    """Give a module these parameters and buffers; every name and shape must match.

    Raises:
        ModelError: They are another network's.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        first = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise ModelError(f"{source} belongs to another network: {first}") from error
