"""Ensemble methods: how the members' predictions are combined. Shapes: B samples, M members, K classes.

A method is described by data (an operation, and the weights of the members), which is interpreted here for NumPy and in
`tercet.export.torch_export` for exported files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from tercet.config.training import Monitor
from tercet.core.errors import ConfigError, DataError, ModelError
from tercet.core.predictions import Floats, Predictions, aligned
from tercet.core.registry import PARTS, Registry

Ties = Literal["lowest", "mean"]
WeightedOperation = Literal["mean", "pruned", "vote"]
Operation = Literal[WeightedOperation, "function", "head"]
TIE_SHARE = 2e-5
"""Weight of the mean probability that breaks ties: far below 1 / M, but large enough for float32 in exported files."""


@dataclass(frozen=True)
class EnsembleMethod:
    """An ensemble method: a part of kind "combiner", registered by name."""

    operation: Operation = "mean"
    """Weighted mean over the members: of probabilities (`mean`), of the largest probabilities (`pruned`), or of votes
    (`vote`). `function` combines in any other way; `head` trains a network on the predictions."""
    fit: Callable[[Sequence[Any], Monitor], ArrayLike] | None = None
    """Takes the predictions of M members and the monitored metric, returns M weights; None: equal weights."""
    multilabel: bool = False
    """Whether it also combines the label sets of multi-label members; then `fit` takes their predictions, too."""
    function: Callable[[Floats], Floats] | None = None
    """For `function`: takes the members' probabilities B M K, returns B K."""
    module: Callable[[], Any] | None = None
    """For `function`: returns a PyTorch module that does the same; without it, bundles cannot be exported."""

    def __post_init__(self) -> None:
        if self.operation not in get_args(Operation) or (self.operation == "function") != (self.function is not None):
            raise ConfigError(f"operation '{self.operation}' must be mean, pruned or vote, or function with a function")
        if self.fit is not None and self.operation not in get_args(WeightedOperation):
            raise ConfigError(f"operation {self.operation} takes no weights: omit fit")
        if self.multilabel and self.operation not in ("mean", "vote"):
            raise ConfigError(f"operation {self.operation} cannot combine label sets: use mean or vote")


ENSEMBLE_METHODS: Registry[EnsembleMethod] = PARTS["combiner"]


def ensemble_method(name: str) -> EnsembleMethod:
    """Return an ensemble method by name.

    Raises:
        ConfigError: The name is unknown, or the caller's part of this name is not an `EnsembleMethod`.
    """
    method = ENSEMBLE_METHODS[name]
    if not isinstance(method, EnsembleMethod):
        raise ConfigError(f"ensemble method '{name}' is of type {type(method).__name__}, expected EnsembleMethod")
    return method


def is_fitted(method: str) -> bool:
    """Return whether the method learns weights or a head from labels, so that its score needs cross-fitting."""
    return ensemble_method(method).fit is not None or ensemble_method(method).operation == "head"


def combine_values(
    operation: WeightedOperation,
    values: Floats,
    *,
    weights: ArrayLike | None = None,
    votes: Floats | None = None,
    ties: Ties = "lowest",
    keep: int = 1,
) -> Floats:
    """Return the combined probabilities, or scores of labels: B M K to B K.

    Args:
        operation: `mean`; `vote`, the share of votes; or `pruned`, the mean after zeroing all but the `keep` most
            probable classes of each row and member. This is Algorithm 2 of the paper, with its misprints read as
            follows: each row keeps its first maximum *with its value*, then the members are averaged. Unlike in the
            paper, rows are then divided by their sum, so that they sum to 1; this does not move the maximum.
        values: B M K.
        weights: M weights that sum to 1; None: equal weights.
        votes: Votes of the members, B M K (default: one for the most probable class; the lowest index wins ties).
        ties: Which class wins a tie of votes: `lowest` (the lowest index) or `mean` (the highest mean probability,
            which is added to the shares of votes with the weight `TIE_SHARE`).
        keep: Classes kept by `pruned`; the lowest index wins ties.

    Raises:
        ConfigError: `ties` is unknown, or `keep` is not positive.
    """
    _check_options(ties, keep)
    if operation == "mean":
        return _weighted_mean(values, weights)
    if operation == "vote":
        shares = _weighted_mean(np.eye(values.shape[2])[values.argmax(axis=2)] if votes is None else votes, weights)
        return shares if ties == "lowest" else (1 - TIE_SHARE) * shares + TIE_SHARE * _weighted_mean(values, weights)
    top = np.argsort(-values, axis=2, kind="stable")[:, :, :keep]
    pruned = np.zeros_like(values)
    np.put_along_axis(pruned, top, np.take_along_axis(values, top, axis=2), axis=2)
    mean = _weighted_mean(pruned, weights)
    normalized: Floats = mean / mean.sum(axis=1, keepdims=True)
    return normalized


def _check_options(ties: Ties, keep: int) -> None:
    if ties not in get_args(Ties) or keep < 1:
        raise ConfigError(f"ties '{ties}' must be lowest or mean, and keep {keep} positive")


