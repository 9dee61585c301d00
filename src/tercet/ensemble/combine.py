"""Ways to make one set of predictions of several.

Shapes: B samples, M members, K classes. Every way exists twice: over a stack B M K of probabilities, for whoever holds
arrays, and over `Predictions`, which are matched by sample id and class name first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from tercet.core.errors import ConfigError, DataError, ModelError
from tercet.core.predictions import Floats, Predictions, aligned

Ties = Literal["lowest", "mean"]
TIE_SHARE = 2e-5
"""Share of the mean in a vote whose ties it decides: far below 1 / M, yet it shows in the 32 bits of exported files."""


def average_stack(stack: Floats) -> Floats:
    """Return the mean over members: B M K to B K."""
    mean: Floats = stack.mean(axis=1)
    return mean


def weighted_stack(stack: Floats, weights: ArrayLike) -> Floats:
    """Return the weighted mean over members: B M K to B K.

    Args:
        stack: B M K.
        weights: M, not negative, in any unit: they are divided by their sum.

    Raises:
        ConfigError: The weights do not fit the members.
    """
    mean: Floats = np.einsum("bmk,m->bk", stack, normalize_weights(weights, stack.shape[1]))
    return mean


def vote_stack(stack: Floats, ties: Ties = "lowest") -> Floats:
    """Return the share of members that vote for each class: B M K to B K.

    Args:
        stack: B M K.
        ties: Classes with equally many votes: `lowest` leaves the lowest index ahead; `mean` puts ahead the one of
            them with the highest mean probability, by mixing in one millionth of the mean.

    Raises:
        ConfigError: `ties` is neither.
    """
    if ties not in ("lowest", "mean"):
        raise ConfigError(f"ties '{ties}' is neither lowest nor mean")
    shares: Floats = np.eye(stack.shape[2])[stack.argmax(axis=2)].mean(axis=1)
    return shares if ties == "lowest" else (1 - TIE_SHARE) * shares + TIE_SHARE * average_stack(stack)


def pruned_stack(stack: Floats, keep: int = 1) -> Floats:
    """Return the mean of members that keep only their most probable classes: B M K to B K.

    This is Algorithm 2 of the paper with its misprints read as follows: each row keeps its first maximum *with its
    value* and loses the rest, then the members are averaged. The paper stops there, with rows that no longer sum to
    1; here they are divided by their sum, which does not move the maximum.

    Args:
        stack: B M K.
        keep: Classes that each row of each member keeps; the lowest index wins ties.

    Raises:
        ConfigError: `keep` is not positive.
    """
    if keep < 1:
        raise ConfigError(f"keep {keep} must be positive")
    kept = np.argsort(-stack, axis=2, kind="stable")[:, :, :keep]
    pruned = np.zeros_like(stack)
    np.put_along_axis(pruned, kept, np.take_along_axis(stack, kept, axis=2), axis=2)
    mean = average_stack(pruned)
    normalised: Floats = mean / mean.sum(axis=1, keepdims=True)
    return normalised


def normalize_weights(weights: ArrayLike, num_members: int) -> Floats:
    """Return weights (M) divided by their sum; those that sum to 1 already stay as they are, to the last bit.

    Raises:
        ConfigError: Their number is wrong, one is negative or not finite, or all are zero.
    """
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (num_members,):
        raise ConfigError(f"weights have shape {values.shape}, expected one for each of the {num_members} members")
    if not np.isfinite(values).all() or values.min() < 0 or values.sum() == 0:
        raise ConfigError(f"weights {values.tolist()} must be finite, not negative, and not all zero")
    total = values.sum()
    share: Floats = values if abs(total - 1) < 1e-12 else values / total
    return share


def stack_members(members: Sequence[Predictions]) -> tuple[Predictions, Floats]:
    """Return the first member with all known labels, and the probabilities of all of them (B M K); see `aligned`."""
    matched = aligned(members)
    return matched[0], np.stack([member.probabilities for member in matched], axis=1)


def average(members: Sequence[Predictions]) -> Predictions:
    """Return the mean of the members' probabilities."""
    return _combined(members, average_stack)


