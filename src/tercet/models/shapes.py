"""Runs of a module on shapes alone: no data, no arithmetic, whatever its size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put every part of `module` in evaluation mode, and back to its own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def abstract_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters without storage that stand for `module`'s, and take gradients."""
    return {
        name: torch.empty_like(value, device="meta").requires_grad_()
        for name, value in module.named_parameters(remove_duplicate=False)
    }


def run_on_shapes(module: nn.Module, inputs: Any, parameters: dict[str, Tensor] | None = None) -> Any:
    """Return what `module` would return for `inputs`, as tensors on the meta device.

    Args:
        module: Any module whose operations have shape rules.
        inputs: Its one argument, of tensors on the meta device.
        parameters: Stand-ins from `abstract_parameters`, where their gradients are wanted.
    """
    buffers = {
        name: torch.empty_like(value, device="meta") for name, value in module.named_buffers(remove_duplicate=False)
    }
    state = {**(parameters or abstract_parameters(module)), **buffers}
    with evaluating(module), torch.set_grad_enabled(parameters is not None):
        return functional_call(module, state, (inputs,))
