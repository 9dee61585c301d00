"""One file of everything: preprocessing, members, combiner, calibration, and what the file says of itself.

Shapes: B images, H x W pixels, M members, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import ModelProto, TensorProto, helper

from tercet.deploy.bundle import Bundle
from tercet.deploy.export.combining import calibrate, choose, fuse
from tercet.deploy.export.description import describe
from tercet.deploy.export.geometry import Geometry, geometries
from tercet.deploy.export.graph import Graph
from tercet.deploy.export.maps import Mapped, draw
from tercet.deploy.export.preprocessing import prepare
from tercet.deploy.exported import INPUT
from tercet.deploy.onnx_file import LARGEST, seal
from tercet.ground.errors import ModelError


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
    asked = zip(bundle.members, geometries(bundle), members, strict=True)
    for index, (member, geometry, network) in enumerate(asked):
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
