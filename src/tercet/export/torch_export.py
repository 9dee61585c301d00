"""Export a bundle as one torch.export program."""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor, nn

from tercet.core.errors import ModelError
from tercet.ensemble.bundle import Bundle
from tercet.export.outputs import Outputs
from tercet.export.torch_preprocessing import DynamicPreprocess, geometries
from tercet.export.tracing import TracingError, trace, tracing_problem, without_beam_search
from tercet.models.tta import TTAModel

_EXAMPLE_SHAPE = (2, 13, 17, 3)  # no side is 1: torch.export would specialize it


class EnsembleModule(nn.Module):
    """A bundle as one module, from images to outputs.

    Args:
        bundle: Its weights are shared, not copied.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        member_geometries = geometries(bundle)
        distinct = list(dict.fromkeys(member_geometries))
        self.preprocess = nn.ModuleList(map(DynamicPreprocess, distinct))
        self.input_indices = [distinct.index(geometry) for geometry in member_geometries]
        self.networks = nn.ModuleList(
            TTAModel(without_beam_search(_frozen_copy(member.classifier)), member.views, member.classifier.spec)
            for member in bundle.members
        )
        self.outputs = _frozen_copy(Outputs(bundle))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map uint8 images B H W 3 to the outputs; see `Outputs`."""
        inputs = [preprocess(images) for preprocess in self.preprocess]
        logits = [
            network(inputs[index]).float() for network, index in zip(self.networks, self.input_indices, strict=True)
        ]
        outputs: dict[str, Tensor] = self.outputs(torch.stack(logits, 1))
        return outputs


def _frozen_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU that shares the weights and does not require gradients."""
    shared: dict[int, object] = {}
    for parameter in module.parameters():
        shared[id(parameter)] = nn.Parameter(_compact(parameter), requires_grad=False)
    for buffer in module.buffers():
        shared[id(buffer)] = _compact(buffer)
    return copy.deepcopy(module, shared)


def _compact(values: Tensor) -> Tensor:
    """Return the values on the CPU in a storage of their own size: torch.export saves whole storages."""
    compact = values.detach().cpu().contiguous()
    return compact if compact.untyped_storage().nbytes() == compact.nbytes else compact.clone()


def assemble_program(bundle: Bundle) -> torch.export.ExportedProgram:
    """Return the program of a bundle; batch, height and width of the images are dynamic.

    Raises:
        ModelError: torch.export does not support a layer; the message names member and layer.
        MemoryExhausted: Out of memory.
    """
    network = EnsembleModule(bundle)
    images = torch.zeros(_EXAMPLE_SHAPE, dtype=torch.uint8)
    try:
        program = trace(network, images, dynamic={0: "batch", 1: "height", 2: "width"})
    except TracingError as error:
        raise _tracing_problem(bundle, network, error) from error
    for node in program.graph.nodes:  # source locations, with paths of this machine
        node.meta.pop("stack_trace", None)
    return program


def _tracing_problem(bundle: Bundle, network: EnsembleModule, error: TracingError) -> ModelError:
    """Return the error message, which names the member, and the layer if it is known."""
    match = re.match(r"networks\.(\d+)\.?(.*)", error.layer)
    if match is not None:
        return tracing_problem(bundle.members[int(match[1])], match[2], error, form="torch.export")
    for member, tta_model, spec in zip(bundle.members, network.networks, bundle.specs, strict=True):
        try:  # a specialized size is reported after tracing, when no layer runs: trace each member alone
            trace(tta_model, torch.rand(2, spec.channels, *spec.size), dynamic={0: "batch"})
        except TracingError as member_error:
            return tracing_problem(member, member_error.layer, member_error, form="torch.export")
    return ModelError(f"torch.export does not support the bundle ({error}): use --format onnx, or serve the bundle")
