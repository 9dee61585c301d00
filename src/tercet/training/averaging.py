"""Exponential moving average of the weights; a no-op object when it is off, so the loop has one path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Moving average of all parameters and buffers of a module.

    Args:
        module: The module that is trained.
        decay: Share of the old average kept at each update; None turns averaging off.
    """

    def __init__(self, module: nn.Module, decay: float | None) -> None:
        self.module = module
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Start again from the module's present weights."""
        if self.decay is not None:
            self.average = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights; buffers that are no floats are copied."""
        if self.decay is None:
            return
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - self.decay)
            else:
                self.average[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the module carry the averaged weights inside the block."""
        if self.decay is None:
            yield
            return
        trained = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.average)
        try:
            yield
        finally:
            self.module.load_state_dict(trained)
