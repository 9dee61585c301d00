"""Options of `audit`, `report` and `explain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from tercet.config.commands import ALIASES, OutputConfig
from tercet.config.parser import CommandOptions, Positional
from tercet.config.run import DataConfig
from tercet.core.errors import raise_problems

FindingKind = Literal["unreadable", "duplicates", "leakage", "imbalance", "small-classes", "missing-classes", "labels"]
FINDING_KINDS: tuple[FindingKind, ...] = get_args(FindingKind)
"""In the order of the report."""
_MAX_DISTANCE = 16  # beyond it nearly every pair of hashes becomes a candidate


@dataclass(frozen=True)
class AuditConfig:
    """Checks, output, and findings that fail the audit."""

    output: str | None = None
    """Folder for audit.json, audit.html and figures/ (default: none)."""
    run: str | None = None
    """Run folder of crossval or train on this data; its held-out predictions are used to detect label errors."""
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
        repeated = sorted({kind for kind in self.fail_on if self.fail_on.count(kind) > 1})
        distance = self.max_hash_distance
        raise_problems(
            [
                bool(repeated) and f"fail_on lists {', '.join(repeated)} twice",
                distance is not None
                and not 0 <= distance <= _MAX_DISTANCE
                and f"max_hash_distance {distance} must lie in 0..{_MAX_DISTANCE}",
                self.folds < 2 and f"folds {self.folds} must be at least 2",
                self.imbalance < 1 and f"imbalance {self.imbalance} must be at least 1",
                len(self.feature_network) > 1 and "feature_network takes one network",
                not 0 < self.similarity <= 1 and f"similarity {self.similarity} must lie in (0, 1]",
            ]
        )


@dataclass(frozen=True)
class ReportConfig:
    """Contents and location of the page."""

    output: str | None = None
    """HTML file (default: RUN/report.html; report.html in the current folder for several runs)."""
    leaderboard: str | None = None
    """CSV file with published scores to plot for comparison; columns name and score."""
    title: str | None = None
    """Page title (default: run folder and data)."""


@dataclass(frozen=True)
class ExplainConfig:
    """Explanations to compute, and their output folder."""

    output: str | None = None
    """Output folder (default: explanations, with a number appended if it exists)."""
    layer: str | None = None
    """Layer of the class-activation map (default: the last one with sufficient resolution)."""
    filters: bool = False
    """Plot the filters of the first convolution and of the convolutions in --features."""
    features: tuple[str, ...] = ()
    """Layers whose feature maps are plotted."""
    member: str | None = None
    """Explain this member only."""
    class_name: str | None = None
    """Class to explain, also --class (default: the predicted class)."""
    layers: bool = False
    """List layer names and output shapes, then exit."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


REPORT = CommandOptions(
    "report",
    "Write one self-contained HTML page about runs, with figures. Accepts the output folder of any training command. "
    "Figures are also written as PNG and SVG.",
    groups=[("", ReportConfig), ("", OutputConfig)],
    positionals=[Positional("runs", "run folders", many=True)],
    examples=[
        "runs/photos-1",
        "runs/photos-1 runs/photos-2 --output both.html",
        "runs/photos-1 --leaderboard others.csv",
    ],
)
AUDIT = CommandOptions(
    "audit",
    "Check data for bad images, duplicates, leakage and wrong labels. Reports unreadable images, exact and "
    "near duplicates within and across splits, groups in several splits, small and missing classes and, with --run, "
    "likely label errors. With --output, writes an HTML page.",
    groups=[("", AuditConfig), ("data", DataConfig), ("", OutputConfig)],
    positionals=[Positional("data", "image folder with one sub-folder per class, table, zip, or data set name")],
    aliases=ALIASES,
    examples=["photos/ --output audit/", "photos/ --fail-on leakage,unreadable"],
)
EXPLAIN = CommandOptions(
    "explain",
    "Explain a bundle's predictions. Class-activation maps for convolutional networks, attention rollout for vision "
    "transformers, step attributions for recurrent scans; one row per member, and the ensemble prediction. Writes PNG "
    "and SVG files and explain.json.",
    groups=[("", ExplainConfig), ("", OutputConfig)],
    positionals=[
        Positional("bundle", "bundle or run folder"),
        Positional("images", "image files or folders", many=True, required=False),
    ],
    aliases={"class": "class_name"},
    examples=[
        "runs/photos-1 cat.jpg dog.jpg",
        "runs/photos-1 cat.jpg --class dog --member resnet18",
        "runs/photos-1 cat.jpg --layer layer3 --features conv1,layer1",
        "runs/photos-1 --layers",
    ],
)
