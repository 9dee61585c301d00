"""How fast a network predicts."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from tercet.evaluation.predict import evaluating
from tercet.records.contracts import Batch

_WARM_UP, _FEWEST, _MOST = 2, 3, 20
_ENOUGH = 1.0  # seconds of timed passes


def images_per_second(module: nn.Module, batch: Batch, *, device: str = "cpu") -> float:
    """Return the images a second of the median forward pass over one batch that lies ready on the device.

    Two passes warm up; then 3 to 20 are timed, until a second is over. Decoding, resizing and the way to the device
    are not in it; the network's own preprocessing is.

    Args:
        module: Takes a batch's images and returns logits B K.
        batch: B images.
        device: Where to compute; the module is put back afterwards.
    """
    seconds: list[float] = []
    with evaluating(module, device), torch.inference_mode():
        images = batch.to(device).images
        for _ in range(_WARM_UP):
            module(images)
        while len(seconds) < _FEWEST or (sum(seconds) < _ENOUGH and len(seconds) < _MOST):
            _wait(device)
            started = time.perf_counter()
            module(images)
            _wait(device)
            seconds.append(time.perf_counter() - started)
    return len(batch) / statistics.median(seconds)


def _wait(device: str) -> None:
    """Let an accelerator finish what it was given: its calls return before the work is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()
