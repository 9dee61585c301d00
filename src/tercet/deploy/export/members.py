"""Each member as a graph of its own: pictures B C h w in [0, 1] of the size it wants, to logits B K."""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from onnx import ModelProto
from torch import nn

from tercet.deploy.bundle import Bundle
from tercet.deploy.export.graph import IR_VERSION, OPSET
from tercet.deploy.export.greedy import GreedyDecoder
from tercet.deploy.export.maps import MappedMember
from tercet.deploy.export.recurrences import with_nodes
from tercet.deploy.member import Member
from tercet.evaluation.tta import Viewed, picture_spec
from tercet.ground.errors import MemoryExhausted, ModelError
from tercet.models.label_decoder import LabelDecoder

_NOISE = (  # what the exporter says of its own parts
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "_check_is_size will be removed",
    "The tensor attributes .* were assigned during export",
)


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
    inside: list[str] = []
    with _quiet(), _watched(network, inside):
        try:
            batch = {0: torch.export.Dim("batch")}
            # without gradients, but not in inference mode: its tensors cannot be traced
            with torch.inference_mode(False), torch.no_grad():
                traced = torch.export.export(network, (pictures,), dynamic_shapes=(batch,))
        except MemoryError as error:
            raise MemoryExhausted(f"no memory to export member '{member.name}'") from error
        except Exception as error:  # the tracer runs the network, which may raise anything
            raise _unsupported(member, inside[-1] if inside else "", error) from error
        try:
            program = torch.onnx.export(
                traced, dynamo=True, opset_version=OPSET, external_data=False, verbose=False, optimize=True
            )
        except Exception as error:
            raise _unsupported(member, _layer_of(traced, str(error)), error) from error
    assert program is not None
    graph: ModelProto = program.model_proto
    graph.ir_version = IR_VERSION
    del graph.metadata_props[:], graph.graph.value_info[:]
    for node in graph.graph.node:  # where in this machine's files each line came from
        del node.metadata_props[:]
        node.ClearField("doc_string")
    return graph


def is_searched(bundle: Bundle) -> bool:
    """Tell whether a member finds its labels by a beam search, for which the file has one greedy sequence."""
    decoders = (part for member in bundle.members for part in member.classifier.modules())
    return any(isinstance(part, LabelDecoder) and part.beam > 1 for part in decoders)


def _exportable(classifier: nn.Module) -> nn.Module:
    """Return a copy whose recurrent layers are nodes, and whose decoder does not search."""
    return with_nodes(_without_search(copy.deepcopy(classifier)))


def _without_search(module: nn.Module) -> nn.Module:
    if isinstance(module, LabelDecoder):
        return GreedyDecoder(module)
    for name, child in list(module.named_children()):
        setattr(module, name, _without_search(child))
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself from the user; other warnings pass."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in _NOISE:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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


def _layer_of(traced: torch.export.ExportedProgram, message: str) -> str:
    """Return the layer of the node that a message of the exporter names."""
    named = re.search(r"node %?(\w+)", message)
    for node in traced.graph.nodes:
        if named and node.name == named[1]:
            stack = list(node.meta.get("nn_module_stack", {}).values())
            return str(stack[-1][0]) if stack else ""
    return ""


def _unsupported(member: Member, layer: str, error: Exception) -> ModelError:
    place = re.sub(r"^(L\['self'\]\.)?module\.?", "", layer)
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
    return ModelError(
        f"member '{member.name}' ({member.classifier.network}) cannot be exported: "
        f"{f'layer {place}' if place else 'a layer'} does what ONNX cannot express ({reason}); leave that member out "
        "with tercet ensemble, write that layer with other operations, or serve the bundle itself"
    )
