"""Tracing a network with PyTorch's exporter, and the name of the layer where that ends.

Tracing takes no gradients and is not done in inference mode, whose tensors cannot be traced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tercet.deploy.export.greedy import GreedyDecoder
from tercet.deploy.member import Member
from tercet.deploy.program.archive import quiet
from tercet.ground.errors import MemoryExhausted, ModelError, starved
from tercet.models.label_decoder import LabelDecoder


class Untraceable(Exception):
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
    with quiet(), _watched(network.eval(), inside), torch.inference_mode(False), torch.no_grad():
        try:
            return torch.export.export(network, (given,), dynamic_shapes=(axes,))
        except Exception as error:  # the tracer runs the network, which may raise anything
            if starved(error):
                raise MemoryExhausted("no memory to export so large a network") from error
            raise Untraceable(inside[-1] if inside else "", error) from error


def without_search(module: nn.Module) -> nn.Module:
    """Put greedy decoders in the place of those that search, within a module; return it, or its replacement."""
    if isinstance(module, LabelDecoder):
        return GreedyDecoder(module)
    for name, child in list(module.named_children()):
        setattr(module, name, without_search(child))
    return module


def refusal(member: Member, layer: str, error: Exception, *, form: str) -> ModelError:
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
