"""Weights of a module as a safetensors file."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from tercet.core.errors import ModelError, StorageError
from tercet.core.files import atomic_path, sha256

Shapes = dict[str, tuple[int, ...]]
_MAX_HEADER = 4_000_000  # bytes, of about 40,000 tensors


def read_shapes(path: Path) -> Shapes:
    """Return the shapes of the tensors of a safetensors file by name, from its header.

    Raises:
        ModelError: The file is not readable, the header is not one of safetensors, or larger than 4 MB.
    """
    try:
        with open(path, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MAX_HEADER:
                raise ModelError(f"the weights {path} have a header of {length} bytes, more than {_MAX_HEADER}")
            header = json.loads(stream.read(length))
        return {name: tuple(map(int, header[name]["shape"])) for name in header if name != "__metadata__"}
    except (OSError, ValueError, TypeError, LookupError, AttributeError, struct.error, RecursionError) as error:
        raise ModelError(f"cannot read the weights {path}: {error}") from error


def check_shapes(path: Path, build: Callable[[], nn.Module]) -> None:
    """Check that a file has the weights of a network, which is built without memory for its own.

    A description of a network may be hostile, such as one with 20,000 units or 200,000 layers. Tensors that a module
    names in `resized` may have any number of rows.

    Args:
        path: The file.
        build: Builds the network on the default device.

    Raises:
        ModelError: Names or shapes differ, or the network has many times the tensors of the file.
    """
    shapes = read_shapes(path)
    with torch.device("meta"), _limited_parameters(_SPARE + _MULTIPLE * len(shapes), path):
        module = build()
    parts = module.named_modules()
    resized = {f"{prefix}.{name}".lstrip(".") for prefix, part in parts for name in getattr(part, "resized", ())}
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    for name in resized & shapes.keys():
        expected[name] = (*shapes[name][:1], *expected[name][1:])
    if differing := sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name)):
        name = differing[0]
        raise ModelError(
            f"{path} belongs to another network: {name} is {_describe(shapes.get(name))} in the file and "
            f"{_describe(expected.get(name))} in the network"
        )


_MULTIPLE, _SPARE = 4, 1000  # parameters of layers that are removed again, such as a classifier


@contextmanager
def _limited_parameters(limit: int, path: Path) -> Iterator[None]:
    """Raise a ModelError in the modules that this thread creates when they have too many parameters."""
    thread, count = threading.get_ident(), 0

    def on_parameter(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        if threading.get_ident() == thread:
            count += 1
            if count > limit:
                raise ModelError(f"{path} belongs to another network, which has more than {limit} parameters")

    handle = register_module_parameter_registration_hook(on_parameter)
    try:
        yield
    finally:
        handle.remove()


def _describe(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {list(shape)}"


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