def weighted(members: Sequence[Predictions], weights: ArrayLike) -> Predictions:
    """Return the weighted mean of the members' probabilities; see `weighted_stack`."""
    return _combined(members, lambda stack: weighted_stack(stack, weights))


def vote(members: Sequence[Predictions], ties: Ties = "lowest") -> Predictions:
    """Return the members' vote shares; see `vote_stack`."""
    return _combined(members, lambda stack: vote_stack(stack, ties))


def pruned(members: Sequence[Predictions], keep: int = 1) -> Predictions:
    """Return the mean of the members' most probable classes; see `pruned_stack`."""
    return _combined(members, lambda stack: pruned_stack(stack, keep))


def _combined(members: Sequence[Predictions], combine: Callable[[Floats], Floats]) -> Predictions:
    first, stack = stack_members(members)
    return replace(first, probabilities=combine(stack))


_WEIGHTED = ("weighted", "greedy")
_KNOWN = ("average", "pruned", "vote", *_WEIGHTED, "e2e")


@dataclass(frozen=True)
class Combiner:
    """A way to combine, with whatever was fitted: what a bundle stores."""

    method: str
    """average, pruned, vote, weighted, greedy (weights chosen greedily), or e2e (a trained head combines instead)."""
    names: tuple[str, ...]
    """M member names, in the order of the stack."""
    weights: tuple[float, ...] | None = None
    """M weights that sum to 1; only for weighted and greedy."""
    ties: Ties = "lowest"
    """vote: who wins a tie."""
    keep: int = 1
    """pruned: classes that each member keeps."""

    def __post_init__(self) -> None:
        if self.method not in _KNOWN:
            raise ConfigError(f"unknown way to combine '{self.method}' (known: {', '.join(_KNOWN)})")
        if not self.names:
            raise ConfigError("an ensemble needs at least one member")
        if (self.weights is not None) != (self.method in _WEIGHTED):
            raise ConfigError(f"'{self.method}' {'needs' if self.weights is None else 'takes no'} weights")
        if self.ties not in ("lowest", "mean") or self.keep < 1:
            raise ConfigError(f"ties '{self.ties}' must be lowest or mean, and keep {self.keep} positive")
        if self.weights is not None:
            shares = normalize_weights(self.weights, len(self.names))
            object.__setattr__(self, "weights", tuple(float(share) for share in shares))

    def combine(self, stack: Floats) -> Floats:
        """Return the combined probabilities: B M K to B K.

        Raises:
            ConfigError: The method is e2e, whose head combines.
            DataError: The stack does not hold one slice a member.
        """
        if self.method == "e2e":
            raise ConfigError("an e2e ensemble is combined by its trained head, not by a rule")
        if stack.ndim != 3 or stack.shape[1] != len(self.names):
            raise DataError(f"stack has shape {stack.shape}, expected (samples, {len(self.names)} members, classes)")
        if self.weights is not None:
            return weighted_stack(stack, self.weights)
        if self.method == "vote":
            return vote_stack(stack, self.ties)
        return pruned_stack(stack, self.keep) if self.method == "pruned" else average_stack(stack)

    def apply(self, members: Sequence[Predictions]) -> Predictions:
        """Return the combined predictions of the members, given in the order of `names`; see `combine`."""
        return _combined(members, self.combine)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        weights = None if self.weights is None else list(self.weights)
        fixed = {"method": self.method, "names": list(self.names), "weights": weights}
        return {**fixed, "ties": self.ties, "keep": self.keep}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Combiner:
        """Rebuild from `to_dict`'s result.

        Raises:
            ModelError: The values describe no combiner.
        """
        try:
            weights = values["weights"]
            return cls(
                values["method"],
                tuple(str(name) for name in values["names"]),
                None if weights is None else tuple(float(weight) for weight in weights),
                values["ties"],
                int(values["keep"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the combiner is damaged: {error}") from error
