"""Features of frozen backbones, computed as fast as this machine can, and the part of a classifier after them.

Shapes: B images, C channels, H x W pixels, F features, h x w cells of D features, T labels of a sequence.
"""

from __future__ import annotations

import hashlib
import io
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, cast

import tercet.core.torchvision_ops  # noqa: F401  # isort: skip  (before timm)

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tercet.models.backbone import Backbone, backbone_origin
from tercet.models.classifier import Classifier
from tercet.models.forward import evaluation_mode

try:
    import onnxruntime
except ImportError:  # an extra: without it PyTorch computes the features
    onnxruntime = None

Features = NDArray[np.float32]
TOLERANCE = 1e-4
"""Largest difference to PyTorch's features, relative to the largest feature (or 1), at which a faster way is used."""
_WORTH_SECONDS = 4.0  # of PyTorch: for less, exporting and timing cost more than they save
_TIMED_IMAGES = 4  # as fast for each image as larger batches are
_TIMINGS = 2  # after the comparison of the features, which warms up


class AfterBackbone(nn.Module):
    """The part of a classifier after its backbone: features B F, or a feature map B h w D, to logits B K."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.recurrent, self.head = classifier.recurrent, classifier.head

    def forward(self, features: Tensor, sequence: Tensor | None = None) -> Tensor:
        """Map features to logits; `sequence` (B T) is that of `Classifier.forward`."""
        values = self.recurrent(features)
        return cast("Tensor", self.head(values) if sequence is None else self.head(values, sequence))


def has_map(classifier: Classifier) -> bool:
    """Whether the features of an image are a feature map h w D of a timm backbone, not a vector F."""
    return isinstance(classifier.features, Backbone) and classifier.features.read == "map"


def encoder_key(classifier: Classifier, *arguments: object) -> str:
    """Return a SHA-256 of all that determines the features of an image: the network, its weights and its input.

    Args:
        classifier: The network.
        *arguments: Options that change the computation but not the weights.
    """
    spec = sorted(classifier.spec.to_dict().items())
    origin = backbone_origin(classifier)  # its name does not depend on the repository, nor on a bundle
    network = (origin.architecture, sorted(origin.arguments.items())) if origin else classifier.network
    arguments += ("map",) * has_map(classifier)  # some networks have equal weights with and without pooling
    digest = hashlib.sha256(repr((network, timm.__version__, spec, arguments)).encode())
    for name, tensor in classifier.features.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Encoder:
    """Maps images to the features of a classifier's backbone; its parameters are read once, at the start.

    On the CPU, the first batch decides between PyTorch, PyTorch with channels-last tensors, and ONNX Runtime: the
    fastest of those whose features agree within `TOLERANCE`.

    Args:
        classifier: The network.
        device: Where to compute.
    """

    def __init__(self, classifier: Classifier, *, device: str = "cpu") -> None:
        self.classifier, self.device = classifier, device
        self.engine = "pytorch"
        """pytorch, channels-last or onnxruntime."""
        self._prefix = classifier.features
        self._run: Callable[[Tensor], Tensor] | None = None

    def encode(self, batches: Iterable[Tensor], *, expected: int = 0) -> Iterator[Features]:
        """Yield the features of each batch of images B C H W in [0, 1]: B h w D of a feature map, else B F.

        Args:
            batches: The images.
            expected: Their number, further calls included; the choice must save more time than it takes.
        """
        with evaluation_mode(self.classifier, self.device):
            for batch in batches:
                with torch.inference_mode():
                    images = self.classifier.preprocess(batch.to(self.device))
                    if self._run is None:
                        self._run = self._choose(images[:_TIMED_IMAGES], expected)
                    output = self._run(images).float().cpu()
                yield (output if has_map(self.classifier) else output.flatten(1)).numpy()

    def _choose(self, images: Tensor, count: int) -> Callable[[Tensor], Tensor]:
        if self.device != "cpu" or not count:
            return self._prefix
        expected = self._prefix(images)
        if _fastest(self._prefix, images) * count / len(images) < _WORTH_SECONDS:
            return self._prefix
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
        # The exporter by tracing takes a fraction of the time of the one by torch.export, and the result is checked.
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
