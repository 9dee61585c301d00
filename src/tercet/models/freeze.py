"""The table of frozen and open parts, matched against a network's names.

Names are those of `state_dict`: parameters, and the running statistics of normalisation layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from tercet.config.model import FreezeRule
from tercet.core.errors import ConfigError

_SHOWN = 3


@dataclass(frozen=True)
class FreezeMatch:
    """One line of the table and what it is the first to match."""

    rule: FreezeRule
    """The pattern, and whether it freezes."""
    names: tuple[str, ...]
    """Parameters and running statistics."""
    parameters: int
    """Learnable numbers among them."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "pattern": self.rule.pattern,
            "state": self.rule.state,
            "parameters": self.parameters,
            "names": list(self.names),
        }


def match_rules(network: str, module: nn.Module, rules: Sequence[FreezeRule]) -> tuple[FreezeMatch, ...]:
    """Give every parameter and running statistic to the first rule that matches its name.

    Args:
        network: The network's name, for messages.
        module: The network.
        rules: The table, in order.

    Raises:
        ConfigError: A name that no pattern matches, a pattern that matches no name, or nothing is left to train.
    """
    tensors = module.state_dict(keep_vars=True)
    taken: dict[FreezeRule, list[str]] = {rule: [] for rule in rules}
    uncovered: list[str] = []
    for name in tensors:
        first = next((rule for rule in rules if fnmatchcase(name, rule.pattern)), None)
        (uncovered if first is None else taken[first]).append(name)
    idle = [rule.pattern for rule in rules if not any(fnmatchcase(name, rule.pattern) for name in tensors)]
    if idle:
        raise ConfigError(
            f"freeze: '{idle[0]}' matches nothing in '{network}', whose parameters have names such as "
            f"{_examples(list(tensors))}: 'tercet models {network}' lists its parts"
        )
    if uncovered:
        raise ConfigError(
            f"freeze: no pattern matches {len(uncovered)} parameters and statistics of '{network}', such as "
            f"{_examples(uncovered)}: end the list with '*: open' or '*: frozen'"
        )
    matches = tuple(
        FreezeMatch(
            rule,
            tuple(names),
            sum(tensors[name].numel() for name in names if isinstance(tensors[name], nn.Parameter)),
        )
        for rule, names in taken.items()
    )
    if not any(match.parameters for match in matches if not match.rule.frozen):
        raise ConfigError(f"freeze: nothing of '{network}' is left to train: leave 'head.classes*: open'")
    return matches


def apply_rules(module: nn.Module, matches: Sequence[FreezeMatch]) -> tuple[str, ...]:
    """Take the frozen parameters out of training; return the modules that have to stay in evaluation mode.

    These are all modules of wholly frozen parts, so that a frozen part is a fixed function without dropout, and all
    that hold frozen running statistics. Recurrent kernels are left out: they compute the same in both modes, and on
    CUDA they let gradients through in training mode only.

    Args:
        module: The network.
        matches: From `match_rules`.
    """
    frozen = {name for match in matches if match.rule.frozen for name in match.names}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if name in frozen and isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(False)
    fixed: list[str] = []
    for name, part in module.named_modules():
        if isinstance(part, nn.RNNBase):
            continue
        prefix = f"{name}." if name else ""
        held = [f"{prefix}{key}" for key in part.state_dict()]
        statistics = {f"{prefix}{key}" for key, _ in part.named_buffers(recurse=False)}
        within = any(name.startswith(f"{outer}.") for outer in fixed) and not held  # such as dropout in a frozen block
        if (held and frozen.issuperset(held)) or statistics & frozen or within:
            fixed.append(name)
    return tuple(fixed)


def _examples(names: list[str]) -> str:
    return ", ".join(names[-_SHOWN:])
