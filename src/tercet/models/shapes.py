"""A module without its numbers, to be run on shapes alone: no data, no arithmetic, whatever its size."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def abstract_copy(module: Module) -> Module:
    """Return a copy in evaluation mode whose parameters and buffers have shapes but no storage (the meta device).

    Every parameter of the copy takes gradients; what is shared in the module is shared in the copy.
    """
    stand_ins: dict[int, Any] = {}
    for parameter in module.parameters():
        stand_ins[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"))
    for buffer in module.buffers():
        stand_ins[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, stand_ins).eval()
