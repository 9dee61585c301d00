"""Match the parameter counts of networks by adjusting one width.

The width is `hidden_size` of a recurrent module or row classifier, else `head_hidden_dim`. The number of parameters is
a quadratic polynomial of either, so three small networks determine it for every width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from tercet.config.model import ModelConfig
from tercet.core.errors import ConfigError
from tercet.models.build import options_of

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
