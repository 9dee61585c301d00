"""Inference with a module: predictions over batches, and throughput.

Shapes: B images, N samples, C channels, H x W pixels, K classes.
"""

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
    """Logits of all samples of a source."""

    ids: tuple[str, ...]
    """N sample names."""
    values: NDArray[np.float32]
    """N K."""
    labels: Ints
    """True class indices N, or multi-label N K with 0 and 1; -1 if unknown."""


def predict(module: nn.Module, source: BatchSource, *, classes: Sequence[str], device: str = "cpu") -> Predictions:
    """Return the predictions of a module for every sample of `source.epoch(0)`.

    Args:
        module: Maps a batch's images (B C H W, or a tuple of such tensors) to logits B K.
        source: Batches.
        classes: K class names, in the order of the logits.
        device: Device for the computation; the module is moved back afterwards.

    Raises:
        DataError: The source is empty or has a sample twice.
        ModelError: The logits are not B K, or not finite.
    """
    logits = predict_logits(module, source, device=device)
    num_outputs = logits.values.shape[1]
    if num_outputs != len(classes):
        raise ModelError(f"the network has {num_outputs} outputs for {len(classes)} classes: set num_classes to match")
    finite = np.isfinite(logits.values.max(axis=1))
    if not finite.all():
        name = logits.ids[int(np.argmin(finite))]
        raise ModelError(f"the network's logits for sample '{name}' are not finite: check its weights and this image")
    return Predictions.from_logits(logits.values, ids=logits.ids, classes=classes, labels=logits.labels)


def predict_logits(module: nn.Module, source: BatchSource, *, device: str = "cpu") -> Logits:
    """Return the logits of every sample of `source.epoch(0)`, in its order; evaluation mode, no gradients.

    Raises:
        DataError: The source is empty or has a sample twice.
        ModelError: The logits are not B K.
    """
    ids: list[str] = []
    values: list[Tensor] = []
    labels: list[Tensor] = []
    with evaluation_mode(module, device):
        # Only the forward pass is in inference mode: tensors that a source caches must stay usable for training.
        for batch in source.epoch(0):
            moved = batch.to(device)
            with torch.inference_mode():
                values.append(_check_shape(module(moved.images), len(batch)).float().cpu())
            ids.extend(batch.ids)
            labels.append(_labels(batch))
    if not ids:
        raise DataError("no samples to predict")
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        duplicate = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"sample '{duplicate}' occurs twice in one epoch: predictions need every sample once")
    return Logits(tuple(ids), torch.cat(values).numpy(), torch.cat(labels).numpy())


@contextmanager
def evaluation_mode(module: nn.Module, device: str) -> Iterator[None]:
    """Move a module to `device` in evaluation mode; afterwards device and modes are restored."""
    modes = {part: part.training for part in module.modules()}
    original = next((parameter.device for parameter in module.parameters()), None)
    module.to(device).eval()
    try:
        yield
    finally:
        if original is not None:
            module.to(original)
        for part, training in modes.items():
            part.training = training


def _check_shape(logits: Tensor, count: int) -> Tensor:
    if logits.ndim != 2 or logits.shape[0] != count:
        raise ModelError(f"the network returned shape {tuple(logits.shape)}, expected ({count}, classes)")
    return logits


def _labels(batch: Batch) -> Tensor:
    labels = batch.labels
    if labels is None and batch.targets is not None and not batch.targets.is_floating_point():
        labels = batch.targets
    return torch.full((len(batch),), UNKNOWN) if labels is None else labels.detach().long().cpu()


_WARM_UP, _MIN_PASSES, _MAX_PASSES = 2, 3, 20
_TIMED_SECONDS = 1.0


def images_per_second(module: nn.Module, batch: Batch, *, device: str = "cpu") -> float:
    """Return the throughput of a module in images per second, from the median forward pass over one batch.

    After 2 warm-up passes, 3 to 20 passes are timed, within about a second. Decoding, resizing and the transfer to the
    device are not included; the module's own preprocessing is.

    Args:
        module: Maps a batch's images to logits B K.
        batch: B images.
        device: Device for the computation; the module is moved back afterwards.
    """
    seconds: list[float] = []
    with evaluation_mode(module, device), torch.inference_mode():
        images = batch.to(device).images
        for _ in range(_WARM_UP):
            module(images)
        while len(seconds) < _MIN_PASSES or (sum(seconds) < _TIMED_SECONDS and len(seconds) < _MAX_PASSES):
            _synchronize(device)
            started = time.perf_counter()
            module(images)
            _synchronize(device)
            seconds.append(time.perf_counter() - started)
    return len(batch) / statistics.median(seconds)


def _synchronize(device: str) -> None:
    """Wait for an accelerator, whose calls return before the work is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()
