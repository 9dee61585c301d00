"""Combining predictions, calibration, and the bundle of an ensemble on disk."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tercet.ensemble.combine import EnsembleMethod as EnsembleMethod
    from tercet.ensemble.combine import average as average
    from tercet.ensemble.combine import pruned as pruned
    from tercet.ensemble.combine import vote as vote
    from tercet.ensemble.combine import weighted as weighted

_NAMES = ("EnsembleMethod", "average", "pruned", "vote", "weighted")


def __getattr__(name: str) -> Any:
    # Imported on first access: the supervisor of `tercet serve` reads manifests and must stay small, without NumPy.
    if name not in _NAMES:
        raise AttributeError(f"module 'tercet.ensemble' has no attribute '{name}'")
    return getattr(importlib.import_module("tercet.ensemble.combine"), name)
