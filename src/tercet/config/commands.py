"""Options of the commands that Python functions share: `ensemble`, `audit`, `explain`, and what many commands have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tercet.config.fields import Config, bounded
from tercet.config.model import InputConfig, ModelConfig
from tercet.config.parser import CommandOptions
from tercet.config.presets import LadderConfig, PresetConfig
from tercet.config.run import CalibrationConfig, DataConfig, FusionConfig, RunConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import Problem

FindingKind = Literal[
    "unreadable", "duplicates", "leakage", "imbalance", "small-classes", "missing-classes", "labels", "odd-images"
]
FINDING_KINDS: tuple[FindingKind, ...] = get_args(FindingKind)
"""In the order of the report."""
_MAX_DISTANCE = 16  # beyond it nearly every pair of hashes becomes a candidate


@dataclass(frozen=True)
class OutputConfig:
    """Output format."""

    json: bool = False
    """Print one JSON document to standard output and all else to standard error."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class ResumeConfig:
    """Continuing an interrupted run."""

    resume: str | None = None
    """Run folder to continue, with its own options."""


@dataclass(frozen=True)
class TestPredictionConfig:
    """Predictions of images without labels."""

    predict_test: bool = False
    """Predict the unlabelled test images of the data at the end, to RUN/test_predictions.csv."""


@dataclass(frozen=True)
class EnsembleConfig(Config):
    """Ensemble methods and output; `labels`, `ties` and `keep` are for prediction files, `seed` and below for runs."""

    ensemble_methods: tuple[str, ...] | None = field(default=None, metadata={"registry": "combiner"})
    """Ensemble methods (default: those of tercet train for runs, average for prediction files, which take one)."""
    output: str | None = None
    """Run folder (default: runs/ensemble-N); for prediction files, a .npz or .csv file (default: none)."""
    labels: str | None = None
    """File with the true labels: .npy, IDX, CSV (id, label), or one label per line."""
    ties: Literal["lowest", "mean"] = "lowest"
    """vote: break ties by the lowest class index or the highest mean probability."""
    keep: int = bounded(1, above=0)
    """pruned: number of classes kept per file and row."""
    seed: int = bounded(0, least=0)
    """Seed of the fusion head and of the cross-fitting folds."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int | None = bounded(None, above=0)
    """Threads per process."""


@dataclass(frozen=True)
class AuditConfig(Config):
    """Checks, output, and findings that fail the audit."""

    output: str | None = None
    """Folder for audit.json, audit.html, exclude.txt and figures/ (default: none)."""
    run: str | None = None
    """Run folder of crossval or train on this data; its held-out predictions are used to detect label errors."""
    fail_on: tuple[FindingKind, ...] = ()
    """Findings that cause exit code 3."""
    max_hash_distance: int | None = bounded(6, least=0, most=_MAX_DISTANCE)
    """Maximum Hamming distance of the 64-bit perceptual hashes of near duplicates; null disables the check."""
    folds: int = bounded(5, least=2)
    """Planned number of cross-validation folds; classes with fewer images or groups are reported as small."""
    imbalance: float = bounded(10.0, least=1)
    """Ratio of largest to smallest class above which classes are reported as imbalanced."""
    feature_network: tuple[Any, ...] = ()
    """Network whose features detect further duplicates: name, YAML file, or mapping of `model` and its options."""
    similarity: float = bounded(0.95, above=0, most=1)
    """feature_network: minimum cosine similarity of duplicates."""
    device: str = "auto"
    """feature_network: auto, cpu, cuda, cuda:N or mps."""

    def _rules(self) -> Iterable[Problem]:
        repeated = sorted({kind for kind in self.fail_on if self.fail_on.count(kind) > 1})
        if repeated:
            yield Problem(f"fail_on lists {', '.join(repeated)} twice", "fail_on")
        if len(self.feature_network) > 1:
            yield Problem("feature_network takes one network", "feature_network")


@dataclass(frozen=True)
class EncoderConfig(Config):
    """Network whose features are computed."""

    network: tuple[Any, ...] = ()
    """Frozen network: name, YAML file, or mapping of `model` and its options (default: that of probe)."""
    weights: str | None = None
    """Load the network's weights from this file (safetensors, or a PyTorch checkpoint of tensors only)."""
    input: InputConfig = field(default_factory=InputConfig)
    """Input size and preprocessing."""
    model: str | None = None
    """Run or bundle whose members' features are computed instead, side by side."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def _rules(self) -> Iterable[Problem]:
        if len(self.network) > 1:
            yield Problem("network takes one network", "network")
        if self.model is not None and (self.network or self.weights or self.input != InputConfig()):
            yield Problem("model has its own networks: omit network, weights and input", "model", "network")


@dataclass(frozen=True)
class SearchConfig(Config):
    """Results of a search."""

    top: int = bounded(10, above=0)
    """Number of images to list per searched image."""


@dataclass(frozen=True)
class ExplainConfig:
    """Explanations to compute, and their output folder."""

    output: str | None = None
    """Output folder (default: explanations, with a number appended if it exists)."""
    layer: str | None = None
    """Layer of the class-activation map (default: the last one with sufficient resolution)."""
    filters: bool = False
    """Plot the filters of the first convolution and of the convolutions in --features, and the flow chart of filters
    and feature maps through these layers."""
    features: tuple[str, ...] = ()
    """Layers whose feature maps are plotted."""
    member: str | None = None
    """Explain this member only."""
    class_name: str | None = field(default=None, metadata={"verbatim": True})
    """Class to explain, also --class (default: the predicted class)."""
    layers: bool = False
    """List layer names and output shapes, then exit."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


TRAINING = (RunConfig, PresetConfig, ResumeConfig, DataConfig, ModelConfig, TrainingConfig, FusionConfig)
"""Options shared by `train`, `crossval` and `tune`."""
TRAIN = CommandOptions(*TRAINING, LadderConfig, CalibrationConfig, TestPredictionConfig, OutputConfig)
ENSEMBLE = CommandOptions(EnsembleConfig, FusionConfig, CalibrationConfig, OutputConfig)
EMBED = CommandOptions(EncoderConfig, DataConfig, OutputConfig)
SEARCH = CommandOptions(SearchConfig, EncoderConfig, DataConfig, OutputConfig)
AUDIT = CommandOptions(AuditConfig, DataConfig, OutputConfig)
