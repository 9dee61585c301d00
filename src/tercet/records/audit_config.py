"""The options of an audit: what is looked for, and which findings end it with an exit code of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from tercet.ground.errors import require

FindingKind = Literal["unreadable", "duplicates", "leakage", "imbalance", "small-classes", "missing-classes", "labels"]
FINDING_KINDS: tuple[FindingKind, ...] = get_args(FindingKind)
"""What an audit can find, in the order in which it is told."""
_LARGEST_DISTANCE = 16  # beyond it nearly every hash shares a band with every other


@dataclass(frozen=True)
class AuditConfig:
    """What is looked for, where the result goes, and which findings count as failures."""

    output: str | None = None
    """Folder for audit.json, audit.html and figures/ (default: nothing is written)."""
    run: str | None = None
    """Run on this data, of crossval or train: its predictions of held-out images tell suspicious labels."""
    fail_on: tuple[FindingKind, ...] = ()
    """Exit code 3 for unreadable, duplicates, leakage, imbalance, small-classes, missing-classes or labels."""
    near_distance: int | None = 6
    """Different bits, of 64, up to which perceptual hashes propose near duplicates; null leaves them out."""
    folds: int = 5
    """Folds of a later cross-validation: a class with fewer images, or groups, is too small."""
    imbalance: float = 10.0
    """Largest class over smallest one beyond which classes are imbalanced."""
    embed: tuple[Any, ...] = ()
    """Network whose features tell further copies: a name, a YAML file, or a mapping of `model` and its options."""
    similarity: float = 0.95
    """embed: cosine of the features from which on two images are copies."""
    device: str = "auto"
    """embed: auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        doubled = sorted({kind for kind in self.fail_on if self.fail_on.count(kind) > 1})
        distance = self.near_distance
        require(
            [
                bool(doubled) and f"fail_on names {', '.join(doubled)} twice",
                distance is not None
                and not 0 <= distance <= _LARGEST_DISTANCE
                and f"near_distance {distance} must lie in 0..{_LARGEST_DISTANCE}",
                self.folds < 2 and f"folds {self.folds} must be at least 2",
                self.imbalance < 1 and f"imbalance {self.imbalance} must be at least 1",
                len(self.embed) > 1 and "embed takes one network",
                not 0 < self.similarity <= 1 and f"similarity {self.similarity} must lie in (0, 1]",
            ]
        )
