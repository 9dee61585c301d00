"""Static int8 quantization of members: convolutions and dense layers, as far as accuracy allows it.

Ranges are calibrated on images, in 32 bits. Recurrent layers, preprocessing and combiner stay in 32 bits.
Shapes: N images in batches of B, C channels, h x w pixels of the member's input, K classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
from tercet.export.verification import WORST_LOSS, ImageInput, VerificationImages

_PRODUCTS = ["Conv", "Gemm", "MatMul"]
_BETWEEN = ["Add", "Mul", "Relu", "Clip", "Sigmoid", "HardSigmoid", "ReduceMean", "MaxPool", "AveragePool"]
"""Operators between convolutions: each one left out would cost a conversion to 32 bits and back."""
_BATCH = 8
_MAX_IMAGES = 64  # for calibration

CalibrationBatches = Sequence[NDArray[np.float32]]


@dataclass
class QuantizedMembers:
    """Int8 graphs by name of the member."""

    graphs: dict[str, ModelProto] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    """Loss of accuracy of each member in `graphs`."""
    fp32_reasons: dict[str, str] = field(default_factory=dict)
    """Members that stay in 32 bits, and why."""


def quantize_members(bundle: Bundle, graphs: Sequence[ModelProto], samples: VerificationImages) -> QuantizedMembers:
    """Quantize every member that loses at most `WORST_LOSS` accuracy, measured and calibrated on the real images."""
    result = QuantizedMembers()
    images = samples.images[: samples.num_real]
    labels = None if samples.labels is None else samples.labels[: samples.num_real]
    for index, (member, graph) in enumerate(zip(bundle.members, graphs, strict=True)):
        batches = calibration_batches(bundle, index, images)
        quantized = quantize(graph, batches, name=member.name)
        if quantized is None:
            result.fp32_reasons[member.name] = "it has no convolution or dense layer"
            continue
        threshold = None if bundle.sets is None else bundle.sets.thresholds[index]
        loss = accuracy_loss(graph, quantized, batches, labels, threshold)
        if loss > WORST_LOSS:
            metric = "agreement" if labels is None else "accuracy"
            result.fp32_reasons[member.name] = f"in int8 it loses {loss:.2%} {metric}"
        else:
            result.graphs[member.name], result.losses[member.name] = quantized, loss
    return result


def calibration_batches(bundle: Bundle, member: int, images: Sequence[ImageInput]) -> CalibrationBatches:
    """Return the images as the member reads them, in batches B C h w."""
    source = InputBatches(list(images), [bundle.specs[member]], batch_size=_BATCH)
    return [batch.images[0].numpy() for batch in source.epoch(0)]


def quantize(graph: ModelProto, batches: CalibrationBatches, *, name: str) -> ModelProto | None:
    """Return a member's graph with int8 convolutions and dense layers; None if it has neither.

    Raises:
        ModelError: onnxruntime cannot quantize it.
    """
    step = max(1, len(batches) * _BATCH // _MAX_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (Path(folder) / f"{stage}.onnx" for stage in ("source", "prepared", "target"))
        onnx.save(graph, source)
        try:
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                target,
                _Reader(graph.graph.input[0].name, batches[::step]),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*_PRODUCTS, *_BETWEEN],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            quantized = onnx.load(target)
        except Exception as error:  # onnxruntime's tools may raise anything
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise ModelError(f"member '{name}' cannot be quantized ({reason}): export without --int8") from error
    before = [entry.version for entry in graph.opset_import if entry.domain == ""]
    after = [entry.version for entry in quantized.opset_import if entry.domain == ""]
    changed = any(node.op_type == "QuantizeLinear" for node in quantized.graph.node)
    return quantized if changed and before == after else None


def accuracy_loss(
    graph: ModelProto,
    quantized: ModelProto,
    batches: CalibrationBatches,
    labels: NDArray[np.int64] | None,
    threshold: float | None,
) -> float:
    """Return a member's loss of accuracy by quantization; without labels, the fraction of changed predictions.

    Labels are N class indices, or N K label sets with the `threshold` of the member's scores; -1 if unknown.
    """
    before, after = (_predict(model, batches, threshold) for model in (graph, quantized))
    count = len(before)
    if labels is not None:
        known = (labels.reshape(count, -1) >= 0).all(axis=1)
        if known.any():
            scores = [(each == labels).reshape(count, -1).all(axis=1)[known].mean() for each in (before, after)]
            return float(scores[0] - scores[1])
    return float((before != after).reshape(count, -1).any(axis=1).mean())


def _predict(graph: ModelProto, batches: CalibrationBatches, threshold: float | None) -> NDArray[np.int64]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = graph.graph.input[0].name
    logits = np.concatenate([session.run(None, {name: batch})[0] for batch in batches])
    if threshold is None:
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)
    return np.asarray(logits > np.log(threshold / (1 - threshold)), dtype=np.int64)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Calibration images in the form that onnxruntime expects."""

    def __init__(self, name: str, batches: CalibrationBatches) -> None:
        self._inputs: Iterator[dict[str, Any]] = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._inputs, None)
