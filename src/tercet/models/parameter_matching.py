"""Networks of equal size: one width is turned until the number of parameters is another network's.

The width is `hidden_size` of a recurrent module or row classifier, else `head_hidden_dim`. The number of parameters is
a polynomial of the second degree in either, so three small networks determine it for every width.
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
    """A network brought to a number of parameters."""

    config: ModelConfig
    """Its options, with the width that was found."""
    knob: WidthOption
    """The option that was turned."""
    width: int
    """Its value."""
    parameters: int
    """What was reached."""
    target: int
    """What was wanted."""

    @property
    def deviation(self) -> float:
        """Return what was reached beyond the target, as a share of it."""
        return self.parameters / self.target - 1


def find_width_option(network: str, config: ModelConfig) -> WidthOption | None:
    """Return the option that widens and narrows a network; None where it has none."""
    acting = options_of(network, config)
    return "hidden_size" if "hidden_size" in acting else "head_hidden_dim" if "head_hidden_dim" in acting else None


def match_parameters(
    network: str, config: ModelConfig, target: int, *, count: ParameterCount, tolerance: float = 0.05
) -> ParameterMatch:
    """Return a network's options with the width at which it comes nearest to `target` parameters.

    Args:
        network: Its name.
        config: Its options.
        target: Parameters wanted.
        count: Builds the network with some options and returns its number of parameters.
        tolerance: Largest deviation from the target, as a share of it.

    Raises:
        ConfigError: The network has no adjustable width, or no width comes near enough.
    """
    knob = find_width_option(network, config)
    if knob is None:
        raise ConfigError(
            f"cannot match {target:,} parameters: '{network}' has no adjustable width, neither --hidden-size nor "
            "--head-hidden-dim"
        )

    def sized(width: int) -> int:
        return count(replace(config, **{knob: width}))  # type: ignore[arg-type]

    least = sized(1)
    candidates = _solutions(least, sized(2), sized(3), target)
    sizes = {width: sized(width) for width in candidates}
    width = min(sizes, key=lambda each: abs(sizes[each] - target))
    match = ParameterMatch(replace(config, **{knob: width}), knob, width, sizes[width], target)  # type: ignore[arg-type]
    if abs(match.deviation) > tolerance:
        raise ConfigError(
            f"cannot match {target:,} parameters with '{network}' within {100 * tolerance:g} %: with "
            f"--{knob.replace('_', '-')} {width} it has {match.parameters:,}"
        )
    return match


def _solutions(first: int, second: int, third: int, target: int) -> list[int]:
    """Return the whole widths around the one where the polynomial through the sizes at 1, 2 and 3 is `target`."""
    bend = (third - 2 * second + first) / 2  # size(w) = first + slope (w - 1) + bend (w - 1)(w - 2)
    slope = second - first
    if target <= first:
        return [1]
    if bend == 0:
        root = 1 + (target - first) / slope
    else:  # bend w^2 + b w + c = 0
        b, c = slope - 3 * bend, first - slope + 2 * bend - target
        root = (-b + math.sqrt(b * b - 4 * bend * c)) / (2 * bend)
    return [max(1, math.floor(root)), max(1, math.floor(root)) + 1]