def _weighted_mean(values: Floats, weights: ArrayLike | None) -> Floats:
    mean: Floats = values.mean(axis=1) if weights is None else np.einsum("bmk,m->bk", values, np.asarray(weights))
    return mean


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


def resolve_operation(method: str, operation: Operation | None, *, weighted: bool) -> Operation:
    """Return the operation of a method, given that stored in a bundle, if any.

    Bundles store it for methods of the caller's: only functions need to be registered where the bundle is loaded.

    Raises:
        ConfigError: The method is unknown or trains a head, has another operation, or has weights where it fits none.
    """
    if operation in get_args(WeightedOperation) and method not in ENSEMBLE_METHODS:
        return operation  # type: ignore[return-value]
    registered = ensemble_method(method)
    if operation not in (None, registered.operation):
        raise ConfigError(f"the operation of '{method}' is {registered.operation}, not {operation}")
    if registered.operation == "head":
        raise ConfigError(f"'{method}' has a trained head in place of a combiner")
    if weighted != (registered.fit is not None):
        raise ConfigError(f"'{method}' {'takes no' if weighted else 'needs'} weights")
    return registered.operation


def stored_operation(method: str, operation: Operation | None) -> Operation | None:
    """Return the operation if a bundle needs it, because the method is of the caller's; None for built-in methods."""
    return None if method in ENSEMBLE_METHODS and method not in ENSEMBLE_METHODS.custom() else operation


@dataclass(frozen=True)
class Combiner:
    """An ensemble method with its fitted weights, as stored in a bundle."""

    method: str
    names: tuple[str, ...]
    """M member names, in the order of the stack."""
    weights: tuple[float, ...] | None = None
    """M weights that sum to 1, if the method fits weights."""
    ties: Ties = "lowest"
    """vote: see `combine_values`."""
    keep: int = 1
    """pruned: see `combine_values`."""
    operation: Operation | None = None
    """Default: that of the registered method; see `resolve_operation`."""

    def __post_init__(self) -> None:
        operation = resolve_operation(self.method, self.operation, weighted=self.weights is not None)
        object.__setattr__(self, "operation", operation)
        if not self.names:
            raise ConfigError("an ensemble needs at least one member")
        _check_options(self.ties, self.keep)
        if self.weights is not None:
            weights = normalize_weights(self.weights, len(self.names))
            object.__setattr__(self, "weights", tuple(weights.tolist()))

    @property
    def weighted_operation(self) -> WeightedOperation | None:
        """The operation, if `combine_values` has it."""
        return None if self.operation in ("function", "head") else self.operation  # type: ignore[return-value]

    def combine(self, stack: Floats) -> Floats:
        """Return the combined probabilities: B M K to B K.

        Raises:
            ConfigError: The method is a function that is not registered here.
            DataError: The stack does not have one slice per member.
        """
        if stack.ndim != 3 or stack.shape[1] != len(self.names):
            raise DataError(f"stack has shape {stack.shape}, expected (samples, {len(self.names)} members, classes)")
        if (operation := self.weighted_operation) is not None:
            return combine_values(operation, stack, weights=self.weights, ties=self.ties, keep=self.keep)
        function = ensemble_method(self.method).function
        assert function is not None
        return np.asarray(function(stack), dtype=np.float64)

    def apply(self, members: Sequence[Predictions]) -> Predictions:
        """Return the combined predictions of the members, which are in the order of `names`; see `combine`."""
        first, stack = stack_members(members)
        return replace(first, probabilities=self.combine(stack))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "operation": stored_operation(self.method, self.operation)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Combiner:
        """Rebuild from `to_dict`'s result.

        Raises:
            ModelError: The values do not describe a combiner.
        """
        try:
            weights = None if values["weights"] is None else tuple(map(float, values["weights"]))
            return cls(**{**values, "names": tuple(map(str, values["names"])), "weights": weights})
        except (KeyError, TypeError, ValueError) as error:  # a ConfigError is a ValueError
            raise ModelError(f"the combiner is damaged: {error}") from error


def stack_members(members: Sequence[Predictions]) -> tuple[Predictions, Floats]:
    """Return the first member with all known labels, and the probabilities of all members (B M K); see `aligned`."""
    matched = aligned(members)
    return matched[0], np.stack([member.probabilities for member in matched], axis=1)


def average(members: Sequence[Predictions]) -> Predictions:
    """Return the mean of the members' probabilities."""
    return _combine("mean", members)


def weighted(members: Sequence[Predictions], weights: ArrayLike) -> Predictions:
    """Return the weighted mean of the members' probabilities; the weights are divided by their sum."""
    return _combine("mean", members, weights=normalize_weights(weights, len(members)))


def vote(members: Sequence[Predictions], ties: Ties = "lowest") -> Predictions:
    """Return the share of members that vote for each class; see `combine_values`."""
    return _combine("vote", members, ties=ties)


def pruned(members: Sequence[Predictions], keep: int = 1) -> Predictions:
    """Return the mean of the members' largest probabilities; see `combine_values`."""
    return _combine("pruned", members, keep=keep)


def _combine(operation: WeightedOperation, members: Sequence[Predictions], **options: Any) -> Predictions:
    first, stack = stack_members(members)
    return replace(first, probabilities=combine_values(operation, stack, **options))
