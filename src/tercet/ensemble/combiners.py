"""Combiners of a bundle: an ensemble method, a trained fusion head, or the mean over cross-validation folds.

Shapes: N samples, M members, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tercet.core.errors import ModelError
from tercet.core.predictions import Predictions
from tercet.ensemble.combine import Combiner, average
from tercet.ensemble.member import load_finite
from tercet.models.fusion_head import FusionHead
from tercet.models.weight_files import check_shapes, save_weights

FOLD_MEAN = "fold-mean"
"""Name of the mean over folds in manifests and tables."""


def stack_probabilities(members: Sequence[Predictions]) -> Tensor:
    """Return the members' probabilities as float32 N M K, in the order of the first member's samples and classes."""
    probabilities = [torch.from_numpy(member.aligned_to(members[0]).probabilities) for member in members]
    return torch.stack(probabilities, dim=1).float()


@torch.inference_mode()
def apply_head(head: FusionHead, members: Sequence[Predictions]) -> Predictions:
    """Combine the members' predictions with a trained fusion head."""
    first = members[0]
    logits = head.cpu().eval()(stack_probabilities(members))  # N K
    return Predictions.from_logits(logits.numpy(), ids=first.ids, classes=first.classes, labels=first.labels)


@dataclass(frozen=True)
class FoldCombiner:
    """The members of one fold, which are consecutive in the bundle, and their combiner."""

    num_members: int
    combiner: Combiner | FusionHead | None = None
    """None for a single member."""

    def __post_init__(self) -> None:
        if self.num_members < 1 or (self.combiner is None and self.num_members > 1):
            raise ModelError(f"a fold of {self.num_members} members needs a combiner")


@dataclass(frozen=True)
class FoldMean:
    """The mean of the folds' predictions, where each fold combines its own members."""

    parts: tuple[FoldCombiner, ...]

    def fold_predictions(self, members: Sequence[Predictions]) -> list[Predictions]:
        """Return the combined predictions of each fold.

        Raises:
            ModelError: The number of members is not that of all folds together.
        """
        expected = sum(part.num_members for part in self.parts)
        if len(members) != expected:
            raise ModelError(f"the folds have {expected} members, not {len(members)}")
        predictions, first = [], 0
        for part in self.parts:
            predictions.append(combine(part.combiner, members[first : first + part.num_members]))
            first += part.num_members
        return predictions


AnyCombiner = Combiner | FusionHead | FoldMean


def combine(combiner: AnyCombiner | None, members: Sequence[Predictions]) -> Predictions:
    """Combine the members' predictions; without a combiner, return those of the first member."""
    if combiner is None:
        return members[0]
    if isinstance(combiner, Combiner):
        return combiner.apply(members)
    if isinstance(combiner, FoldMean):
        return average(combiner.fold_predictions(members))
    return apply_head(combiner, members)


def fusion_heads(combiner: AnyCombiner | None) -> list[FusionHead]:
    """Return the trained fusion heads of a combiner."""
    parts = [part.combiner for part in combiner.parts] if isinstance(combiner, FoldMean) else [combiner]
    return [part for part in parts if isinstance(part, FusionHead)]


def combiner_name(combiner: AnyCombiner) -> str:
    """Return the name of a combiner in tables."""
    if isinstance(combiner, FoldMean):
        return FOLD_MEAN
    return "e2e" if isinstance(combiner, FusionHead) else combiner.method


# -------------------------------------------------------------------------------------------------- on disk


def save_combiner(
    folder: Path, combiner: AnyCombiner | None, *, fold: str = ""
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Write the fusion heads; return the manifest entry, and the SHA-256 of each file by name."""
    if isinstance(combiner, FoldMean):
        parts: list[dict[str, Any]] = []
        files: dict[str, str] = {}
        for number, part in enumerate(combiner.parts, 1):
            entry, written = save_combiner(folder, part.combiner, fold=f"-{number}")
            parts.append({"members": part.num_members, "combiner": entry})
            files |= written
        return {"method": FOLD_MEAN, "parts": parts}, files
    if isinstance(combiner, FusionHead):
        file = f"head{fold}.safetensors"
        digest = save_weights(folder / file, combiner)
        return {"method": "e2e", "options": combiner.options(), "weights": file}, {file: digest}
    return (None if combiner is None else combiner.to_dict()), {}


def load_combiner(
    weights: dict[str, Path], entry: dict[str, Any] | None, num_members: int, num_classes: int
) -> AnyCombiner | None:
    """Rebuild a combiner from its manifest entry, and from no other files than those in `weights` (paths by name).

    Raises:
        ModelError: The combiner does not fit the members, or is damaged.
        KeyError, TypeError, ValueError, AttributeError: The entry has missing or malformed values.
    """
    if entry is None or entry["method"] != FOLD_MEAN:
        return _load(weights, entry, num_members, num_classes)
    parts = []
    for part in entry["parts"]:
        size = part["members"]
        if not isinstance(size, int):
            raise ModelError(f"the number of members of a fold, {size!r}, is not an integer")
        parts.append(FoldCombiner(size, _load(weights, part["combiner"], size, num_classes)))
    if sum(part.num_members for part in parts) != num_members:
        raise ModelError(f"the folds are for {sum(part.num_members for part in parts)} members, not {num_members}")
    return FoldMean(tuple(parts))


def _load(
    weights: dict[str, Path], entry: dict[str, Any] | None, num_members: int, num_classes: int
) -> Combiner | FusionHead | None:
    if entry is None:
        return None
    if entry["method"] != "e2e":
        combiner = Combiner.from_dict(entry)
        if len(combiner.names) != num_members:
            raise ModelError(f"the combiner is for {len(combiner.names)} members, not {num_members}")
        return combiner
    create, file = partial(FusionHead, num_members, num_classes, **entry["options"]), weights[entry["weights"]]
    check_shapes(file, create)
    head = create()
    load_finite(file, head)
    return head
