"""A module without its numbers, to be run on shapes alone: no data, no arithmetic, whatever its size."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def abstract_copy(module: Module, *, products: list[int] | None = None) -> Module:
    """Return a copy in evaluation mode whose parameters and buffers have shapes but no storage (the meta device).

    Every parameter of the copy takes gradients; what is shared in the module is shared in the copy. Recurrent kernels
    do not come apart into steps, which would take seconds.

    Args:
        module: The module.
        products: Gains the multiply-adds of each recurrent kernel that runs.
    """
    stand_ins: dict[int, Any] = {}
    for parameter in module.parameters():
        stand_ins[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"))
    for buffer in module.buffers():
        stand_ins[id(buffer)] = torch.empty_like(buffer, device="meta")
    abstract = copy.deepcopy(module, stand_ins).eval()
    for part in abstract.modules():
        if isinstance(part, nn.RNNBase):
            part.forward = _without_steps(part, [] if products is None else products)
    return abstract


def _without_steps(kernel: nn.RNNBase, products: list[int]) -> Callable[..., Any]:
    """Return a forward pass of a recurrent kernel that has its shapes and gradients, and counts what it would cost.

    Each step multiplies by every weight once: G h (i + h) a direction, with i inputs, h units and G = 4 matrices in an
    LSTM, 3 in a GRU, 1 in a simple RNN.
    """
    weights = sum(weight.numel() for name, weight in kernel.named_parameters() if name.startswith("weight"))
    states = kernel.num_layers * (2 if kernel.bidirectional else 1)

    def forward(sequence: Tensor, state: Any = None) -> Any:
        *leading, _ = sequence.shape  # B T, T B, or T alone
        products.append(math.prod(leading) * weights)
        units = kernel.proj_size or kernel.hidden_size
        everything = sequence.sum() + sum(parameter.sum() for parameter in kernel.parameters())
        batch = leading[:-1] if kernel.batch_first else leading[1:]
        output = everything.expand(*leading, units * (2 if kernel.bidirectional else 1)).contiguous()
        hidden, cell = (everything.expand(states, *batch, size) for size in (units, kernel.hidden_size))
        return output, (hidden, cell) if isinstance(kernel, nn.LSTM) else hidden

    return forward
