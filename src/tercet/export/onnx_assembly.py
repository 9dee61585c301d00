"""Assemble the ONNX file of an ensemble: graph and metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper

from tercet.core.errors import ModelError
from tercet.ensemble.bundle import Bundle
from tercet.ensemble.combiners import combiner_name, fusion_heads
from tercet.export.onnx_cam import ActivationMaps, add_activation_maps
from tercet.export.onnx_combining import add_calibration, add_combiner, add_decision
from tercet.export.onnx_graph import Graph
from tercet.export.onnx_preprocessing import InputGeometry, add_preprocessing, geometries
from tercet.inference.onnx_file import MAX_BYTES, write_checked
from tercet.inference.onnx_model import INPUT
from tercet.models.label_decoder import LabelDecoder
from tercet.models.summary import count_parameters


def describe_bundle(bundle: Bundle, *, version: str, quantized: Sequence[str] = ()) -> dict[str, Any]:
    """Return the document about a bundle.

    Args:
        bundle: What is exported.
        version: Of this package.
        quantized: Names of the members that compute in 8 bits.
    """
    members = [
        {
            "name": member.name,
            "network": member.classifier.network,
            "parameters": count_parameters(member.classifier),
            "input": member.classifier.spec.to_dict(),
            "views": str(member.views),
            "seed": member.views.seed,
            "precision": "int8" if member.name in quantized else "fp32",
        }
        for member in bundle.members
    ]
    sets = None
    if bundle.sets is not None:
        sets = {**bundle.sets.to_dict(), "search": "greedy" if uses_beam_search(bundle) else None}
    return {
        "tercet": version,
        "name": bundle.name,
        "parameters": bundle.parameter_count(),
        "classes": list(bundle.classes),
        "members": members,
        "combiner": None if bundle.combiner is None else combiner_name(bundle.combiner),
        "heads": len(fusion_heads(bundle.combiner)),
        "sets": sets,
        "calibration": None if bundle.calibration is None else bundle.calibration.to_dict(),
        "weights_sha256": weights_sha256(bundle),
        "card": bundle.card,
    }


def uses_beam_search(bundle: Bundle) -> bool:
    """Tell whether a member finds its labels by a beam search, for which the file has one greedy sequence."""
    return any(decoder.beam_size > 1 for decoder in decoders(bundle))


def decoders(bundle: Bundle) -> Iterator[LabelDecoder]:
    """Yield the label decoders of all members."""
    parts = (part for member in bundle.members for part in member.classifier.modules())
    yield from (part for part in parts if isinstance(part, LabelDecoder))


def weights_sha256(bundle: Bundle) -> str:
    """Return the SHA-256 of all numbers that the members and the fusion heads learned: which bundle a file is of."""
    digest = hashlib.sha256()
    for module in (*(member.classifier for member in bundle.members), *fusion_heads(bundle.combiner)):
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def assemble_onnx(
    bundle: Bundle, members: Sequence[ModelProto], *, version: str, quantized: Sequence[str] = ()
) -> bytes:
    """Return the content of the exported file.

    Args:
        bundle: What is exported.
        members: The graph of each member, from pictures to logits and to what maps are drawn from.
        version: Of this package, as the file tells it.
        quantized: Names of the members whose graphs compute in 8 bits.

    Raises:
        ModelError: The file would be larger than one such file can be.
    """
    graph = Graph()
    shown: dict[InputGeometry, str] = {}
    said, mapped, grids = [], [], []
    asked = zip(bundle.members, geometries(bundle), members, strict=True)
    for index, (member, geometry, network) in enumerate(asked):
        if geometry not in shown:
            shown[geometry] = add_preprocessing(graph, INPUT, geometry)
        logits, *seen = graph.join(network, f"member-{index + 1}/", [shown[geometry]])
        said.append(graph.add("Unsqueeze", logits, graph.integers(1)))
        if seen:
            mapped.append(ActivationMaps(member, seen[0], tuple(seen[1:])))
            cells = network.graph.output[1].type.tensor_type.shape.dim
            grids.append((cells[2].dim_value, cells[3].dim_value))
    stack = graph.add("Concat", *said, axis=1) if len(said) > 1 else said[0]  # B M K
    count, classes = len(bundle.members), len(bundle.classes)
    outputs = [
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["B", classes]),
        helper.make_tensor_value_info("members", TensorProto.FLOAT, ["B", count, classes]),
    ]
    if bundle.sets is not None:
        own = graph.add("Sigmoid", stack)
        fused, chosen = add_decision(graph, own, bundle.sets)
        graph.copy_to(chosen, "chosen")
        outputs.append(helper.make_tensor_value_info("chosen", TensorProto.BOOL, ["B", classes]))
    else:
        own = graph.add("Softmax", stack, axis=2)
        fused = add_combiner(graph, stack, own, bundle.combiner, num_classes=classes)
        fused = add_calibration(graph, fused, bundle.calibration)
    if mapped:
        graph.copy_to(add_activation_maps(graph, fused, mapped, grids, classes), "maps")
        outputs.append(helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["B", "h", "w"]))
    graph.copy_to(fused, "probabilities")
    graph.copy_to(own, "members")
    taken = [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["B", "H", "W", 3])]
    model = graph.model(bundle.name, taken, outputs)
    size = model.ByteSize()
    if size > MAX_BYTES - 10_000_000:
        raise ModelError(
            f"the exported file would have {size / 1e9:.1f} GB, and one ONNX file holds 2: export fewer members "
            "(tercet ensemble), or use the bundle itself"
        )
    onnx.checker.check_model(model, full_check=True)
    document = describe_bundle(bundle, version=version, quantized=quantized)
    return write_checked(model.SerializeToString(), {**document, "maps": [one.member.name for one in mapped] or None})
