"""Recurrent modules as ONNX RNN, GRU and LSTM nodes, and the greedy label decoder as a loop."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from tercet.core.errors import ModelError
from tercet.models.label_decoder import TOKEN_EDGE, LabelDecoder
from tercet.models.recurrent import RecurrentStack

_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}  # which of torch's gates comes first, second, ...
_VERSION = 14  # of these operators
_PARTS = ("kernel", "recurrent", "bias")
_NAMES = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "hard_sigmoid": "HardSigmoid"}


class RecurrentNodes(nn.Module):
    """The layers of a kernel; maps B T D to all states of the last layer, B T F, and its final state, B F.

    Args:
        kernel: Whose weights are read.
        activation: Of the state.
        recurrent_activation: Of the gates.
        reset_after: Whether a GRU resets after the recurrent product.
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
            for name, values in zip(
                ("kernel", "recurrent", "bias"), _weights(kernel, self.operator, layer), strict=True
            ):
                self.register_buffer(f"{name}{layer}", values)

    def forward(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """Map B T D (T B D where the kernel reads that) to all states and the final one."""
        steps = sequence.transpose(0, 1) if self.batch_first else sequence
        final = steps[0]
        for layer in range(self.num_layers):
            length, count = steps.shape[0], steps.shape[1]
            shape = (self.directions, count, self.hidden_size)
            shapes = [(length, *shape), *[shape] * (2 if self.operator == "LSTM" else 1)]
            weights = [cast("Tensor", getattr(self, f"{name}{layer}")) for name in _PARTS]
            outputs = torch.onnx.ops.symbolic_multi_out(
                self.operator,
                (steps, *weights),
                self.attributes,
                dtypes=[steps.dtype] * len(shapes),
                shapes=shapes,
                version=_VERSION,
            )
            steps = outputs[0].transpose(1, 2).flatten(2)  # T B F
            final = outputs[1].transpose(0, 1).flatten(1)  # B F
        return (steps.transpose(0, 1) if self.batch_first else steps), final


class StackNodes(nn.Module):
    """A `RecurrentStack` for export.

    Args:
        stack: Whose options and weights are read.
    """

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
        """Map B D to B F; without a state before it, a step is a few products."""
        return self.stack.single_step(vector)


def with_nodes(module: nn.Module) -> nn.Module:
    """Replace the recurrent layers within a module by nodes; return it, or its replacement."""
    if isinstance(module, RecurrentStack):
        return StackNodes(module)
    if isinstance(module, nn.RNNBase):
        return RecurrentNodes(module)
    for name, child in list(module.named_children()):
        setattr(module, name, with_nodes(child))
    return module


def _attributes(
    operator: str, activation: str, recurrent_activation: str, reset_after: bool, directions: int
) -> dict[str, Any]:
    state, gate = _NAMES[activation], _NAMES[recurrent_activation]
    functions = {"LSTM": [gate, state, state], "GRU": [gate, state], "RNN": [state]}[operator] * directions
    attributes: dict[str, Any] = {
        "direction": "bidirectional" if directions == 2 else "forward",
        "activations": functions,
    }
    hard = functions.count("HardSigmoid")
    if hard:  # Keras 2.2's
        attributes |= {"activation_alpha": [0.2] * hard, "activation_beta": [0.5] * hard}
    if operator == "GRU":
        attributes["linear_before_reset"] = int(reset_after)
    return attributes


@torch.no_grad()
def _weights(kernel: nn.RNNBase, operator: str, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a layer's weights, each direction's behind the other's: (GH D), (GH H) and both biases (2 GH)."""
    found = []
    for suffix in ("", "_reverse")[: 1 + kernel.bidirectional]:
        read = [getattr(kernel, f"{name}_l{layer}{suffix}") for name in ("weight_ih", "weight_hh")]
        if kernel.bias:
            read += [getattr(kernel, f"{name}_l{layer}{suffix}") for name in ("bias_ih", "bias_hh")]
        else:
            read += [torch.zeros(len(read[0]))] * 2
        rows = [value.detach().split(kernel.hidden_size) for value in read]
        found.append([torch.cat([parts[gate] for gate in _ORDER[operator]]) for parts in rows])
    inputs, states, *biases = (torch.stack(parts) for parts in zip(*found, strict=True))
    return inputs, states, torch.cat(biases, dim=1)


class GreedyDecoder(nn.Module):
    """Names labels one after the other until END.

    Args:
        decoder: Whose weights are read.
    """

    kernel: Tensor
    recurrent: Tensor
    bias: Tensor

    def __init__(self, decoder: LabelDecoder) -> None:
        super().__init__()
        self.num_classes, self.hidden_size = decoder.num_classes, decoder.lstm.hidden_size
        self.embedding, self.from_state, self.from_image = decoder.embedding, decoder.from_state, decoder.from_image
        kernel, recurrent, *biases = (value.detach() for value in decoder.lstm.parameters())
        for name, value in (("kernel", kernel.t()), ("recurrent", recurrent.t()), ("bias", sum(biases))):
            self.register_buffer(name, cast("Tensor", value).contiguous())

    def forward(self, features: Tensor, sequence: Tensor | None = None) -> Tensor:
        """Map B D to logits B K, positive for the labels that were named; no sequence can be followed."""
        labels, table = self.num_classes, self.embedding.weight
        image = self.from_image(features)  # B E
        state = cell = image.new_zeros(image.shape[0], self.hidden_size)
        word = table[labels + 1].expand(image.shape[0], -1)  # START
        named = peaks = image.new_zeros(image.shape[0], labels)  # 1 where a label was named
        running = image.new_ones(image.shape[0], 1)
        stays = image.new_zeros(image.shape[0], 1)  # END can always follow
        for _ in range(labels + 1):  # after K labels only END is left
            gates = word @ self.kernel + state @ self.recurrent + self.bias
            i, f, g, o = gates.chunk(4, 1)  # B H each
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            state = torch.sigmoid(o) * torch.tanh(cell)
            joint = torch.relu(self.from_state(state) + image)
            logits = joint @ table[: labels + 1].t()  # B K+1
            logits = logits.masked_fill(torch.cat([named, stays], dim=1) > 0, -torch.inf)
            peaks = torch.maximum(peaks, running * logits.softmax(dim=1)[:, :labels])
            said = nn.functional.one_hot(logits.argmax(dim=1), labels + 1).to(image.dtype)
            running = running * (1 - said[:, labels:])
            named = named + running * said[:, :labels]
            word = said @ table[: labels + 1]
        return torch.logit((0.5 * (peaks + named)).clamp(TOKEN_EDGE, 1 - TOKEN_EDGE))
