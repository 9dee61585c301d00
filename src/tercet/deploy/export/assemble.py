"""One file of everything: preprocessing, members, combiner, calibration, and what the file says of itself.

Shapes: B images, H x W pixels, M members, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper

from tercet.deploy.answers import heads_of, name_of
from tercet.deploy.bundle import Bundle
from tercet.deploy.export.combining import calibrate, choose, fuse
from tercet.deploy.export.graph import Graph
from tercet.deploy.export.maps import Mapped, draw
from tercet.deploy.export.members import is_searched
from tercet.deploy.export.preprocessing import Geometry, prepare
from tercet.deploy.exported import INPUT
from tercet.deploy.onnx_file import LARGEST, seal
from tercet.evaluation.tta import picture_spec
from tercet.ground.errors import ModelError
from tercet.models.summary import count_parameters


def assemble(bundle: Bundle, members: Sequence[ModelProto], *, version: str, quantized: Sequence[str] = ()) -> bytes:
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
    shown: dict[Geometry, str] = {}
    said, mapped, grids = [], [], []
    for index, (member, network) in enumerate(zip(bundle.members, members, strict=True)):
        geometry = Geometry.of(picture_spec(member.classifier.spec, member.views))
        if geometry not in shown:
            shown[geometry] = prepare(graph, INPUT, geometry)
        logits, *seen = graph.join(network, f"member-{index + 1}/", [shown[geometry]])
        said.append(graph.add("Unsqueeze", logits, graph.integers(1)))
        if seen:
            mapped.append(Mapped(member, seen[0], tuple(seen[1:])))
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
        fused, chosen = choose(graph, own, bundle.sets)
        graph.copy_to(chosen, "chosen")
        outputs.append(helper.make_tensor_value_info("chosen", TensorProto.BOOL, ["B", classes]))
    else:
        own = graph.add("Softmax", stack, axis=2)
        fused = fuse(graph, stack, own, bundle.combiner, num_classes=classes)
        fused = calibrate(graph, fused, bundle.calibration)
    if mapped:
        graph.copy_to(draw(graph, fused, mapped, grids, classes), "maps")
        outputs.append(helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["B", "h", "w"]))
    graph.copy_to(fused, "probabilities")
    graph.copy_to(own, "members")
    taken = [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["B", "H", "W", 3])]
    model = graph.model(bundle.name, taken, outputs)
    size = model.ByteSize()
    if size > LARGEST - 10_000_000:
        raise ModelError(
            f"the exported file would have {size / 1e9:.1f} GB, and one ONNX file holds 2: export fewer members "
            "(tercet ensemble), or use the bundle itself"
        )
    onnx.checker.check_model(model, full_check=True)
    document = describe(bundle, version=version, quantized=quantized)
    return seal(model.SerializeToString(), {**document, "maps": [one.member.name for one in mapped] or None})


def describe(bundle: Bundle, *, version: str, quantized: Sequence[str] = ()) -> dict[str, Any]:
    """Return what an exported file says of itself."""
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
        sets = {**bundle.sets.to_dict(), "search": "greedy" if is_searched(bundle) else None}
    return {
        "tercet": version,
        "name": bundle.name,
        "parameters": bundle.parameter_count(),
        "classes": list(bundle.classes),
        "members": members,
        "combiner": None if bundle.combiner is None else name_of(bundle.combiner),
        "heads": len(heads_of(bundle.combiner)),
        "sets": sets,
        "calibration": None if bundle.calibration is None else bundle.calibration.to_dict(),
        "weights_sha256": weights_sha256(bundle),
        "card": bundle.card,
    }


def weights_sha256(bundle: Bundle) -> str:
    """Return the SHA-256 of all numbers that the members and the fusion heads learned: which bundle a file is of."""
    digest = hashlib.sha256()
    for module in (*(member.classifier for member in bundle.members), *heads_of(bundle.combiner)):
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
