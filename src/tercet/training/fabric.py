"""What a step runs on: device and precision through Lightning Fabric, and the parts of a batch."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tercet.records.contracts import Batch
from tercet.training.losses import Objective

logging.getLogger("lightning.fabric").setLevel(logging.ERROR)  # its start-up banner is no news


def autocast(device: str, precision: str) -> torch.autocast:
    """Return the context in which a forward pass runs: with bf16 where it is safe, or as it is.

    Fabric's own mixed precision would also cast the images, which are resized in 32 bits here as everywhere.
    """
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bf16")


def make_fabric(device: str) -> Fabric:
    """Return Fabric on one device (cpu, cuda, cuda:N or mps), or on this process's share under torchrun."""
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


def choose_precision(module: nn.Module, batch: Batch, objective: Objective, *, device: str, num_steps: int = 3) -> str:
    """Return bf16 where some timed steps are at least a tenth faster with it, else 32.

    It pays for dense convolutions, large matrices and LSTMs, and costs for depthwise networks; so it is measured.
    """
    trial = copy.deepcopy(module).to(device).train()
    batch = batch.to(device)
    seconds = {}
    for name in ("32", "bf16"):
        for step in range(num_steps + 1):  # the first one warms up
            if step == 1:
                started = time.perf_counter()
            with autocast(device, name):
                loss, _ = objective(trial, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            loss.item()  # waits for the device
        seconds[name] = time.perf_counter() - started
    return "bf16" if seconds["bf16"] < 0.9 * seconds["32"] else "32"


def split(batch: Batch, parts: int) -> Iterator[Batch]:
    """Cut a batch into `parts` nearly equal ones (fewer if it is that small)."""
    size = -(-len(batch) // parts)
    for start in range(0, len(batch), size):
        yield batch.rows(slice(start, start + size)) if parts > 1 else batch


@contextmanager
def steady_batch_norm(module: nn.Module, *, alone: bool) -> Iterator[None]:
    """Let batch norm use its running statistics for a single sample, which has no variance of its own."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.training] if alone else []
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()
