"""Device and precision of a training step (Lightning Fabric), micro-batches, and the average of the weights (EMA)."""

from __future__ import annotations

import tercet.core.torchvision_ops  # noqa: F401  # isort: skip  (before timm and lightning)

import copy
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tercet.core.errors import ConfigError, is_out_of_memory
from tercet.core.runtime import generator_states, restore_generators
from tercet.core.types import Batch
from tercet.training.losses import Objective

logging.getLogger("lightning.fabric").setLevel(logging.ERROR)  # it prints a banner at start-up


def autocast(device: str, precision: str) -> torch.autocast:
    """Return the context of a forward pass; with bf16, PyTorch casts only the operations that allow it.

    Fabric's own mixed precision would also cast the input images, which the module must resize in 32 bits.
    """
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bf16")


def make_fabric(device: str) -> Fabric:
    """Return Fabric on one device (cpu, cuda, cuda:N or mps), or as one process of a torchrun launch."""
    kind, _, index = device.partition(":")
    world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    devices: int | list[int] = [int(index)] if index else world
    fabric = Fabric(
        accelerator=kind,
        devices=devices,
        strategy="ddp" if world > 1 else "auto",
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        precision="32-true",
    )
    fabric.launch()
    return fabric


def channels_last(module: nn.Module) -> nn.Module:
    """Convert a module with 2-d convolutions to the channels-last memory format, in which they are faster."""
    if any(isinstance(layer, nn.Conv2d) for layer in module.modules()):
        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    return module


def bf16_fault(module: nn.Module, batch: Batch, objective: Objective, *, device: str) -> str:
    """Return why this machine cannot compute a step in bf16, or an empty string if it can.

    It is tried on two images, because support depends on operation and processor: oneDNN has bf16 convolutions for
    all processors, but bf16 LSTMs only for those with AVX-512.
    """
    batch = batch.rows(slice(0, 2)).to(device)
    with _training_copy(module, device) as trial:
        _train_step(trial, batch, objective, device, "32")  # an error here is not due to bf16
        try:
            _train_step(trial, batch, objective, device, "bf16")
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return str(error).splitlines()[0].partition(". ")[0]
    return ""


def check_step(module: nn.Module, batch: Batch, objective: Objective, *, device: str) -> None:
    """Compute loss and gradients of a batch with a copy of a module, so that what the caller wrote raises early."""
    with _training_copy(module, device) as trial:
        _train_step(trial, batch.to(device), objective, device, "32")


def require_bf16(module: nn.Module, batch: Batch, objective: Objective, *, device: str, name: str) -> None:
    """Raise if this machine cannot compute a step of the member `name` in bf16.

    Raises:
        ConfigError: The machine cannot compute it.
    """
    if fault := bf16_fault(module, batch, objective, device=device):
        raise ConfigError(
            f"'{name}' cannot be computed in bf16 on this {device} ({fault}): use --precision 32 or --precision auto"
        )


_FEW, _SLOW = 8, 3.0  # images of a first comparison; ratio of times from which on it is the last


def choose_precision(
    module: nn.Module, batch: Batch, objective: Objective, *, device: str, num_steps: int = 3
) -> tuple[str, str]:
    """Return `bf16` if it can be computed and is at least 10 % faster, else `32`, and the reason.

    bf16 is faster for dense convolutions, large matrices and LSTMs, and slower for depthwise convolutions, so it is
    measured. The fastest of the steps is compared, because other work on the machine only adds time. A few images are
    enough where bf16 takes several times as long: on processors without bf16 units, steps may take minutes.
    """
    if fault := bf16_fault(module, batch, objective, device=device):
        return "32", f"bf16 cannot be computed on this {device}: {fault}"
    batch = batch.to(device)
    with _training_copy(module, device) as trial:
        ratio = _bf16_ratio(trial, batch.rows(slice(0, _FEW)), objective, device, num_steps=1)
        if ratio < _SLOW:
            ratio = _bf16_ratio(trial, batch, objective, device, num_steps=num_steps)
    return "bf16" if ratio < 0.9 else "32", f"a step in bf16 takes {ratio:.2f} of the time of one in 32 bits"


def _bf16_ratio(trial: nn.Module, batch: Batch, objective: Objective, device: str, *, num_steps: int) -> float:
    """Return the time of the fastest of some steps in bf16, in units of that in 32 bits."""
    seconds: dict[str, list[float]] = {"32": [], "bf16": []}
    for _ in range(num_steps + 1):  # the first step warms up
        for name, times in seconds.items():
            started = time.perf_counter()
            _train_step(trial, batch, objective, device, name)
            times.append(time.perf_counter() - started)
    return min(seconds["bf16"][1:]) / min(seconds["32"][1:])


def step_seconds(module: nn.Module, batch: Batch, objective: Objective, *, device: str, num_steps: int = 3) -> float:
    """Return the seconds of a training step on a batch without the optimizer: the fastest of some steps."""
    batch, times = batch.to(device), []
    with _training_copy(module, device) as trial:
        for _ in range(num_steps + 1):  # the first step warms up
            started = time.perf_counter()
            _train_step(trial, batch, objective, device, "32")
            times.append(time.perf_counter() - started)
    return min(times[1:])


@contextmanager
def _training_copy(module: nn.Module, device: str) -> Iterator[nn.Module]:
    """Yield a copy in training mode; afterwards the random generators are restored."""
    states = generator_states()
    try:
        yield channels_last(copy.deepcopy(module).to(device).train())
    finally:
        restore_generators(states)


def _train_step(trial: nn.Module, batch: Batch, objective: Objective, device: str, precision: str) -> None:
    trial.zero_grad(set_to_none=True)
    with steady_batch_norm(trial, single=len(batch) == 1), autocast(device, precision):
        loss, _ = objective(trial, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    loss.item()  # synchronizes with the device


def split(batch: Batch, parts: int) -> Iterator[Batch]:
    """Yield `parts` micro-batches of nearly equal size, or fewer if the batch is too small."""
    size = -(-len(batch) // parts)
    for start in range(0, len(batch), size):
        yield batch.rows(slice(start, start + size)) if parts > 1 else batch


@contextmanager
def steady_batch_norm(module: nn.Module, *, single: bool) -> Iterator[None]:
    """Use the running statistics of batch norm for a batch of a single sample, which has no variance."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.training] if single else []
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()


class WeightAverage:
    """Exponential moving average (EMA) of a module's parameters and buffers.

    Args:
        module: The module in training.
        decay: Weight of the old average at each step, min(decay, (1 + n) / (10 + n)) after n steps, as in TensorFlow: a
            short training would otherwise keep its initial weights. None disables averaging.
    """

    def __init__(self, module: nn.Module, decay: float | None) -> None:
        self.module = module
        self.decay = decay
        self.weights: dict[str, Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Restart from the module's current weights."""
        if self.decay is not None:
            self.weights = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the current weights; integer buffers are copied.

        Args:
            step: Number of updates since `reset`.
        """
        if self.decay is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)
            else:
                self.weights[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the module the averaged weights within the `with` block."""
        if self.decay is None:
            yield
            return
        trained = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.weights)
        try:
            yield
        finally:
            self.module.load_state_dict(trained)
