"""ONNX graphs of the members, with recurrent layers as RNN, GRU and LSTM nodes."""

from __future__ import annotations

import copy
import re
from typing import Any, cast

import torch
from onnx import ModelProto
from torch import Tensor, nn

from tercet.core.errors import ModelError
from tercet.ensemble.bundle import Bundle
from tercet.ensemble.member import Member
from tercet.export.onnx_cam import CamMember
from tercet.export.onnx_graph import IR_VERSION, OPSET
from tercet.export.torch_export import Outputs
from tercet.export.tracing import TracingError, trace, tracing_problem, without_beam_search
from tercet.inference.torch_model import quiet_exporter
from tercet.models.recurrent import RecurrentStack
from tercet.models.tta import TTAModel, enlarged_input_spec

_GATE_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}  # PyTorch's index of ONNX's gates
_OPERATOR_VERSION = 14
_BUFFERS = ("kernel", "recurrent", "bias")
_ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "hard_sigmoid": "HardSigmoid"}


def export_member(member: Member, *, with_cam: bool = False) -> ModelProto:
    """Return a member's graph with its test-time augmentation, from images B C h w in [0, 1] to logits B K.

    With `with_cam`, it also has the outputs that a class-activation map needs; see `CamMember`.

    Raises:
        ModelError: ONNX does not support a layer; the message names member and layer.
    """
    spec = enlarged_input_spec(member.classifier.spec, member.views)
    classifier = with_recurrent_nodes(without_beam_search(copy.deepcopy(member.classifier)))
    network: nn.Module = TTAModel(classifier, member.views, member.classifier.spec)
    network = (CamMember(member) if with_cam else network).cpu()
    try:
        return export_module(network, torch.rand(2, spec.channels, *spec.size))
    except TracingError as error:
        raise tracing_problem(member, error.layer, error, form="ONNX") from error


def export_module(module: nn.Module, example: Tensor) -> ModelProto:
    """Return the graph of a module with one input, whose first axis is dynamic.

    Raises:
        TracingError: ONNX does not support a layer.
    """
    traced = trace(module, example, dynamic={0: "batch"})
    with quiet_exporter():
        try:
            program = torch.onnx.export(
                traced, dynamo=True, opset_version=OPSET, external_data=False, verbose=False, optimize=True
            )
        except Exception as error:  # the exporter may raise anything
            raise TracingError(_layer_of(traced, str(error)), error) from error
    assert program is not None
    graph: ModelProto = program.model_proto
    graph.ir_version = IR_VERSION
    del graph.metadata_props[:], graph.graph.value_info[:]
    for node in graph.graph.node:  # source locations, with paths of this machine
        del node.metadata_props[:]
        node.ClearField("doc_string")
    return graph


def export_outputs(bundle: Bundle) -> ModelProto:
    """Return the graph from the members' logits B M K to `probabilities`, `members` and, if multi-label, `chosen`.

    Raises:
        ModelError: The combiner cannot be exported.
    """
    example = torch.rand(2, len(bundle.members), len(bundle.classes))
    try:
        return export_module(copy.deepcopy(Outputs(bundle)).cpu(), example)
    except TracingError as error:
        raise ModelError(f"ONNX does not support the ensemble method '{bundle.name}' ({error})") from error


def _layer_of(traced: torch.export.ExportedProgram, message: str) -> str:
    """Return the layer of the node that an error message of the exporter mentions."""
    match = re.search(r"node %?(\w+)", message)
    for node in traced.graph.nodes:
        if match and node.name == match[1]:
            stack = list(node.meta.get("nn_module_stack", {}).values())
            return str(stack[-1][0]) if stack else ""
    return ""


