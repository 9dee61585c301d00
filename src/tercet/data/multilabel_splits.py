"""Dividing rows that have sets of labels. N rows, K labels, U units (rows, or groups that stay whole)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Sets = NDArray[np.bool_]

_KEPT, _HELD = 0, 1  # the two sides
_GROUP_DRAWS = 16  # ways to hold groups out, of which the closest to every label's share is taken


def held_out_sets(membership: Sets, size: float, *, seed: int, groups: Sequence[str] | None = None) -> Ints:
    """Return positions of about `size` rows that have their share of every label; groups stay whole.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML 2011) with two sides: the rarest label first, each
    of its units goes to the side that lacks it most. Every label keeps a row that is not held out.

    Args:
        membership: N K.
        size: Rows wanted.
        seed: Seed of the order among equals.
        groups: N group names.
    """
    unit = np.arange(len(membership)) if groups is None else np.unique(np.array(groups), return_inverse=True)[1]
    counts = np.zeros((int(unit.max(initial=-1)) + 1, membership.shape[1] + 1), dtype=np.int64)
    np.add.at(counts, unit, np.column_stack([membership, np.ones(len(membership), dtype=np.bool_)]))
    fraction, generator = size / max(1, len(membership)), np.random.default_rng(seed)
    draws = [_divide(counts, fraction, generator) for _ in range(1 if groups is None else _GROUP_DRAWS)]
    held = min(draws, key=lambda draw: float(np.abs(counts[draw].sum(axis=0) - fraction * counts.sum(axis=0)).sum()))
    _give_back(counts, held)
    return np.flatnonzero(held[unit]).astype(np.int64)


def _divide(counts: Ints, fraction: float, generator: np.random.Generator) -> Sets:
    """Return which units are held out (U); the last column of the counts (U K+1) is the units' size."""
    total = counts.sum(axis=0)
    wanted = np.stack([(1 - fraction) * total, fraction * total])  # what each side still lacks of each label
    left = total.copy()
    held = np.zeros(len(counts), dtype=np.bool_)
    waiting = np.ones(len(counts), dtype=np.bool_)
    order = generator.permutation(len(counts))
    while waiting.any():
        present = np.flatnonzero(left[:-1])
        label = present[left[present].argmin()] if len(present) else -1
        for unit in order[waiting[order] & (counts[order, label] > 0)]:
            lack, room = wanted[:, label], wanted[:, -1]
            side = _HELD if (lack[_HELD], room[_HELD]) > (lack[_KEPT], room[_KEPT]) else _KEPT
            held[unit], waiting[unit] = side == _HELD, False
            wanted[side] -= counts[unit]
            left -= counts[unit]
    return held


def _give_back(counts: Ints, held: Sets) -> None:
    """Take units back, in place, until no label lies among the held-out ones only."""
    for label in np.flatnonzero(counts[:, :-1].any(axis=0)):
        if not counts[~held, label].any():
            held[np.flatnonzero(counts[:, label])[0]] = False


def rows_within(membership: Sets, limit: int, *, seed: int) -> Ints:
    """Return positions of `limit` rows, drawn evenly after one row of every label.

    Args:
        membership: N K, at least as many rows as `limit`.
        limit: Rows to keep; where it is smaller than what all labels need, the rarest ones come first.
        seed: Seed of the draw.
    """
    order = np.random.default_rng(seed).permutation(len(membership))
    kept = np.zeros(len(membership), dtype=np.bool_)
    for label in np.argsort(membership.sum(axis=0), kind="stable"):
        holders = order[membership[order, label]]
        if len(holders) and not kept[holders].any() and kept.sum() < limit:
            kept[holders[0]] = True
    rest = order[~kept[order]]
    kept[rest[: limit - int(kept.sum())]] = True
    return np.flatnonzero(kept).astype(np.int64)
