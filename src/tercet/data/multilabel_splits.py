"""Stratified splits of multi-label data. N rows, K labels, U units (rows, or groups that are kept together)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

_KEPT, _HELD_OUT = 0, 1
_GROUP_DRAWS = 16  # random choices of held-out groups; the one with the best label balance is used


def hold_out_rows(membership: Mask, size: float, *, seed: int, groups: Sequence[str] | None = None) -> Ints:
    """Return positions of about `size` rows, stratified by every label; groups are kept together.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML 2011) into two subsets: starting with the rarest
    label, each of its units goes to the subset that needs it most. Every label keeps a row that is not held out.

    Args:
        membership: N K multi-hot labels.
        size: Number of rows to hold out.
        seed: Seed of the order of equally rare units.
        groups: N group names.
    """
    unit = np.arange(len(membership)) if groups is None else np.unique(np.array(groups), return_inverse=True)[1]
    counts = np.zeros((int(unit.max(initial=-1)) + 1, membership.shape[1] + 1), dtype=np.int64)
    np.add.at(counts, unit, np.column_stack([membership, np.ones(len(membership), dtype=np.bool_)]))
    fraction, generator = size / max(1, len(membership)), np.random.default_rng(seed)
    draws = [_draw_units(counts, fraction, generator) for _ in range(1 if groups is None else _GROUP_DRAWS)]
    held_out = min(
        draws, key=lambda draw: float(np.abs(counts[draw].sum(axis=0) - fraction * counts.sum(axis=0)).sum())
    )
    _keep_every_label(counts, held_out)
    return np.flatnonzero(held_out[unit]).astype(np.int64)


def _draw_units(counts: Ints, fraction: float, generator: np.random.Generator) -> Mask:
    """Return a mask of held-out units (U); the last column of `counts` (U K+1) is the number of rows per unit."""
    total = counts.sum(axis=0)
    demand = np.stack([(1 - fraction) * total, fraction * total])  # per subset and label, what is still to be assigned
    remaining = total.copy()
    held_out = np.zeros(len(counts), dtype=np.bool_)
    unassigned = np.ones(len(counts), dtype=np.bool_)
    order = generator.permutation(len(counts))
    while unassigned.any():
        present = np.flatnonzero(remaining[:-1])
        label = present[remaining[present].argmin()] if len(present) else -1
        for unit in order[unassigned[order] & (counts[order, label] > 0)]:
            of_label, of_rows = demand[:, label], demand[:, -1]
            more = (of_label[_HELD_OUT], of_rows[_HELD_OUT]) > (of_label[_KEPT], of_rows[_KEPT])
            subset = _HELD_OUT if more else _KEPT
            held_out[unit], unassigned[unit] = subset == _HELD_OUT, False
            demand[subset] -= counts[unit]
            remaining -= counts[unit]
    return held_out


def _keep_every_label(counts: Ints, held_out: Mask) -> None:
    """Move held-out units back, in place, until every label occurs among the kept ones."""
    for label in np.flatnonzero(counts[:, :-1].any(axis=0)):
        if not counts[~held_out, label].any():
            held_out[np.flatnonzero(counts[:, label])[0]] = False


def limit_rows(membership: Mask, limit: int, *, seed: int) -> Ints:
    """Return positions of `limit` random rows, at least one per label if possible.

    Args:
        membership: N K multi-hot labels, at least `limit` rows.
        limit: Rows to keep; if it is too small for all labels, the rarest ones come first.
        seed: Seed of the draw.
    """
    order = np.random.default_rng(seed).permutation(len(membership))
    kept = np.zeros(len(membership), dtype=np.bool_)
    for label in np.argsort(membership.sum(axis=0), kind="stable"):
        rows = order[membership[order, label]]
        if len(rows) and not kept[rows].any() and kept.sum() < limit:
            kept[rows[0]] = True
    rest = order[~kept[order]]
    kept[rest[: limit - int(kept.sum())]] = True
    return np.flatnonzero(kept).astype(np.int64)