class RecurrentNodes(nn.Module):
    """Recurrent layers as ONNX nodes; maps B T D to all states of the last layer, B T F, and its final state, B F.

    The weights are those of `kernel`; the options those of `RecurrentStack`.
    """

    def __init__(
        self,
        kernel: nn.RNNBase,
        *,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        reset_after: bool = True,
    ) -> None:
        super().__init__()
        if kernel.proj_size:
            raise ModelError("a recurrent layer with projected states (proj_size) cannot be exported")
        self.operator = kernel.mode.partition("_")[0]
        self.num_layers, self.hidden_size = kernel.num_layers, kernel.hidden_size
        self.directions = 1 + kernel.bidirectional
        self.attributes = _attributes(self.operator, activation, recurrent_activation, reset_after, self.directions)
        self.attributes["hidden_size"] = self.hidden_size
        self.batch_first = kernel.batch_first
        for layer in range(self.num_layers):
            for name, values in zip(_BUFFERS, _weights(kernel, self.operator, layer), strict=True):
                self.register_buffer(f"{name}{layer}", values)

    def forward(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """Map B T D (T B D unless `batch_first`) to all states and the final one."""
        steps = sequence.transpose(0, 1) if self.batch_first else sequence
        final = steps[0]
        for layer in range(self.num_layers):
            length, count = steps.shape[0], steps.shape[1]
            shape = (self.directions, count, self.hidden_size)
            shapes = [(length, *shape), *[shape] * (2 if self.operator == "LSTM" else 1)]
            weights = [cast("Tensor", getattr(self, f"{name}{layer}")) for name in _BUFFERS]
            outputs = torch.onnx.ops.symbolic_multi_out(
                self.operator,
                (steps, *weights),
                self.attributes,
                dtypes=[steps.dtype] * len(shapes),
                shapes=shapes,
                version=_OPERATOR_VERSION,
            )
            steps = outputs[0].transpose(1, 2).flatten(2)  # T B F
            final = outputs[1].transpose(0, 1).flatten(1)  # B F
        return (steps.transpose(0, 1) if self.batch_first else steps), final


class StackNodes(nn.Module):
    """A `RecurrentStack` as ONNX nodes, with its options and weights."""

    def __init__(self, stack: RecurrentStack) -> None:
        super().__init__()
        self.stack = stack
        self.nodes = RecurrentNodes(
            stack.kernel,
            activation=stack.activation,
            recurrent_activation=stack.recurrent_activation,
            reset_after=stack.reset_after,
        )

    def forward(self, sequence: Tensor) -> Tensor:
        """Map B T D to B F."""
        final: Tensor = self.nodes(sequence)[1]
        return final

    def single_step(self, vector: Tensor) -> Tensor:
        """Map B D to B F; a step from the zero state needs no recurrent node."""
        return self.stack.single_step(vector)


def with_recurrent_nodes(module: nn.Module) -> nn.Module:
    """Replace the recurrent layers within a module by ONNX nodes; return the module, or its replacement."""
    if isinstance(module, RecurrentStack):
        return StackNodes(module)
    if isinstance(module, nn.RNNBase):
        return RecurrentNodes(module)
    for name, child in list(module.named_children()):
        setattr(module, name, with_recurrent_nodes(child))
    return module


def _attributes(
    operator: str, activation: str, recurrent_activation: str, reset_after: bool, directions: int
) -> dict[str, Any]:
    state, gate = _ACTIVATIONS[activation], _ACTIVATIONS[recurrent_activation]
    functions = {"LSTM": [gate, state, state], "GRU": [gate, state], "RNN": [state]}[operator] * directions
    attributes: dict[str, Any] = {
        "direction": "bidirectional" if directions == 2 else "forward",
        "activations": functions,
    }
    hard = functions.count("HardSigmoid")
    if hard:  # as in Keras 2.2
        attributes |= {"activation_alpha": [0.2] * hard, "activation_beta": [0.5] * hard}
    if operator == "GRU":
        attributes["linear_before_reset"] = int(reset_after)
    return attributes


@torch.no_grad()
def _weights(kernel: nn.RNNBase, operator: str, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return input weights, recurrent weights and biases of a layer: d GH D, d GH H and d 2GH for d directions."""
    directions = []
    for suffix in ("", "_reverse")[: 1 + kernel.bidirectional]:
        values = [getattr(kernel, f"{name}_l{layer}{suffix}") for name in ("weight_ih", "weight_hh")]
        if kernel.bias:
            values += [getattr(kernel, f"{name}_l{layer}{suffix}") for name in ("bias_ih", "bias_hh")]
        else:
            values += [torch.zeros(len(values[0]))] * 2
        gates = [value.detach().split(kernel.hidden_size) for value in values]
        directions.append([torch.cat([parts[gate] for gate in _GATE_ORDER[operator]]) for parts in gates])
    inputs, states, *biases = (torch.stack(parts) for parts in zip(*directions, strict=True))
    return inputs, states, torch.cat(biases, dim=1)
