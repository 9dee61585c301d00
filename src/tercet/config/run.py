"""Configuration of a run; the docstring of each field is also its `--help` text.

YAML files, the command line and Python keywords share the same keys: the fields of `ModelConfig`, `TrainingConfig` and
`RunConfig` by name, all others below `data.`, `input.`, `backbone.`, `labels.`, `fusion.` and `calibration.`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from tercet.config.fields import Config, bounded
from tercet.config.model import ModelConfig
from tercet.config.training import TrainingConfig
from tercet.config.tta import TTAConfig
from tercet.core.errors import ConfigError, Problem, problems_of
from tercet.core.registry import PARTS

MAX_BAD = 5
"""Unreadable images that are tolerated in data of any size, unless `max_bad_fraction` is 0."""


@dataclass(frozen=True)
class DataConfig(Config):
    """Reading and splitting of the data."""

    section: ClassVar[str] = "data"
    layout: Literal["auto", "classes", "splits", "table"] = "auto"
    """Meaning of the top folders: classes, splits, or images listed by a table; auto: recognized by their structure."""
    train: str | None = None
    """Folder with the training images by class, relative to the data or absolute; folders not named are left out."""
    val: str | None = None
    """Folder with the validation images by class, relative to the data or absolute."""
    test: str | None = None
    """Folder with the test images by class, relative to the data or absolute; without class folders: unlabelled."""
    class_from: str | None = None
    """Regular expression on the file name; its first capture group is the class of the image."""
    image_column: str | None = None
    """Table column with the image file name (default: a usual name, such as image, file_name, path or id)."""
    label_columns: tuple[str, ...] | None = None
    """Table columns with the label (default: a usual name, such as label, class or species); several: multi-label."""
    label_separator: str | None = None
    """Separator of the labels in a cell, such as '|' or a space; implies multi-label."""
    task: Literal["auto", "single", "multi"] = "auto"
    """single: one class per image; multi: multi-label; auto: multi if columns or separator imply it."""
    missing_labels: tuple[str, ...] | None = None
    """Exact words in label cells that mean a missing label (default: nan, None, NULL, N/A, <NA>, ? and such)."""
    uncertain: Literal["negative", "positive", "ignore"] | None = None
    """Meaning of -1 in columns of 0 and 1: 0, 1, or an unlabelled image (default: refused beside 0 or blank)."""
    group_column: str | None = None
    """Table column with the group (patient, hand, plant); all images of a group go to the same split."""
    split_column: str | None = None
    """Table column with the split, or none (default: a usual name, such as split or is_valid, if it holds splits)."""
    weight_column: str | None = None
    """Table column with a positive weight of each image in the training loss and in fitted heads."""
    group_from: str | None = None
    """Regular expression on the file name; its first capture group is the group of the image."""
    image_pattern: str | None = None
    """File name pattern applied to the image column, such as '{id}.jpg'."""
    val_fraction: float = bounded(0.15, least=0, below=1)
    """Fraction of training images for validation, if the data has no validation split."""
    test_fraction: float = bounded(0.15, least=0, below=1)
    """Fraction of all images for the final test, if the data has no test split."""
    split_seed: int = bounded(0, least=0)
    """Random seed of the splits."""
    max_bad_fraction: float = bounded(0.01, least=0, most=1)
    """Maximum fraction of unreadable images, and at least 5 of them; beyond it the run stops. 0: not a single one."""
    max_pixels: int = bounded(100_000_000, above=0)
    """Maximum image size in pixels, checked before decoding."""
    value_range: str = "auto"
    """Values that become black and white in grey images of more than 8 bits: MIN,MAX, or full: those of 16 bits; auto:
    full, with a warning if most of it is not used (for a trained model: as in its training)."""
    truncated: bool = False
    """Read truncated JPEG files as far as they go, instead of leaving them out."""
    follow_links: bool = False
    """Follow links to folders, and to files outside the folder."""
    unseen_classes: Literal["error", "leave-out"] = "error"
    """Classes that only the given validation or test split has: an error, or their images are left out."""
    memory_budget: int = 4_000_000_000
    """Memory for caching decoded images, in bytes; other images are decoded in every epoch."""
    num_workers: int = bounded(0, least=0)
    """Worker processes that decode images not cached in memory."""
    class_balanced_sampling: bool = False
    """Sample classes uniformly during training."""
    data_dir: str | None = None
    """Folder with the files of a named data set (also --data-dir); missing files are downloaded to it."""
    limit: int | None = bounded(None, above=0)
    """Maximum number of training images, balanced over the classes."""
    exclude: str | None = None
    """Text file with images to leave out, one sample name or path per line."""
    find_copies: Literal["auto", "exact", "near", "none"] = "auto"
    """exact: images with identical pixels; near: also similar perceptual hashes; auto: near up to 50,000 images."""
    keep_copies_together: bool = True
    """Keep copies on the same side of splits and folds that are not given with the data."""
    image_digests: bool = True
    """Write digests of training images to bundles and exported files, by which evaluate recognizes the images."""

    def _rules(self) -> Iterable[Problem]:
        if self.val_fraction + self.test_fraction >= 1:
            text = "data.val_fraction and data.test_fraction leave nothing to train on"
            yield Problem(text, "val_fraction", "test_fraction")
        if self.label_separator == "":
            yield Problem("data.label_separator must not be empty", "label_separator")
        labels = ("task", "label_columns", "label_separator")
        several = self.label_separator is not None or len(self.label_columns or ()) > 1
        if self.task == "single" and self.label_separator is not None:
            yield Problem("data.task single needs no data.label_separator", *labels)
        if self.task == "multi" and not several:
            yield Problem("data.task multi needs several data.label_columns, or a data.label_separator", *labels)
        yield from problems_of(lambda: parse_value_range(self.value_range), "value_range")
        if self.class_balanced_sampling and self.is_multilabel:
            yield Problem("data.class_balanced_sampling needs single-label data", "class_balanced_sampling")

    @property
    def is_multilabel(self) -> bool:
        """Whether tables are read as multi-label."""
        several = self.label_separator is not None or len(self.label_columns or ()) > 1
        return self.task == "multi" or (self.task == "auto" and several)

    def max_bad(self, total: int) -> int:
        """Return how many of so many images may be unreadable, or listed but missing."""
        return max(MAX_BAD, int(self.max_bad_fraction * total)) if self.max_bad_fraction else 0


def parse_value_range(text: str) -> tuple[float, float] | None:
    """Return the limits of a `value_range`; None for auto and full.

    Raises:
        ConfigError: It is not auto, full or two increasing numbers.
    """
    if text in ("auto", "full"):
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = 0.0
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"data.value_range '{text}' must be auto, full, or two increasing numbers, such as 0,4095")
    return low, high


MAX_WIDTH = 4096
"""Default hidden size of the fusion head, and that of the paper; with fewer rows it is their number, as a layer of as
many units as rows can fit any labels of them."""
HEAD_STEPS = 300
"""Default optimizer steps of the fusion head."""
MIN_HEAD_ROWS = 1000
"""Least validation rows for a fusion head by default: with fewer, the average is more accurate."""

Regime = Literal["cached", "frozen", "joint"]
FusionData = Literal["out-of-fold", "validation", "train"]

_INVALID_FUSION: dict[tuple[Regime, FusionData], str] = {
    ("frozen", "out-of-fold"): "the head would be trained through fold models, which are not deployed: use cached",
    ("joint", "out-of-fold"): "members that are trained further have no held-out folds: use cached",
    ("joint", "validation"): "members trained on the validation split leave no data for model selection: use train",
}


@dataclass(frozen=True)
class FusionConfig(Config):
    """Training of the end-to-end fusion head (E2E-3M)."""

    section: ClassVar[str] = "fusion"
    regime: Regime = "cached"
    """cached: train on stored member predictions; frozen: through the frozen members; joint: with the members."""
    data: FusionData = "validation"
    """Training data of the head: out-of-fold (recommended), validation (cheap) or train (published, over-confident)."""
    num_members: int = bounded(0, least=0)
    """Number of members to combine, the best on validation (3 in Algorithm 1); 0: all."""
    choose: Literal["simplest", "best"] = "simplest"
    """simplest: the simplest model not worse than the best by more than a standard error; best: the best ensemble."""
    width: int | None = bounded(None, least=0)
    """Hidden size of the head; 0: the single-layer form of equation 19 (default: number of rows, at most 4096)."""
    slope: float = 0.2
    """Negative slope of the LeakyReLU."""
    dropout: float = bounded(0.5, least=0, below=1)
    """Dropout probability."""
    steps: int | None = bounded(None, above=0)
    """Optimizer steps (default: 300; fewer if that takes longer than training the members)."""
    lr: float = bounded(1e-3, above=0)
    """Initial learning rate; decays to zero with a cosine schedule."""
    batch_size: int = bounded(100, above=0)
    """Images per optimizer step."""
    aux_loss_weight: float = bounded(0.5, least=0, most=1)
    """joint: weight of the members' losses, from 0 (ensemble only) to 1 (members only)."""
    folds: int = bounded(5, least=2)
    """Folds for out-of-fold predictions and cross-fitted scores."""

    def _rules(self) -> Iterable[Problem]:
        reason = _INVALID_FUSION.get((self.regime, self.data))
        if reason is not None:
            yield Problem(f"fusion.regime {self.regime} with fusion.data {self.data}: {reason}", "regime", "data")

    def sized(self, rows: int) -> FusionConfig:
        """Return the options with the default width and steps for a head that is trained on so many rows."""
        width = min(MAX_WIDTH, max(1, rows)) if self.width is None else self.width
        return replace(self, width=width, steps=HEAD_STEPS if self.steps is None else self.steps)

    @property
    def configures_head(self) -> bool:
        """Whether an option of the head differs from its default."""
        others = {name: getattr(self, name) for name in ("num_members", "choose", "folds")}
        return self != FusionConfig(**others)


