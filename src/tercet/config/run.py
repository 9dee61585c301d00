"""Configuration of a run; the docstring of each field is also its `--help` text.

YAML files, the command line and Python keywords share the same keys: the fields of `ModelConfig`, `TrainingConfig` and
`RunConfig` by name, all others below `data.`, `input.`, `backbone.`, `labels.`, `fusion.` and `calibration.`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tercet.config.model import ModelConfig
from tercet.config.training import TrainingConfig
from tercet.config.tta import TTAConfig
from tercet.core.errors import raise_problems
from tercet.core.registry import PARTS


@dataclass(frozen=True)
class DataConfig:
    """Reading and splitting of the data."""

    image_column: str | None = None
    """Table column with the image file name (default: image, file, path, filename or id)."""
    label_columns: tuple[str, ...] | None = None
    """Table columns with the label (default: label, class or target); several: multi-label."""
    label_separator: str | None = None
    """Separator of the labels in a cell, such as '|' or a space; implies multi-label."""
    task: Literal["auto", "single", "multi"] = "auto"
    """single: one class per image; multi: multi-label; auto: multi if columns or separator imply it."""
    group_column: str | None = None
    """Table column with the group (patient, hand, plant); all images of a group go to the same split."""
    group_from: str | None = None
    """Regular expression on the file name; its first capture group is the group of the image."""
    image_pattern: str | None = None
    """File name pattern applied to the image column, such as '{id}.jpg'."""
    val_fraction: float = 0.15
    """Fraction of training images for validation, if the data has no validation split."""
    test_fraction: float = 0.15
    """Fraction of all images for the final test, if the data has no test split."""
    split_seed: int = 0
    """Random seed of the splits."""
    max_bad_fraction: float = 0.01
    """Maximum fraction of unreadable images; beyond it the run stops."""
    max_pixels: int = 100_000_000
    """Maximum image size in pixels, checked before decoding."""
    memory_budget: int = 4_000_000_000
    """Memory for caching decoded images, in bytes; other images are decoded in every epoch."""
    num_workers: int = 0
    """Worker processes that decode images not cached in memory."""
    class_balanced_sampling: bool = False
    """Sample classes uniformly during training."""
    data_dir: str | None = None
    """Folder with the files of a named data set (also --data-dir); missing files are downloaded to it."""
    limit: int | None = None
    """Maximum number of training images, balanced over the classes."""

    def __post_init__(self) -> None:
        raise_problems(
            [
                not 0 <= self.val_fraction < 1 and f"data.val_fraction {self.val_fraction} must lie in [0, 1)",
                not 0 <= self.test_fraction < 1 and f"data.test_fraction {self.test_fraction} must lie in [0, 1)",
                self.val_fraction + self.test_fraction >= 1
                and "data.val_fraction and data.test_fraction leave nothing to train on",
                self.label_separator == "" and "data.label_separator must not be empty",
                self.task == "single"
                and (self.label_separator is not None or len(self.label_columns or ()) > 1)
                and "data.task single needs one data.label_columns and no data.label_separator",
                self.task == "multi"
                and self.label_separator is None
                and len(self.label_columns or ()) < 2
                and "data.task multi needs several data.label_columns, or a data.label_separator",
                self.class_balanced_sampling
                and self.is_multilabel
                and "data.class_balanced_sampling does not apply to multi-label data",
                self.max_pixels < 1 and "data.max_pixels must be positive",
                self.num_workers < 0 and "data.num_workers must not be negative",
                self.limit is not None and self.limit < 1 and "data.limit must be positive",
            ]
        )

    @property
    def is_multilabel(self) -> bool:
        """Whether tables are read as multi-label."""
        return self.task == "multi" or self.label_separator is not None or len(self.label_columns or ()) > 1


Regime = Literal["cached", "frozen", "joint"]
FusionData = Literal["out-of-fold", "validation", "train"]

_INVALID_FUSION: dict[tuple[Regime, FusionData], str] = {
    ("frozen", "out-of-fold"): "the head would be trained through fold models, which are not deployed: use cached",
    ("joint", "out-of-fold"): "members that are trained further have no held-out folds: use cached",
    ("joint", "validation"): "members trained on the validation split leave no data for model selection: use train",
}


@dataclass(frozen=True)
class FusionConfig:
    """Training of the end-to-end fusion head (E2E-3M)."""

    regime: Regime = "cached"
    """cached: train on stored member predictions; frozen: through the frozen members; joint: with the members."""
    data: FusionData = "validation"
    """Training data of the head: out-of-fold (recommended), validation (cheap) or train (published, over-confident)."""
    num_members: int = 0
    """Number of members to combine, the best on validation (3 in Algorithm 1); 0: all."""
    width: int = 4096
    """Hidden size of the head; 0: the single-layer form of the paper (equation 19)."""
    slope: float = 0.2
    """Negative slope of the LeakyReLU."""
    dropout: float = 0.5
    """Dropout probability."""
    steps: int = 300
    """Optimizer steps."""
    lr: float = 1e-3
    """Initial learning rate; decays to zero with a cosine schedule."""
    batch_size: int = 100
    """Images per optimizer step."""
    aux_loss_weight: float = 0.5
    """joint: weight of the members' losses, from 0 (ensemble only) to 1 (members only)."""
    folds: int = 5
    """Folds for out-of-fold predictions and cross-fitted scores."""

    def __post_init__(self) -> None:
        reason = _INVALID_FUSION.get((self.regime, self.data))
        raise_problems(
            [
                reason is not None and f"fusion.regime {self.regime} with fusion.data {self.data}: {reason}",
                self.num_members < 0 and "fusion.num_members must not be negative",
                self.width < 0 and "fusion.width must not be negative",
                not 0 <= self.dropout < 1 and "fusion.dropout must lie in [0, 1)",
                not 0 <= self.aux_loss_weight <= 1 and "fusion.aux_loss_weight must lie in [0, 1]",
                self.folds < 2 and "fusion.folds must be at least 2",
                min(self.steps, self.lr, self.batch_size) <= 0 and "fusion.steps, lr and batch_size must be positive",
            ]
        )


