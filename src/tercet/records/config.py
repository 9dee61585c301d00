"""The configuration of a run: frozen values, one sentence under each field, which also is the command line's help.

A file, the command line and Python keywords share one flat vocabulary: the fields of `ModelConfig`,
`TrainingConfig` and `RunConfig` by their own names, the others under `data.`, `input.`, `backbone.`, `fusion.` and
`calibration.`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tercet.ground.errors import require
from tercet.records.model_config import ModelConfig
from tercet.records.training_config import TrainingConfig
from tercet.records.views import Views


@dataclass(frozen=True)
class DataConfig:
    """Where the images are, what they are called, and how they are read and divided."""

    image_column: str | None = None
    """Column of a table with the image's file name (default: image, file, path, filename or id)."""
    label_columns: tuple[str, ...] | None = None
    """Columns of a table with the label (default: label, class or target); several make a set of labels an image."""
    label_separator: str | None = None
    """What stands between the labels of one cell, such as '|' or a space: every image then has a set of labels."""
    task: Literal["auto", "single", "multi"] = "auto"
    """One class an image (single) or a set of labels (multi); auto takes sets where columns or separator say so."""
    group_column: str | None = None
    """Column of a table with the group that must stay whole (patient, hand, plant)."""
    group_from: str | None = None
    """Regular expression on the file name whose first group names the sample's group."""
    image_pattern: str | None = None
    """How a file name is made from the image column, such as '{id}.jpg'."""
    val_fraction: float = 0.15
    """Share of the training images held out to choose with, where no validation split is given."""
    test_fraction: float = 0.15
    """Share of all images held out for the one final test, where no test split is given."""
    split_seed: int = 0
    """Seed of the hold-out splits."""
    max_bad_fraction: float = 0.01
    """Share of unreadable images above which the run stops."""
    max_pixels: int = 100_000_000
    """Largest image that is decoded, in pixels, checked before decoding."""
    memory_budget: int = 4_000_000_000
    """Bytes of decoded images that may be kept in memory; beyond it they are decoded again each epoch."""
    num_workers: int = 0
    """Processes that decode images which are not kept in memory."""
    balanced: bool = False
    """Draw every class equally often in training."""
    data_dir: str | None = None
    """Folder with the files of a named data set (also --data-dir); missing ones are downloaded there."""
    extra: bool = False
    """svhn: train on the 531,131 additional, easier images too."""
    modality: Literal["colour", "depth"] = "colour"
    """fingerspelling: which of the two pictures of every moment is read."""
    limit: int | None = None
    """Use at most this many training images, an equal share of every class."""

    def __post_init__(self) -> None:
        require(
            [
                not 0 <= self.val_fraction < 1 and f"data.val_fraction {self.val_fraction} must lie in [0, 1)",
                not 0 <= self.test_fraction < 1 and f"data.test_fraction {self.test_fraction} must lie in [0, 1)",
                self.val_fraction + self.test_fraction >= 1
                and "data.val_fraction and data.test_fraction leave nothing to train on",
                self.label_separator == "" and "data.label_separator must not be empty",
                self.task == "single"
                and (self.label_separator is not None or len(self.label_columns or ()) > 1)
                and "data.task single is one class an image: give one data.label_columns and no data.label_separator",
                self.task == "multi"
                and self.label_separator is None
                and len(self.label_columns or ()) < 2
                and "data.task multi needs several data.label_columns, or a data.label_separator",
                self.balanced and self.says_sets and "data.balanced draws one class an image, and here are label sets",
                self.max_pixels < 1 and "data.max_pixels must be positive",
                self.num_workers < 0 and "data.num_workers must not be negative",
                self.limit is not None and self.limit < 1 and "data.limit must be positive",
            ]
        )

    @property
    def says_sets(self) -> bool:
        """Whether a table is to be read as a set of labels an image."""
        return self.task == "multi" or self.label_separator is not None or len(self.label_columns or ()) > 1


Regime = Literal["cached", "frozen", "joint"]
FusionData = Literal["out-of-fold", "validation", "train"]

_REFUSED = {
    (
        "frozen",
        "out-of-fold",
    ): "fold members are not the deployed ones, so their graph cannot be trained through: use cached",
    ("joint", "out-of-fold"): "members that train on cannot stand for held-out folds: use cached",
    ("joint", "validation"): "training the members on validation rows would leave nothing to choose with: use train",
}


