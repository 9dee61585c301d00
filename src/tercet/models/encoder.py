"""Features of a frozen network: the part of a classifier before its head, run as fast as this machine can.

Shapes: B images, C channels, H x W pixels, F features.
"""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tercet.models.classifier import Classifier
from tercet.models.forward import evaluation_mode

try:
    import onnxruntime
except ImportError:  # an extra: without it PyTorch computes the features
    onnxruntime = None

Features = NDArray[np.float32]
TOLERANCE = 1e-4
"""Largest difference to PyTorch's features, relative to the largest feature (or 1), at which a faster way is used."""
_MIN_IMAGES = 64  # for fewer, exporting and timing cost more than they save
_TIMED_IMAGES = 16
_TIMINGS = 3


class _Prefix(nn.Module):
    """Backbone and recurrent module, on preprocessed images."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.features, self.recurrent = classifier.features, classifier.recurrent

    def forward(self, images: Tensor) -> Tensor:
        """Map preprocessed images to the features that the head takes."""
        output: Tensor = self.recurrent(self.features(images))
        return output


class Encoder:
    """Maps images to the features that a classifier's head takes; parameters are read once, at the start.

    On the CPU, the first batch decides between PyTorch, PyTorch with channels-last tensors, and ONNX Runtime: the
    fastest of those whose features agree within `TOLERANCE`.

    Args:
        classifier: The network.
        device: Where to compute.
        expected: Number of images that will be encoded; few are not worth a choice.
    """

    def __init__(self, classifier: Classifier, *, device: str = "cpu", expected: int = 0) -> None:
        self.classifier, self.device = classifier, device
        self.engine = "pytorch"
        """pytorch, channels-last or onnxruntime."""
        self._prefix = _Prefix(classifier)
        self._run: Callable[[Tensor], Tensor] | None = None
        self._worth_choosing = device == "cpu" and expected >= _MIN_IMAGES

    def __call__(self, images: Tensor) -> Features:
        """Return the features B F of images B C H W in [0, 1]."""
        with evaluation_mode(self.classifier, self.device), torch.inference_mode():
            prepared = self.classifier.preprocess(images.to(self.device))
            if self._run is None:
                self._run = self._choose(prepared[:_TIMED_IMAGES]) if self._worth_choosing else self._prefix
            return self._run(prepared).flatten(1).float().cpu().numpy()

    def _choose(self, images: Tensor) -> Callable[[Tensor], Tensor]:
        expected = self._prefix(images)
        limit = TOLERANCE * max(1.0, float(expected.abs().max()))
        runs: dict[str, Callable[[Tensor], Tensor]] = {"pytorch": self._prefix, "channels-last": self._channels_last}
        with suppress(Exception):  # a network that cannot be exported is computed by PyTorch
            if onnxruntime is not None:
                runs["onnxruntime"] = _onnx_run(self._prefix, images)
        times = {
            name: _fastest(run, images)
            for name, run in runs.items()
            if name == "pytorch" or float((run(images) - expected).abs().max()) <= limit
        }
        self.engine = min(times, key=lambda name: times[name])
        return runs[self.engine]

    def _channels_last(self, images: Tensor) -> Tensor:
        output: Tensor = self._prefix(images.contiguous(memory_format=torch.channels_last))
        return output


def _onnx_run(module: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that runs a module in ONNX Runtime, for any number of images of this size."""
    file: Any = io.BytesIO()  # the exporter writes to it, though its annotation has paths only
    with warnings.catch_warnings(), torch.inference_mode(False):
        warnings.simplefilter("ignore")
        # The exporter by tracing takes 0.4 s where the one by torch.export takes 11 s; the result is checked anyway.
        torch.onnx.export(
            module,
            (images.clone(),),
            file,
            dynamo=False,
            input_names=["images"],
            dynamic_axes={"images": {0: "batch"}},
        )
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return run


def _fastest(run: Callable[[Tensor], Tensor], images: Tensor) -> float:
    seconds = []
    for _ in range(_TIMINGS):
        start = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
