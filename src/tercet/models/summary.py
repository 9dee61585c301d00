"""Parameters and operations of a network, and networks with matching parameter counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tercet.config.model import ModelConfig
from tercet.core.errors import ConfigError
from tercet.core.types import InputSpec
from tercet.models.backbone import to_meta
from tercet.models.build import options_of
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


WidthOption = Literal["hidden_size", "head_hidden_dim"]
ParameterCount = Callable[[ModelConfig], int]


@dataclass(frozen=True)
class ParameterMatch:
    """A network with its width adjusted to a parameter count."""

    config: ModelConfig
    """Options of the network, with the adjusted width."""
    option: WidthOption
    """The adjusted option."""
    width: int
    """Its value."""
    parameters: int
    """Parameters of the network with this width."""
    target: int
    """Requested number of parameters."""

    @property
    def deviation(self) -> float:
        """Relative deviation from the target."""
        return self.parameters / self.target - 1


def find_width_option(network: str, config: ModelConfig) -> WidthOption | None:
    """Return the option that sets the width of a network; None if it has none."""
    options = options_of(network, config)
    return "hidden_size" if "hidden_size" in options else "head_hidden_dim" if "head_hidden_dim" in options else None


def match_parameters(
    network: str, config: ModelConfig, target: int, *, count: ParameterCount, tolerance: float = 0.05
) -> ParameterMatch:
    """Return a network's options with the width whose parameter count is closest to `target`.

    Args:
        network: Name of the network.
        config: Options of the network.
        target: Requested number of parameters.
        count: Returns the number of parameters of the network with given options.
        tolerance: Largest relative deviation from the target.

    Raises:
        ConfigError: The network has no adjustable width, or no width is within the tolerance.
    """
    option = find_width_option(network, config)
    if option is None:
        raise ConfigError(
            f"cannot match {target:,} parameters: '{network}' has no adjustable width, neither --hidden-size nor "
            "--head-hidden-dim"
        )

    def size(width: int) -> int:
        return count(replace(config, **{option: width}))  # type: ignore[arg-type]

    candidates = _candidate_widths(size(1), size(2), size(3), target)
    sizes = {width: size(width) for width in candidates}
    width = min(sizes, key=lambda candidate: abs(sizes[candidate] - target))
    match = ParameterMatch(replace(config, **{option: width}), option, width, sizes[width], target)  # type: ignore[arg-type]
    if abs(match.deviation) > tolerance:
        raise ConfigError(
            f"cannot match {target:,} parameters with '{network}' within {100 * tolerance:g} %: with "
            f"--{option.replace('_', '-')} {width} it has {match.parameters:,}"
        )
    return match


def _candidate_widths(first: int, second: int, third: int, target: int) -> list[int]:
    """Return the integers around the width at which the quadratic through the sizes at 1, 2 and 3 is `target`."""
    curvature = (third - 2 * second + first) / 2  # size(w) = first + slope (w - 1) + curvature (w - 1)(w - 2)
    slope = second - first
    if target <= first:
        return [1]
    if curvature == 0:
        root = 1 + (target - first) / slope
    else:  # curvature w^2 + b w + c = 0
        b, c = slope - 3 * curvature, first - slope + 2 * curvature - target
        root = (-b + math.sqrt(b * b - 4 * curvature * c)) / (2 * curvature)
    return [max(1, math.floor(root)), max(1, math.floor(root)) + 1]
