"""Members in 8 bits: convolutions and dense layers between quantising nodes, where the answers bear it.

Ranges are read from images that are shown to the member in 32 bits. Recurrent layers, preprocessing and combiner stay
as they are. Shapes: N images, B of them, C channels, h x w pixels of what the member is shown, K classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from tercet.core.errors import ModelError
from tercet.core.resource_limits import available_cores
from tercet.data.input_batches import InputBatches
from tercet.ensemble.bundle import Bundle
from tercet.export.verification import ImageInput

_PRODUCTS = ["Conv", "Gemm", "MatMul"]
_BETWEEN = ["Add", "Mul", "Relu", "Clip", "Sigmoid", "HardSigmoid", "ReduceMean", "MaxPool", "AveragePool"]
"""What stands between convolutions: left out, every one of them would be a way back to 32 bits and forth."""
_BATCH = 8
_MOST = 64  # images that ranges are read from

CalibrationBatches = Sequence[NDArray[np.float32]]


def calibration_batches(bundle: Bundle, member: int, pictures: Sequence[ImageInput]) -> CalibrationBatches:
    """Return what a member is shown of the pictures, in batches B C h w."""
    source = InputBatches(list(pictures), [bundle.specs[member]], batch_size=_BATCH)
    return [batch.images[0].numpy() for batch in source.epoch(0)]


def quantize(graph: ModelProto, batches: CalibrationBatches, *, name: str) -> ModelProto | None:
    """Return a member's graph with its convolutions and dense layers in 8 bits; None where it has neither.

    Args:
        graph: From pictures to logits.
        batches: What ranges are read from.
        name: The member's, for messages.

    Raises:
        ModelError: onnxruntime cannot quantise it.
    """
    step = max(1, len(batches) * _BATCH // _MOST)
    with tempfile.TemporaryDirectory() as folder:
        given, ready, made = (Path(folder) / f"{stage}.onnx" for stage in ("given", "ready", "made"))
        onnx.save(graph, given)
        try:
            quant_pre_process(given, ready, skip_symbolic_shape=True)
            quantize_static(
                ready,
                made,
                _Reader(graph.graph.input[0].name, batches[::step]),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*_PRODUCTS, *_BETWEEN],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            quantized = onnx.load(made)
        except Exception as error:  # its tools raise anything
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise ModelError(f"member '{name}' cannot be quantised ({reason}): export without --int8") from error
    own = [entry.version for entry in graph.opset_import if entry.domain == ""]
    new = [entry.version for entry in quantized.opset_import if entry.domain == ""]
    changed = any(node.op_type == "QuantizeLinear" for node in quantized.graph.node)
    return quantized if changed and own == new else None


def accuracy_loss(
    graph: ModelProto,
    quantized: ModelProto,
    batches: CalibrationBatches,
    truth: NDArray[np.int64] | None,
    threshold: float | None,
) -> float:
    """Return what accuracy 8 bits cost a member; where nothing is labelled, the share of other answers.

    Args:
        graph: The member in 32 bits.
        quantized: In 8 bits.
        batches: What it is shown of N images.
        truth: N class indices, or N K sets; -1 where unknown.
        threshold: Of the scores, where sets of labels are told.
    """
    before, after = (_answers(one, batches, threshold) for one in (graph, quantized))
    count = len(before)
    if truth is not None:
        known = (truth.reshape(count, -1) >= 0).all(axis=1)
        if known.any():
            right = [(one == truth).reshape(count, -1).all(axis=1)[known].mean() for one in (before, after)]
            return float(right[0] - right[1])
    return float((before != after).reshape(count, -1).any(axis=1).mean())


def _answers(graph: ModelProto, batches: CalibrationBatches, threshold: float | None) -> NDArray[np.int64]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = graph.graph.input[0].name
    logits = np.concatenate([session.run(None, {name: batch})[0] for batch in batches])
    if threshold is None:
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)
    return np.asarray(logits > np.log(threshold / (1 - threshold)), dtype=np.int64)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime tells no types
    """Hands batches to the quantiser."""

    def __init__(self, name: str, batches: CalibrationBatches) -> None:
        self._left: Iterator[dict[str, Any]] = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)