@dataclass(frozen=True)
class CalibrationConfig(Config):
    """Calibration of the ensemble probabilities (single-label only)."""

    section: ClassVar[str] = "calibration"
    temperature: Literal["auto", "none"] = "auto"
    """Temperature scaling: auto fits on validation and applies it if the cross-fitted log loss improves."""
    reject_risk: float | None = bounded(None, above=0, below=1)
    """Reject predictions below a confidence threshold fitted so that accepted ones have at most this error rate."""
    coverage: float | None = bounded(None, above=0, below=1)
    """Conformal prediction sets with this coverage, such as 0.95."""

    @property
    def guarantees(self) -> bool:
        """Whether a reject threshold or prediction sets are fitted; they need calibration data of their own."""
        return self.reject_risk is not None or self.coverage is not None


def head_rows(num_members: int, num_classes: int) -> int:
    """Return the number of validation rows from which a fusion head is trained by default.

    At least as many as the smallest head that can represent the average has parameters, which has a hidden unit for
    each class.
    """
    inputs = num_members * num_classes
    return max(MIN_HEAD_ROWS, num_classes * (inputs + 1) + num_classes * (num_classes + 1))


UNCALIBRATED = CalibrationConfig(temperature="none")

METHODS = ("average", "pruned", "weighted", "vote", "greedy", "e2e")
"""The built-in ensemble methods, in order of preference at equal scores."""
DEFAULT_METHODS = METHODS[:-1]
"""Ensemble methods that are tried by default; e2e is added where the validation rows suffice, see `head_rows`."""


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
class RunConfig(Config):
    """Members, ensemble methods and output."""

    members: tuple[Any, ...] = ()
    """Networks to train: names, YAML files, or mappings of `model` and its options (default: those of the preset, by
    the size of the images)."""
    ensemble_methods: tuple[str, ...] = field(default=DEFAULT_METHODS, metadata={"registry": "combiner"})
    """Ensemble methods to try; with several, also single members are candidates (see fusion.choose)."""
    tta: str = "none"
    """Test-time augmentation to try (flip, vflip, shifts:2, crops:3@540, joined by +); used if it is better."""
    output: str | None = None
    """Run folder (default: runs/DATA-N)."""
    seed: int = bounded(0, least=0)
    """Random seed of initial weights, data order, augmentation and noise."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int | None = bounded(None, above=0)
    """Threads per process (default: cores divided by the number of members that train in parallel)."""
    tensorboard: bool = True
    """Write TensorBoard logs if tensorboard is installed."""

    def _rules(self) -> Iterable[Problem]:
        repeated = sorted({method for method in self.ensemble_methods if self.ensemble_methods.count(method) > 1})
        for method in self.ensemble_methods:
            if method not in METHODS and method not in PARTS["combiner"]:  # the registry is only read for others
                yield Problem(PARTS["combiner"].unknown(method), "ensemble_methods")
        if repeated:
            yield Problem(f"ensemble_methods lists {', '.join(repeated)} twice", "ensemble_methods")
        yield from problems_of(lambda: TTAConfig.parse(self.tta), "tta")

    @property
    def views(self) -> TTAConfig:
        """Parsed `tta`, with the seed of the run."""
        return TTAConfig.parse(self.tta, seed=self.seed)