@dataclass(frozen=True)
class CalibrationConfig:
    """Calibration of the ensemble probabilities (single-label only)."""

    temperature: Literal["auto", "none"] = "auto"
    """Temperature scaling: auto fits on validation and applies it if the cross-fitted log loss improves."""
    reject_risk: float | None = None
    """Reject predictions below a confidence threshold fitted so that accepted ones have at most this error rate."""
    coverage: float | None = None
    """Conformal prediction sets with this coverage, such as 0.95."""

    def __post_init__(self) -> None:
        raise_problems(
            [
                not 0 < (0.5 if value is None else value) < 1 and f"calibration.{name} {value} must lie between 0 and 1"
                for name, value in (("reject_risk", self.reject_risk), ("coverage", self.coverage))
            ]
        )

    @property
    def guarantees(self) -> bool:
        """Whether a reject threshold or prediction sets are fitted; they need calibration data of their own."""
        return self.reject_risk is not None or self.coverage is not None


UNCALIBRATED = CalibrationConfig(temperature="none")

METHODS = ("average", "pruned", "weighted", "vote", "greedy", "e2e")
"""Ensemble methods that are tried by default, in order of preference at equal scores."""


def unknown_methods(methods: Sequence[str]) -> list[str]:
    """Return a problem for each name that is not a registered ensemble method."""
    others = [name for name in methods if name not in METHODS]  # the registry is only read for these
    return [PARTS["combiner"].unknown(name) for name in others if name not in PARTS["combiner"]]


@dataclass(frozen=True)
class MemberConfig:
    """Resolved configuration of one ensemble member."""

    name: str
    """Name in tables and folders."""
    network: str
    """Network name: a timm model, row-lstm, small-cnn, ..."""
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int | None = None
    """Seed of this member; None: derived from the seed of the run and the position of the member."""


@dataclass(frozen=True)
class RunConfig:
    """Members, ensemble methods and output."""

    members: tuple[Any, ...] = ()
    """Networks to train: names, YAML files, or mappings of `model` and its options (default: three suitable ones)."""
    ensemble_methods: tuple[str, ...] = field(default=METHODS, metadata={"registry": "combiner"})
    """Ensemble methods to try; the best on validation is selected."""
    tta: str = "none"
    """Test-time augmentation to try (flip, vflip, shifts:2, crops:3@540, joined by +); used if it is better."""
    output: str | None = None
    """Run folder (default: runs/DATA-N)."""
    seed: int = 0
    """Random seed of initial weights, data order, augmentation and noise."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int | None = None
    """Threads per process (default: cores divided by the number of members that train in parallel)."""
    tensorboard: bool = True
    """Write TensorBoard logs if tensorboard is installed."""

    def __post_init__(self) -> None:
        repeated = sorted({method for method in self.ensemble_methods if self.ensemble_methods.count(method) > 1})
        raise_problems(
            [
                *unknown_methods(self.ensemble_methods),
                bool(repeated) and f"ensemble_methods lists {', '.join(repeated)} twice",
                self.seed < 0 and "seed must not be negative",
                self.threads is not None and self.threads < 1 and "threads must be positive",
            ]
        )
        TTAConfig.parse(self.tta)

    @property
    def views(self) -> TTAConfig:
        """Parsed `tta`, with the seed of the run."""
        return TTAConfig.parse(self.tta, seed=self.seed)
