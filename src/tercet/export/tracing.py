"""torch.export of a network, with greedy label decoding; reports the layer that cannot be traced."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from tercet.core.errors import MemoryExhausted, ModelError, is_out_of_memory
from tercet.ensemble.member import Member
from tercet.inference.torch_model import quiet_exporter
from tercet.models.label_decoder import TOKEN_EDGE, LabelDecoder


class TracingError(Exception):
    """A network cannot be traced; `layer` names the innermost layer that was running, empty if none was."""

    def __init__(self, layer: str, reason: Exception) -> None:
        super().__init__(str(reason))
        self.layer = layer


def trace(network: nn.Module, example: Tensor, dynamic: Mapping[int, str]) -> torch.export.ExportedProgram:
    """Return the program of a network with one input; the `dynamic` axes of the example must be longer than 1.

    Raises:
        TracingError: A layer cannot be traced.
        MemoryExhausted: Out of memory.
    """
    running: list[str] = []
    axes: dict[int, Any] = {axis: torch.export.Dim(name) for axis, name in dynamic.items()}
    with quiet_exporter(), _track_layers(network.eval(), running), torch.inference_mode(False), torch.no_grad():
        try:
            return torch.export.export(network, (example,), dynamic_shapes=(axes,))
        except Exception as error:  # the tracer runs the network, which may raise anything
            if is_out_of_memory(error):
                raise MemoryExhausted("not enough memory to export so large a network") from error
            raise TracingError(running[-1] if running else "", error) from error


def tracing_problem(member: Member, layer: str, error: Exception, *, form: str) -> ModelError:
    """Return the error for a member that cannot be exported to a format because of a layer (empty: unknown)."""
    name = re.sub(r"^(L\['self'\]\.)?module\.?", "", layer)
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
    return ModelError(
        f"member '{member.name}' ({member.classifier.network}) cannot be exported: {form} does not support "
        f"{f'layer {name}' if name else 'a layer'} ({reason}); rewrite that layer with other operations, leave the "
        "member out (tercet ensemble), or serve the bundle itself"
    )


@contextmanager
def _track_layers(network: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the names of the running layers in `running`, the innermost last."""
    handles = []

    def leave(*_: object) -> None:
        running.pop()

    for name, layer in network.named_modules():
        if name:
            handles.append(layer.register_forward_pre_hook(lambda _, inputs, name=name: running.append(name)))
            handles.append(layer.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def without_beam_search(module: nn.Module) -> nn.Module:
    """Replace the label decoders within a module by greedy ones; return the module, or its replacement."""
    if isinstance(module, LabelDecoder):
        return GreedyDecoder(module)
    for name, child in list(module.named_children()):
        setattr(module, name, without_beam_search(child))
    return module


class GreedyDecoder(nn.Module):
    """Autoregressive label decoder with the weights of another: the most probable label at each step, until END."""

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
        """Map B D to logits B K, positive for the decoded labels; `sequence` (teacher forcing) is ignored."""
        labels, table = self.num_classes, self.embedding.weight
        image = self.from_image(features)  # B E
        state = cell = image.new_zeros(image.shape[0], self.hidden_size)
        token = table[labels + 1].expand(image.shape[0], -1)  # START
        decoded = peaks = image.new_zeros(image.shape[0], labels)  # 1 for decoded labels
        running = image.new_ones(image.shape[0], 1)
        allow_end = image.new_zeros(image.shape[0], 1)  # END may always follow
        for _ in range(labels + 1):  # after K labels only END is left
            gates = token @ self.kernel + state @ self.recurrent + self.bias
            i, f, g, o = gates.chunk(4, 1)  # B H each
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            state = torch.sigmoid(o) * torch.tanh(cell)
            joint = torch.relu(self.from_state(state) + image)
            logits = joint @ table[: labels + 1].t()  # B K+1
            logits = logits.masked_fill(torch.cat([decoded, allow_end], dim=1) > 0, -torch.inf)
            peaks = torch.maximum(peaks, running * logits.softmax(dim=1)[:, :labels])
            best = nn.functional.one_hot(logits.argmax(dim=1), labels + 1).to(image.dtype)
            running = running * (1 - best[:, labels:])
            decoded = decoded + running * best[:, :labels]
            token = best @ table[: labels + 1]
        return torch.logit((0.5 * (peaks + decoded)).clamp(TOKEN_EDGE, 1 - TOKEN_EDGE))
