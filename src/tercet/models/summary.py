"""Summary of a network: parameters, running statistics, FLOPs per image, input, and layers.

Shapes: C channels, H x W pixels, M members, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tercet.core.types import InputSpec
from tercet.models.backbone import to_meta
from tercet.models.classifier import Classifier
from tercet.models.fusion_head import EndToEnd, FusionHead

_DEPTH = 3


def summarize(module: Classifier | FusionHead | EndToEnd) -> dict[str, Any]:
    """Return the summary as plain values for JSON and tables.

    `parameters` includes frozen parameters, `trainable` does not; `buffers` counts the running means and variances of
    normalization layers. `flops` are those of one image in evaluation mode, two per multiply-add, of matrix products
    and convolutions only. They are counted on the meta device; recurrent kernels, which PyTorch's counter ignores,
    are counted by their formula. `input` is the input spec, or M and K of a fusion head. `layers` lists the main
    modules by their dotted names. `freezing` lists the freezing rules with the names that they match.

    Args:
        module: A classifier, a fusion head, or an end-to-end ensemble.
    """
    return {
        "network": module.network if isinstance(module, Classifier) else type(module).__name__,
        "parameters": count_parameters(module),
        "trainable": sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad),
        "buffers": sum(
            buffer.numel() for name, buffer in module.named_buffers() if name.endswith(("running_mean", "running_var"))
        ),
        "flops": _count_flops(module),
        "input": _describe_input(module),
        "classes": module.head.num_classes if isinstance(module, EndToEnd) else module.num_classes,
        "layers": _layers(module, prefix="", depth=_DEPTH),
        "freezing": [match.to_dict() for match in module.freezing] if isinstance(module, Classifier) else [],
    }


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())


def _count_flops(module: Classifier | FusionHead | EndToEnd) -> int:
    counter, products = FlopCounterMode(display=False), [0]
    meta = to_meta(module, products=products).requires_grad_(False)
    with (
        torch.no_grad(),
        counter,
    ):  # the counter fails on views of a parameter that requires gradients, such as SigLIP's query
        meta(_sample_input(module))
    return int(counter.get_total_flops()) + 2 * sum(products)


def _sample_input(module: nn.Module) -> Tensor | tuple[Tensor, ...]:
    if isinstance(module, FusionHead):
        return torch.empty(1, module.num_members, module.num_classes, device="meta")
    if isinstance(module, EndToEnd):
        return tuple(_image(spec) for spec in _specs(module))
    assert isinstance(module, Classifier)
    return _image(module.spec)


def _image(spec: InputSpec) -> Tensor:
    return torch.empty(1, spec.channels, *spec.size, device="meta")


def _specs(module: EndToEnd) -> list[InputSpec]:
    return [branch.spec for branch in module.branches if isinstance(branch, Classifier)]


def _describe_input(module: nn.Module) -> Any:
    if isinstance(module, FusionHead):
        return {"members": module.num_members, "classes": module.num_classes}
    if isinstance(module, EndToEnd):
        return [spec.to_dict() for spec in _specs(module)]
    assert isinstance(module, Classifier)
    return module.spec.to_dict()


def _layers(module: nn.Module, *, prefix: str, depth: int) -> list[dict[str, Any]]:
    rows = []
    for name, layer in module.named_children():
        rows.append({"name": f"{prefix}{name}", "type": type(layer).__name__, "parameters": count_parameters(layer)})
        if depth > 1:
            rows += _layers(layer, prefix=f"{prefix}{name}.", depth=depth - 1)
    return rows
