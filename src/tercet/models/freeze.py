"""Freezing by name patterns: rules are matched against the names of a network's `state_dict`.

Those are the names of parameters, and of the running statistics of normalization layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from tercet.config.model import FreezeRule
from tercet.core.errors import ConfigError

_NUM_EXAMPLES = 3


@dataclass(frozen=True)
class FreezeMatch:
    """A rule, and the names for which it is the first to match."""

    rule: FreezeRule
    """The pattern, and whether it freezes."""
    names: tuple[str, ...]
    """Parameters and running statistics."""
    parameters: int
    """Number of parameters (elements) among them."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "pattern": self.rule.pattern,
            "state": self.rule.state,
            "parameters": self.parameters,
            "names": list(self.names),
        }


def match_rules(network: str, module: nn.Module, rules: Sequence[FreezeRule]) -> tuple[FreezeMatch, ...]:
    """Assign every parameter and running statistic to the first rule that matches its name.

    Args:
        network: Name of the network, for messages.
        module: The network.
        rules: Rules, in order.

    Raises:
        ConfigError: A name matches no pattern, a pattern matches no name, or nothing is left to train.
    """
    tensors = module.state_dict(keep_vars=True)
    matched: dict[FreezeRule, list[str]] = {rule: [] for rule in rules}
    uncovered: list[str] = []
    for name in tensors:
        first = next((rule for rule in rules if fnmatchcase(name, rule.pattern)), None)
        (uncovered if first is None else matched[first]).append(name)
    unmatched = [rule.pattern for rule in rules if not any(fnmatchcase(name, rule.pattern) for name in tensors)]
    if unmatched:
        raise ConfigError(
            f"freeze: '{unmatched[0]}' matches no parameter of '{network}', which has names such as "
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
        for rule, names in matched.items()
    )
    if not any(match.parameters for match in matches if not match.rule.frozen):
        raise ConfigError(f"freeze: nothing of '{network}' is left to train: keep 'head.classes*: open'")
    return matches


def apply_rules(module: nn.Module, matches: Sequence[FreezeMatch]) -> tuple[str, ...]:
    """Disable gradients of the frozen parameters; return the modules that must stay in evaluation mode.

    These are completely frozen modules, which thereby become fixed functions without dropout, and modules with frozen
    running statistics. Recurrent kernels are not among them: they compute the same in both modes, but on CUDA they
    pass gradients in training mode only.

    Args:
        module: The network.
        matches: From `match_rules`.
    """
    frozen = {name for match in matches if match.rule.frozen for name in match.names}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if name in frozen and isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(False)
    eval_modules: list[str] = []
    for name, part in module.named_modules():
        if isinstance(part, nn.RNNBase):
            continue
        prefix = f"{name}." if name else ""
        tensors = [f"{prefix}{key}" for key in part.state_dict()]
        statistics = {f"{prefix}{key}" for key, _ in part.named_buffers(recurse=False)}
        inner = not tensors and any(name.startswith(f"{outer}.") for outer in eval_modules)  # dropout in a frozen block
        if (tensors and frozen.issuperset(tensors)) or statistics & frozen or inner:
            eval_modules.append(name)
    return tuple(eval_modules)


def _examples(names: list[str]) -> str:
    return ", ".join(names[-_NUM_EXAMPLES:])
