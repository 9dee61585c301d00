"""Ensemble methods: average, weighted mean, vote, pruned mean.

Shapes: B samples, M members, K classes. Each method has two functions: one for an array of probabilities B M K, and one
for `Predictions`, which are first matched by sample id and class name.
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
"""Weight of the mean probability that breaks ties: far below 1 / M, but large enough for float32 in exported files."""


def average_stack(stack: Floats) -> Floats:
    """Return the mean over members: B M K to B K."""
    mean: Floats = stack.mean(axis=1)
    return mean


def weighted_stack(stack: Floats, weights: ArrayLike) -> Floats:
    """Return the weighted mean over members: B M K to B K.

    Args:
        stack: B M K.
        weights: M non-negative values; they are divided by their sum.

    Raises:
        ConfigError: The weights are invalid; see `normalize_weights`.
    """
    mean: Floats = np.einsum("bmk,m->bk", stack, normalize_weights(weights, stack.shape[1]))
    return mean


def vote_stack(stack: Floats, ties: Ties = "lowest") -> Floats:
    """Return the share of members that vote for each class: B M K to B K.

    Args:
        stack: B M K.
        ties: Which class wins a tie: `lowest` (the lowest index) or `mean` (the highest mean probability, which is
            added to the vote shares with the weight `TIE_SHARE`).

    Raises:
        ConfigError: `ties` is unknown.
    """
    if ties not in ("lowest", "mean"):
        raise ConfigError(f"unknown ties '{ties}' (known: lowest, mean)")
    shares: Floats = np.eye(stack.shape[2])[stack.argmax(axis=2)].mean(axis=1)
    return shares if ties == "lowest" else (1 - TIE_SHARE) * shares + TIE_SHARE * average_stack(stack)


def pruned_stack(stack: Floats, keep: int = 1) -> Floats:
    """Return the mean over members after zeroing all but the `keep` most probable classes of each: B M K to B K.

    This is Algorithm 2 of the paper, with its misprints read as follows: each row keeps its first maximum *with its
    value*, then the members are averaged. Unlike in the paper, rows are then divided by their sum, so that they sum to
    1; this does not move the maximum.

    Args:
        stack: B M K.
        keep: Classes kept per row and member; the lowest index wins ties.

    Raises:
        ConfigError: `keep` is not positive.
    """
    if keep < 1:
        raise ConfigError(f"keep {keep} must be positive")
    top = np.argsort(-stack, axis=2, kind="stable")[:, :, :keep]
    pruned = np.zeros_like(stack)
    np.put_along_axis(pruned, top, np.take_along_axis(stack, top, axis=2), axis=2)
    mean = average_stack(pruned)
    normalized: Floats = mean / mean.sum(axis=1, keepdims=True)
    return normalized


def normalize_weights(weights: ArrayLike, num_members: int) -> Floats:
    """Return M weights divided by their sum.

    Weights that already sum to 1 are returned bit for bit, so that saving and loading does not change them.

    Raises:
        ConfigError: Their number is wrong, a weight is negative or not finite, or all are zero.
    """
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (num_members,):
        raise ConfigError(f"weights have shape {values.shape}, expected ({num_members},): one per member")
    if not np.isfinite(values).all() or values.min() < 0 or values.sum() == 0:
        raise ConfigError(f"weights {values.tolist()} must be finite, not negative, and not all zero")
    total = values.sum()
    normalized: Floats = values if abs(total - 1) < 1e-12 else values / total
    return normalized


def stack_members(members: Sequence[Predictions]) -> tuple[Predictions, Floats]:
    """Return the first member with all known labels, and the probabilities of all members (B M K); see `aligned`."""
    matched = aligned(members)
    return matched[0], np.stack([member.probabilities for member in matched], axis=1)


def average(members: Sequence[Predictions]) -> Predictions:
    """Return the mean of the members' probabilities."""
    return _combine(members, average_stack)


def weighted(members: Sequence[Predictions], weights: ArrayLike) -> Predictions:
    """Return the weighted mean of the members' probabilities; see `weighted_stack`."""
    return _combine(members, lambda stack: weighted_stack(stack, weights))


def vote(members: Sequence[Predictions], ties: Ties = "lowest") -> Predictions:
    """Return the share of members that vote for each class; see `vote_stack`."""
    return _combine(members, lambda stack: vote_stack(stack, ties))


def pruned(members: Sequence[Predictions], keep: int = 1) -> Predictions:
    """Return the mean of the members' largest probabilities; see `pruned_stack`."""
    return _combine(members, lambda stack: pruned_stack(stack, keep))


def _combine(members: Sequence[Predictions], combine: Callable[[Floats], Floats]) -> Predictions:
    first, stack = stack_members(members)
    return replace(first, probabilities=combine(stack))


_WEIGHTED = ("weighted", "greedy")
_KNOWN = ("average", "pruned", "vote", *_WEIGHTED, "e2e")


@dataclass(frozen=True)
class Combiner:
    """An ensemble method with its fitted parameters, as stored in a bundle."""

    method: str
    """average, pruned, vote, weighted, greedy (weights from greedy selection), or e2e (a trained head combines)."""
    names: tuple[str, ...]
    """M member names, in the order of the stack."""
    weights: tuple[float, ...] | None = None
    """weighted and greedy: M weights that sum to 1."""
    ties: Ties = "lowest"
    """vote: see `vote_stack`."""
    keep: int = 1
    """pruned: see `pruned_stack`."""

    def __post_init__(self) -> None:
        if self.method not in _KNOWN:
            raise ConfigError(f"unknown ensemble method '{self.method}' (known: {', '.join(_KNOWN)})")
        if not self.names:
            raise ConfigError("an ensemble needs at least one member")
        if (self.weights is not None) != (self.method in _WEIGHTED):
            raise ConfigError(f"'{self.method}' {'needs' if self.weights is None else 'takes no'} weights")
        if self.ties not in ("lowest", "mean") or self.keep < 1:
            raise ConfigError(f"ties '{self.ties}' must be lowest or mean, and keep {self.keep} positive")
        if self.weights is not None:
            weights = normalize_weights(self.weights, len(self.names))
            object.__setattr__(self, "weights", tuple(weights.tolist()))

    def combine(self, stack: Floats) -> Floats:
        """Return the combined probabilities: B M K to B K.

        Raises:
            ConfigError: The method is e2e; use its trained head.
            DataError: The stack does not have one slice per member.
        """
        if self.method == "e2e":
            raise ConfigError("an e2e ensemble is combined by its trained head")
        if stack.ndim != 3 or stack.shape[1] != len(self.names):
            raise DataError(f"stack has shape {stack.shape}, expected (samples, {len(self.names)} members, classes)")
        if self.weights is not None:
            return weighted_stack(stack, self.weights)
        if self.method == "vote":
            return vote_stack(stack, self.ties)
        return pruned_stack(stack, self.keep) if self.method == "pruned" else average_stack(stack)

    def apply(self, members: Sequence[Predictions]) -> Predictions:
        """Return the combined predictions of the members, which are in the order of `names`; see `combine`."""
        return _combine(members, self.combine)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        weights = None if self.weights is None else list(self.weights)
        return {
            "method": self.method,
            "names": list(self.names),
            "weights": weights,
            "ties": self.ties,
            "keep": self.keep,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Combiner:
        """Rebuild from `to_dict`'s result.

        Raises:
            ModelError: The values do not describe a combiner.
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
