"""Trace the members of a bundle into ONNX subgraphs."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor, nn

from tercet.core.errors import MemoryExhausted, ModelError, is_out_of_memory
from tercet.ensemble.bundle import Bundle
from tercet.ensemble.member import Member
from tercet.export.onnx_cam import MappedMember
from tercet.export.onnx_graph import IR_VERSION, OPSET
from tercet.export.onnx_rnn import GreedyDecoder, with_nodes
from tercet.inference.torch_model import quiet_exporter
from tercet.models.label_decoder import LabelDecoder
from tercet.models.tta import TTAModel, enlarged_input_spec


class TracingError(Exception):
    """A network that cannot be traced.

    Args:
        layer: The innermost part that was being computed; empty where none was.
        reason: What happened there.
    """

    def __init__(self, layer: str, reason: Exception) -> None:
        super().__init__(str(reason))
        self.layer = layer


def trace(network: nn.Module, given: Tensor, free: Mapping[int, str]) -> torch.export.ExportedProgram:
    """Return the program of a network of one input.

    Args:
        network: It is put into evaluation mode.
        given: An input; its sides that stay free have to be larger than 1.
        free: Its axes that stay free, and what they are called.

    Raises:
        Untraceable: A part does what a program cannot hold.
        MemoryExhausted: There is no memory.
    """
    inside: list[str] = []
    axes: dict[int, Any] = {axis: torch.export.Dim(name) for axis, name in free.items()}
    with quiet_exporter(), _watched(network.eval(), inside), torch.inference_mode(False), torch.no_grad():
        try:
            return torch.export.export(network, (given,), dynamic_shapes=(axes,))
        except Exception as error:  # the tracer runs the network, which may raise anything
            if is_out_of_memory(error):
                raise MemoryExhausted("no memory to export so large a network") from error
            raise TracingError(inside[-1] if inside else "", error) from error


def without_beam_search(module: nn.Module) -> nn.Module:
    """Put greedy decoders in the place of those that search, within a module; return it, or its replacement."""
    if isinstance(module, LabelDecoder):
        return GreedyDecoder(module)
    for name, child in list(module.named_children()):
        setattr(module, name, without_beam_search(child))
    return module


def tracing_problem(member: Member, layer: str, error: Exception, *, form: str) -> ModelError:
    """Return what the user is told of a member that cannot be exported.

    Args:
        member: The member.
        layer: Its layer; empty where that is not known.
        error: What happened.
        form: What it cannot be expressed in.
    """
    place = re.sub(r"^(L\['self'\]\.)?module\.?", "", layer)
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
    return ModelError(
        f"member '{member.name}' ({member.classifier.network}) cannot be exported: "
        f"{f'layer {place}' if place else 'a layer'} does what {form} cannot express ({reason}); leave that member out "
        "with tercet ensemble, write that layer with other operations, or serve the bundle itself"
    )


@contextmanager
def _watched(network: nn.Module, inside: list[str]) -> Iterator[None]:
    """Keep the names of the parts that are being computed in `inside`, the innermost last."""
    handles = []
    for name, part in network.named_modules():
        if name:
            handles.append(part.register_forward_pre_hook(lambda part, given, name=name: inside.append(name)))
            handles.append(part.register_forward_hook(lambda part, given, made: _left(inside)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _left(inside: list[str]) -> None:
    inside.pop()


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
    spec = enlarged_input_spec(member.classifier.spec, member.views)
    network: nn.Module = TTAModel(_exportable(member.classifier), member.views, member.classifier.spec)
    network = (MappedMember(member) if mapped else network).cpu().eval()
    pictures = torch.rand(2, spec.channels, *spec.size)
    try:
        traced = trace(network, pictures, free={0: "batch"})
    except TracingError as error:
        raise tracing_problem(member, error.layer, error, form="ONNX") from error
    with quiet_exporter():
        try:
            program = torch.onnx.export(
                traced, dynamo=True, opset_version=OPSET, external_data=False, verbose=False, optimize=True
            )
        except Exception as error:
            raise tracing_problem(member, _layer_of(traced, str(error)), error, form="ONNX") from error
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
    return with_nodes(without_beam_search(copy.deepcopy(classifier)))


def _layer_of(traced: torch.export.ExportedProgram, message: str) -> str:
    """Return the layer of the node that a message of the exporter names."""
    named = re.search(r"node %?(\w+)", message)
    for node in traced.graph.nodes:
        if named and node.name == named[1]:
            stack = list(node.meta.get("nn_module_stack", {}).values())
            return str(stack[-1][0]) if stack else ""
    return ""
