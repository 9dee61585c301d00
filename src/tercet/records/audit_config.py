"""Options of `audit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from tercet.ground.errors import require

FindingKind = Literal["unreadable", "duplicates", "leakage", "imbalance", "small-classes", "missing-classes", "labels"]
FINDING_KINDS: tuple[FindingKind, ...] = get_args(FindingKind)
"""Kinds of findings, in the order of the report."""
_LARGEST_DISTANCE = 16  # beyond it nearly every hash shares a band with every other


@dataclass(frozen=True)
class AuditConfig:
    """Checks, output, and findings that count as failures."""

    output: str | None = None
    """Folder for audit.json, audit.html and figures/ (default: none)."""
    run: str | None = None
    """Run of crossval or train on this data; its held-out predictions are used to detect label errors."""
    fail_on: tuple[FindingKind, ...] = ()
    """Findings that cause exit code 3."""
    max_hash_distance: int | None = 6
    """Maximum Hamming distance of the 64-bit perceptual hashes of near duplicates; null disables the check."""
    folds: int = 5
    """Planned number of cross-validation folds; classes with fewer images or groups are reported as small."""
    imbalance: float = 10.0
    """Ratio of largest to smallest class above which classes are reported as imbalanced."""
    feature_network: tuple[Any, ...] = ()
    """Network whose features detect further duplicates: name, YAML file, or mapping of `model` and its options."""
    similarity: float = 0.95
    """feature_network: minimum cosine similarity of duplicates."""
    device: str = "auto"
    """feature_network: auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        doubled = sorted({kind for kind in self.fail_on if self.fail_on.count(kind) > 1})
        distance = self.max_hash_distance
        require(
            [
                bool(doubled) and f"fail_on names {', '.join(doubled)} twice",
                distance is not None
                and not 0 <= distance <= _LARGEST_DISTANCE
                and f"max_hash_distance {distance} must lie in 0..{_LARGEST_DISTANCE}",
                self.folds < 2 and f"folds {self.folds} must be at least 2",
                self.imbalance < 1 and f"imbalance {self.imbalance} must be at least 1",
                len(self.feature_network) > 1 and "feature_network takes one network",
                not 0 < self.similarity <= 1 and f"similarity {self.similarity} must lie in (0, 1]",
            ]
        )