@dataclass(frozen=True)
class FusionConfig:
    """How the end-to-end fusion head (E2E-3M) is trained."""

    regime: Regime = "cached"
    """cached: on stored member predictions; frozen: one graph, members fixed; joint: everything trains."""
    data: FusionData = "validation"
    """What the head learns from: out-of-fold (right), validation (cheap) or train (the paper's, over-confident)."""
    top: int = 0
    """Fuse only this many members, the best on validation (Algorithm 1 takes 3); 0 fuses all."""
    width: int = 4096
    """Width of the dense layer; 0 is the paper's one-layer form (equation 19)."""
    slope: float = 0.2
    """Slope of the LeakyReLU."""
    dropout: float = 0.5
    """Drop probability."""
    steps: int = 300
    """Updates of the head's training."""
    lr: float = 1e-3
    """Learning rate at its start; it falls to zero along a cosine."""
    batch_size: int = 100
    """Images an update."""
    own_loss: float = 0.5
    """joint: share of the members' own losses in the loss, from 0 (fused only) to 1 (members only)."""
    folds: int = 5
    """Folds of the out-of-fold predictions and of the cross-fitted scores."""

    def __post_init__(self) -> None:
        reason = _REFUSED.get((self.regime, self.data))
        require(
            [
                reason is not None and f"fusion.regime {self.regime} with fusion.data {self.data}: {reason}",
                self.top < 0 and "fusion.top must not be negative",
                self.width < 0 and "fusion.width must not be negative",
                not 0 <= self.dropout < 1 and "fusion.dropout must lie in [0, 1)",
                not 0 <= self.own_loss <= 1 and "fusion.own_loss must lie in [0, 1]",
                self.folds < 2 and "fusion.folds must be at least 2",
                min(self.steps, self.lr, self.batch_size) <= 0 and "fusion.steps, lr and batch_size must be positive",
            ]
        )


@dataclass(frozen=True)
class CalibrationConfig:
    """How the fused probabilities are calibrated; sets of labels are not."""

    temperature: Literal["auto", "none"] = "auto"
    """auto: fitted on validation after fusing, and used where it lowers the cross-fitted log loss; or none."""
    reject_risk: float | None = None
    """Find the probability below which nothing is answered, so that at most this share of the answers is wrong."""
    coverage: float | None = None
    """Also answer with sets of classes that hold the true one for this share of the images, such as 0.95."""

    def __post_init__(self) -> None:
        require(
            [
                not 0 < (0.5 if value is None else value) < 1 and f"calibration.{name} {value} must lie between 0 and 1"
                for name, value in (("reject_risk", self.reject_risk), ("coverage", self.coverage))
            ]
        )

    @property
    def promises(self) -> bool:
        """Whether something is asked for that must be fitted on rows of its own."""
        return self.reject_risk is not None or self.coverage is not None


UNCALIBRATED = CalibrationConfig(temperature="none")
"""Probabilities stay as they are fused."""

Method = Literal["average", "pruned", "weighted", "vote", "greedy", "e2e"]
METHODS: tuple[Method, ...] = ("average", "pruned", "weighted", "vote", "greedy", "e2e")
"""The ways to fuse members, in order of preference at equal scores."""


@dataclass(frozen=True)
class MemberConfig:
    """One member of an ensemble, resolved: its name, its network, its training."""

    name: str
    """Name in tables and folders."""
    network: str
    """What is built: a timm name, row-lstm, small-cnn, ..."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network's options."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """The training's options."""
    seed: int | None = None
    """A seed of its own; None takes the run's, and its place among the members."""


@dataclass(frozen=True)
class RunConfig:
    """What a run does beside training: members, fusion, and where everything goes."""

    members: tuple[Any, ...] = ()
    """Networks to train: names, YAML files, or mappings of `model` and any option of its own; empty chooses three."""
    fuse: tuple[Method, ...] = METHODS
    """Ways to fuse the members; the best on validation is shipped."""
    tta: str = "none"
    """Test-time augmentation to measure (flip, vflip, shifts:2, crops:3@540, joined by +); used where it is better."""
    output: str | None = None
    """Run folder (default: runs/ and the data's name with a number)."""
    seed: int = 0
    """Seed of initial weights, order, augmentation and noise."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int | None = None
    """Threads a process (default: the cores are shared among members that train side by side)."""
    tensorboard: bool = True
    """Write TensorBoard scalars where tensorboard is installed."""

    def __post_init__(self) -> None:
        doubled = sorted({method for method in self.fuse if self.fuse.count(method) > 1})
        require(
            [
                bool(doubled) and f"fuse names {', '.join(doubled)} twice",
                self.seed < 0 and "seed must not be negative",
                self.threads is not None and self.threads < 1 and "threads must be positive",
            ]
        )
        Views.parse(self.tta)

    @property
    def views(self) -> Views:
        """Return the test-time augmentation to measure, with the run's seed."""
        return Views.parse(self.tta, seed=self.seed)
