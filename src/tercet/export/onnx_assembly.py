"""Assemble the ONNX file of an ensemble: graph, metadata and int8 members."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper

from tercet.core.errors import ConfigError, ModelError
from tercet.core.files import write_bytes
from tercet.core.types import InputSpec
from tercet.ensemble.bundle import Bundle
from tercet.export.metadata import describe_bundle
from tercet.export.onnx_cam import CamOutputs, add_activation_maps, cam_members
from tercet.export.onnx_graph import Graph
from tercet.export.onnx_members import export_member, export_outputs
from tercet.export.onnx_preprocessing import add_preprocessing
from tercet.export.quantization import QuantizedMembers, quantize_members
from tercet.export.torch_preprocessing import input_geometry
from tercet.export.verification import Verification, VerificationImages, compare_outputs
from tercet.inference.onnx_file import MAX_BYTES, write_checked
from tercet.inference.onnx_model import INPUT, OnnxModel


def write_onnx(
    bundle: Bundle,
    samples: VerificationImages,
    target: Path,
    *,
    int8: bool,
    class_activation_maps: bool,
    version: str,
) -> tuple[Verification, dict[str, str], tuple[str, ...]]:
    """Write a bundle as an ONNX file, and compare the file with the bundle on `samples`; see `export_model`.

    Returns:
        The comparison; the members that stay in 32 bits despite `int8`, and why; the members with activation maps.

    Raises:
        ConfigError: `int8` without real images for calibration.
        ModelError: A member cannot be exported.
    """
    if int8 and not samples.num_real:
        raise ConfigError(
            "--int8 needs real images for calibration, and the run's images are not available: give --data or --images"
        )
    with_cam = cam_members(bundle) if class_activation_maps else []
    graphs = [export_member(member, with_cam=member in with_cam) for member in bundle.members]
    quantized = quantize_members(bundle, graphs, samples) if int8 else QuantizedMembers()
    while True:
        selected = [
            quantized.graphs.get(member.name, graph) for member, graph in zip(bundle.members, graphs, strict=True)
        ]
        write_bytes(target, assemble_onnx(bundle, selected, version=version, quantized=[*quantized.graphs]))
        result = compare_outputs(bundle, OnnxModel.load(target), samples, exact=not quantized.graphs)
        if result.passed or not quantized.graphs:
            return result, quantized.fp32_reasons, tuple(member.name for member in with_cam)
        worst = max(quantized.graphs, key=quantized.losses.__getitem__)  # each alone is fine, together they are not
        del quantized.graphs[worst]
        quantized.fp32_reasons[worst] = f"with it in int8, the ensemble loses {result.loss:.2%} accuracy"


def assemble_onnx(
    bundle: Bundle, members: Sequence[ModelProto], *, version: str, quantized: Sequence[str] = ()
) -> bytes:
    """Return the content of the exported file.

    Args:
        bundle: The exported bundle.
        members: Graph of each member, from images to logits and the outputs for class-activation maps.
        version: Version of Tercet, for the metadata.
        quantized: Names of the int8 members.

    Raises:
        ModelError: The file would exceed 2 GB.
    """
    graph = Graph()
    inputs: dict[InputSpec, str] = {}
    logits, cam_outputs = [], []
    triples = zip(bundle.members, bundle.specs, members, strict=True)
    for index, (member, spec, network) in enumerate(triples):
        geometry = input_geometry(spec)
        if geometry not in inputs:
            inputs[geometry] = add_preprocessing(graph, INPUT, geometry)
        member_logits, *extra = graph.embed(network, f"member-{index + 1}/", [inputs[geometry]])
        logits.append(graph.add("Unsqueeze", member_logits, graph.integers(1)))
        if extra:
            shape = network.graph.output[1].type.tensor_type.shape.dim
            cam_outputs.append(CamOutputs(member, extra[0], tuple(extra[1:]), (shape[2].dim_value, shape[3].dim_value)))
    stack = graph.add("Concat", *logits, axis=1) if len(logits) > 1 else logits[0]  # B M K
    count, classes = len(bundle.members), len(bundle.classes)
    outputs = [
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["B", classes]),
        helper.make_tensor_value_info("members", TensorProto.FLOAT, ["B", count, classes]),
    ]
    if bundle.sets is not None:
        outputs.append(helper.make_tensor_value_info("chosen", TensorProto.BOOL, ["B", classes]))
    values = graph.embed(export_outputs(bundle), "outputs/", [stack])
    for value, output in zip(values, outputs, strict=True):
        graph.copy_to(value, output.name)
    if cam_outputs:
        graph.copy_to(add_activation_maps(graph, values[0], cam_outputs, classes), "maps")
        outputs.append(helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["B", "h", "w"]))
    images = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["B", "H", "W", 3])
    model = graph.model(bundle.name, [images], outputs)
    size = model.ByteSize()
    if size > MAX_BYTES - 10_000_000:
        raise ModelError(
            f"the exported file would have {size / 1e9:.1f} GB, and an ONNX file holds at most 2: export fewer members "
            "(tercet ensemble), or use the bundle itself"
        )
    onnx.checker.check_model(model, full_check=True)
    metadata = describe_bundle(bundle, version=version, quantized=quantized)
    maps = [output.member.name for output in cam_outputs] or None
    return write_checked(model.SerializeToString(), {**metadata, "maps": maps})
