"""Each member as a graph of its own: pictures B C h w in [0, 1] of the size it wants, to logits B K."""

from __future__ import annotations

import copy
import re

import torch
from onnx import ModelProto
from torch import nn

from tercet.deploy.bundle import Bundle
from tercet.deploy.export.graph import IR_VERSION, OPSET
from tercet.deploy.export.maps import MappedMember
from tercet.deploy.export.recurrences import with_nodes
from tercet.deploy.export.tracing import Untraceable, refusal, trace, without_search
from tercet.deploy.member import Member
from tercet.deploy.program.archive import quiet
from tercet.evaluation.tta import Viewed, picture_spec


def member_graphs(bundle: Bundle) -> list[ModelProto]:
    """Return the graph of each member, with the views that it is shown.

    Raises:
        ModelError: A member has a layer that ONNX cannot express; it and the layer are named.
    """
    return [export_member(member) for member in bundle.members]


def export_member(member: Member, *, mapped: bool = False) -> ModelProto:
    """Return a member's graph.

    Args:
        member: The member.
        mapped: Whether it gives what a class-activation map is drawn from, too; see `maps.MappedMember`.

    Raises:
        ModelError: It has a layer that ONNX cannot express.
    """
    spec = picture_spec(member.classifier.spec, member.views)
    network: nn.Module = Viewed(_exportable(member.classifier), member.views, member.classifier.spec)
    network = (MappedMember(member) if mapped else network).cpu().eval()
    pictures = torch.rand(2, spec.channels, *spec.size)
    try:
        traced = trace(network, pictures, free={0: "batch"})
    except Untraceable as error:
        raise refusal(member, error.layer, error, form="ONNX") from error
    with quiet():
        try:
            program = torch.onnx.export(
                traced, dynamo=True, opset_version=OPSET, external_data=False, verbose=False, optimize=True
            )
        except Exception as error:
            raise refusal(member, _layer_of(traced, str(error)), error, form="ONNX") from error
    assert program is not None
    graph: ModelProto = program.model_proto
    graph.ir_version = IR_VERSION
    del graph.metadata_props[:], graph.graph.value_info[:]
    for node in graph.graph.node:  # where in this machine's files each line came from
        del node.metadata_props[:]
        node.ClearField("doc_string")
    return graph


def _exportable(classifier: nn.Module) -> nn.Module:
    """Return a copy whose recurrent layers are nodes, and whose decoder does not search."""
    return with_nodes(without_search(copy.deepcopy(classifier)))


def _layer_of(traced: torch.export.ExportedProgram, message: str) -> str:
    """Return the layer of the node that a message of the exporter names."""
    named = re.search(r"node %?(\w+)", message)
    for node in traced.graph.nodes:
        if named and node.name == named[1]:
            stack = list(node.meta.get("nn_module_stack", {}).values())
            return str(stack[-1][0]) if stack else ""
    return ""
