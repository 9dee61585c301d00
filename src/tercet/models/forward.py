"""Run a module over batches: predictions and throughput."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tercet.core.errors import DataError, ModelError
from tercet.core.predictions import UNKNOWN, Ints, Predictions
from tercet.core.types import Batch, BatchSource


class Logits(NamedTuple):
    """What a module said about a whole source."""

    ids: tuple[str, ...]
    """N sample names."""
    values: NDArray[np.float32]
    """N K."""
    labels: Ints
    """N true class indices, or sets (N K) of 0 and 1; -1 where unknown."""


def predict(module: nn.Module, source: BatchSource, *, classes: Sequence[str], device: str = "cpu") -> Predictions:
    """Return the probabilities that `module` gives to every sample of `source.epoch(0)`.

    Args:
        module: Takes a batch's images (B C H W, or a tuple of such) and returns logits B K.
        source: Where the batches come from.
        classes: K class names, in the order of the logits.
        device: Where to compute; the module is put back afterwards.

    Raises:
        DataError: The source is empty or names a sample twice.
        ModelError: The logits are not B K, or not finite.
    """
    logits = predict_logits(module, source, device=device)
    width = logits.values.shape[1]
    if width != len(classes):
        raise ModelError(f"the network has {width} outputs for {len(classes)} classes: build it with that many")
    finite = np.isfinite(logits.values.max(axis=1))
    if not finite.all():
        name = logits.ids[int(np.argmin(finite))]
        raise ModelError(f"the network's logits for sample '{name}' are not finite: its weights or that image are bad")
    return Predictions.from_logits(logits.values, ids=logits.ids, classes=classes, labels=logits.labels)


def predict_logits(module: nn.Module, source: BatchSource, *, device: str = "cpu") -> Logits:
    """Return the logits of every sample of `source.epoch(0)`, in its order; evaluation mode, no gradients.

    Raises:
        DataError: The source is empty or names a sample twice.
        ModelError: The logits are not B K.
    """
    ids: list[str] = []
    values: list[Tensor] = []
    labels: list[Tensor] = []
    with evaluation_mode(module, device):
        # Only the forward pass is in inference mode: tensors that a source keeps must stay fit for training.
        for batch in source.epoch(0):
            moved = batch.to(device)
            with torch.inference_mode():
                values.append(_checked(module(moved.images), len(batch)).float().cpu())
            ids.extend(batch.ids)
            labels.append(_labels(batch))
    if not ids:
        raise DataError("there is no sample to predict")
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"sample '{twice}' comes twice in one epoch: predictions need every sample once")
    return Logits(tuple(ids), torch.cat(values).numpy(), torch.cat(labels).numpy())


@contextmanager
def evaluation_mode(module: nn.Module, device: str) -> Iterator[None]:
    """Put `module` on `device` in evaluation mode; afterwards every part is as it was found."""
    modes = {part: part.training for part in module.modules()}
    home = next((parameter.device for parameter in module.parameters()), None)
    module.to(device).eval()
    try:
        yield
    finally:
        if home is not None:
            module.to(home)
        for part, training in modes.items():
            part.training = training


def _checked(logits: Tensor, count: int) -> Tensor:
    if logits.ndim != 2 or logits.shape[0] != count:
        raise ModelError(f"the network returned shape {tuple(logits.shape)}, expected ({count}, classes)")
    return logits


def _labels(batch: Batch) -> Tensor:
    labels = batch.labels
    if labels is None and batch.targets is not None and not batch.targets.is_floating_point():
        labels = batch.targets
    return torch.full((len(batch),), UNKNOWN) if labels is None else labels.detach().long().cpu()


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
    with evaluation_mode(module, device), torch.inference_mode():
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
