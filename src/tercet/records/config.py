"""The configuration of a run: frozen values, one sentence under each field, which also is the command line's help.

A file, the command line and Python keywords share one flat vocabulary: the fields of `ModelConfig`,
`TrainingConfig` and `RunConfig` by their own names, the others under `data.`, `input.`, `backbone.` and `fusion.`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tercet.ground.errors import ConfigError


def require(problems: Iterable[str | bool | None]) -> None:
    """Raise one `ConfigError` that lists every problem given; False and None are no problems."""
    found = [problem for problem in problems if isinstance(problem, str) and problem]
    if found:
        raise ConfigError("; ".join(found))


@dataclass(frozen=True)
class DataConfig:
    """Where the images are, what they are called, and how they are divided and augmented."""

    image_column: str | None = None
    """Column of a table with the image's file name (default: image, file, path, filename or id)."""
    label_columns: tuple[str, ...] | None = None
    """Columns of a table with the label (default: label, class or target)."""
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
    """Folder with the files of a named data set; where they are missing they are downloaded there."""
    limit: int | None = None
    """Use at most this many training images, an equal share of every class."""

    def __post_init__(self) -> None:
        require(
            [
                not 0 <= self.val_fraction < 1 and f"data.val_fraction {self.val_fraction} must lie in [0, 1)",
                not 0 <= self.test_fraction < 1 and f"data.test_fraction {self.test_fraction} must lie in [0, 1)",
                self.val_fraction + self.test_fraction >= 1
                and "data.val_fraction and data.test_fraction leave nothing to train on",
                self.max_pixels < 1 and "data.max_pixels must be positive",
                self.num_workers < 0 and "data.num_workers must not be negative",
                self.limit is not None and self.limit < 1 and "data.limit must be positive",
            ]
        )


@dataclass(frozen=True)
class InputConfig:
    """What a network is shown, where it should differ from what its backbone announces."""

    size: tuple[int, ...] | None = None
    """Height and width in pixels, or one number for a square."""
    channels: int | None = None
    """Channels the network reads: 1 grey, 3 RGB."""
    mean: tuple[float, ...] | None = None
    """Mean to subtract, on the [0, 1] scale: one value, or one a channel."""
    std: tuple[float, ...] | None = None
    """Standard deviation to divide by, likewise."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    """Resampling filter."""
    resize: Literal["squash", "shorter", "pad"] | None = None
    """How another aspect ratio is met: squash it, scale the shorter side and crop, or pad."""
    crop_fraction: float | None = None
    """Share of the resized image that the central crop keeps."""

    def __post_init__(self) -> None:
        require(
            [
                self.size is not None
                and len(self.size) not in (1, 2)
                and "input.size takes one number, or height and width"
            ]
        )


@dataclass(frozen=True)
class BackboneConfig:
    """Options of the timm network underneath."""

    args: dict[str, Any] = field(default_factory=dict)
    """Constructor arguments, such as '{pad_type: same, bn_eps: 0.001}'."""


@dataclass(frozen=True)
class ModelConfig:
    """One network: backbone, recurrent module, head. None means the network's own default."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Options of the timm network underneath."""
    input: InputConfig = field(default_factory=InputConfig)
    """What the network is shown."""
    pretrained: bool = True
    """Start timm backbones from their published weights; false trains from scratch."""
    weights: str | None = None
    """File with the backbone's weights (safetensors, or a checkpoint that holds tensors only)."""
    recurrent: Literal["none", "rnn", "gru", "lstm"] = "none"
    """Recurrent module between backbone and head."""
    scan: Literal["pooled", "rows", "columns", "cells", "snake"] = "pooled"
    """What the recurrent module reads: the pooled vector as one step (the paper), or the feature map in this order."""
    directions: Literal["one", "both"] = "one"
    """Read the sequence forwards, or forwards and backwards."""
    units: int | None = None
    """State width of a direction (backbones: 2048, or 1024 in both directions; row classifiers: 128)."""
    layers: int | None = None
    """Stacked recurrent layers (backbones: 1; row classifiers: 2)."""
    activation: Literal["tanh", "relu", "sigmoid"] = "tanh"
    """Activation of the state: tanh runs on fast kernels; relu is the notebook's; sigmoid is the paper's equation 1."""
    gates: Literal["logistic", "hard_sigmoid"] = "logistic"
    """Activation of the gates: logistic, or Keras 2.2's clip(0.2x + 0.5, 0, 1)."""
    reset: Literal["after", "before"] = "after"
    """Where a GRU resets: after the recurrent product (PyTorch), or before it (the paper's equations 10-13)."""
    bias: Literal["double", "single"] = "double"
    """Bias vectors a gate: two (PyTorch) or one (Keras, the paper's parameter counts)."""
    head: Literal["paper", "linear", "mlp"] = "paper"
    """From features to classes: noise + dense + ReLU + linear, linear alone, or dense + ReLU + dropout + linear."""
    dense: int | None = None
    """Width of the dense layer in the head (backbones: 1024, mlp: 512, row classifiers and small CNN: 32)."""
    noise: float = 0.1
    """Standard deviation of the Gaussian noise in the paper's head, in training only."""
    dropout: float | None = None
    """Drop probability (mlp head: 0.3; small CNN: 0.2)."""

    def __post_init__(self) -> None:
        sizes = {"units": self.units, "layers": self.layers, "dense": self.dense}
        require(
            [
                *(
                    value is not None and value < 1 and f"{name} {value} must be positive"
                    for name, value in sizes.items()
                ),
                self.noise < 0 and f"noise {self.noise} must not be negative",
                self.dropout is not None and not 0 <= self.dropout < 1 and f"dropout {self.dropout} must lie in [0, 1)",
                self.recurrent == "none"
                and self.scan != "pooled"
                and f"scan '{self.scan}' needs --recurrent rnn, gru or lstm",
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Rebuild from `to_dict`'s result, lists standing for tuples."""
        shown: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values["input"].items()
        }
        return cls(**{**values, "backbone": BackboneConfig(**values["backbone"]), "input": InputConfig(**shown)})


@dataclass(frozen=True)
class StageConfig:
    """One stage of a training: it starts from the best weights so far, with a fresh optimizer."""

    lr: float = 1e-4
    """Learning rate at the start of the stage."""
    epochs: float | None = None
    """Length in epochs (may be a fraction)."""
    steps: int | None = None
    """Length in updates, instead of epochs."""
    schedule: Literal["time", "constant", "cosine", "plateau"] = "time"
    """How the rate moves: Keras' time decay, constant, cosine to zero, or reduce-on-plateau."""
    decay: float | None = None
    """Time decay a step: rate = lr / (1 + decay * step) (default: lr / epochs, as in the paper)."""
    warmup_steps: int = 0
    """Steps of linear warm-up from lr / (warmup_steps + 1)."""
    factor: float = 0.5
    """Plateau: what the rate is multiplied with."""
    plateau_patience: int = 5
    """Plateau: epochs without a lower validation loss before the rate falls."""
    patience: int | None = None
    """Epochs without a better validation score after which the stage ends."""
    max_time: float | None = None
    """Seconds after which the stage ends."""

    def __post_init__(self) -> None:
        require(
            [
                self.lr <= 0 and f"lr {self.lr} must be positive",
                (self.epochs is None) == (self.steps is None) and "a stage needs either epochs or steps",
                self.epochs is not None and self.epochs <= 0 and f"epochs {self.epochs} must be positive",
                self.steps is not None and self.steps < 1 and f"steps {self.steps} must be positive",
                self.warmup_steps < 0 and "warmup_steps must not be negative",
                self.patience is not None and self.patience < 1 and "patience must be positive",
                not 0 < self.factor < 1 and f"factor {self.factor} must lie in (0, 1)",
            ]
        )


PAPER_STAGES = (StageConfig(lr=1e-4, epochs=40), StageConfig(lr=1e-5, epochs=15), StageConfig(lr=1e-6, epochs=15))
"""The paper's strategy (section 4.4)."""

Criterion = Literal["accuracy", "loss", "macro_f1", "kappa", "sum"]


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained."""

    strategy: tuple[StageConfig, ...] | None = None
    """The stages: 'paper' (1e-4 x 40, 1e-5 x 15, 1e-6 x 15 epochs), a YAML file with a list of stages, or that list."""
    epochs: float | None = None
    """Length of a single stage, in epochs, instead of a strategy."""
    lr: float | None = None
    """Learning rate of a single stage (default 1e-3)."""
    schedule: Literal["time", "constant", "cosine", "plateau"] = "constant"
    """How the rate of a single stage moves."""
    patience: int | None = None
    """Epochs without a better validation score after which a single stage ends."""
    max_time: float | None = None
    """Seconds after which the whole training ends (the paper's cap was 12 hours)."""
    batch_size: int = 32
    """Images an update."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Adam, AdamW, or SGD with Nesterov momentum 0.9."""
    weight_decay: float = 0.0
    """Weight decay (not on biases and normalisation)."""
    label_smoothing: float = 0.0
    """Share of the label's weight spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weigh classes in the loss by the inverse of their frequency."""
    augment: Literal["none", "light", "light-flip", "paper", "paper-noflip"] = "none"
    """Augmentation: small moves, the same with mirror images, or the paper's strong ones with or without flips."""
    mixup: float = 0.0
    """Mixup: alpha of the Beta distribution, 0 is off."""
    cutmix: float = 0.0
    """CutMix: alpha of the Beta distribution, 0 is off."""
    accumulate: int = 1
    """Parts a batch is computed in, to save memory; the update is that of the whole batch."""
    clip: float | None = None
    """Largest norm of the gradient."""
    ema: float | None = None
    """Decay of the exponential moving average of the weights that is evaluated and kept, such as 0.999."""
    criterion: Criterion = "accuracy"
    """What 'best' means on the validation split; sum is accuracy + macro-F1 + kappa; the loss decides ties."""
    selection: Literal["validation", "test"] = "validation"
    """Split that chooses; 'test' reproduces papers that did so, and every report then says it."""
    precision: Literal["32", "bf16", "auto"] = "32"
    """Arithmetic: 32 bits, bf16 where that is safe, or whichever three timed steps find faster."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints within an epoch; one is always written at its end."""

    def __post_init__(self) -> None:
        single = self.epochs is not None or self.lr is not None
        require(
            [
                self.strategy is not None and single and "give either a strategy or epochs and lr, not both",
                self.epochs is not None and self.epochs <= 0 and f"epochs {self.epochs} must be positive",
                self.lr is not None and self.lr <= 0 and f"lr {self.lr} must be positive",
                self.batch_size < 1 and f"batch_size {self.batch_size} must be positive",
                not 1 <= self.accumulate <= self.batch_size and "accumulate must lie between 1 and batch_size",
                not 0 <= self.label_smoothing < 1 and "label_smoothing must lie in [0, 1)",
                min(self.mixup, self.cutmix, self.weight_decay) < 0
                and "mixup, cutmix and weight_decay must not be negative",
                self.ema is not None and not 0 < self.ema < 1 and "ema must lie in (0, 1)",
                self.clip is not None and self.clip <= 0 and "clip must be positive",
                self.max_time is not None and self.max_time <= 0 and "max_time must be positive",
            ]
        )

    def stages(self) -> tuple[StageConfig, ...]:
        """Return the stages: the strategy, or one stage of `epochs` at `lr`; the paper's where neither is given."""
        if self.epochs is not None or self.lr is not None:
            lr, epochs = self.lr or 1e-3, self.epochs or 10
            return (StageConfig(lr=lr, epochs=epochs, schedule=self.schedule, patience=self.patience),)
        return self.strategy or PAPER_STAGES


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


@dataclass(frozen=True)
class RunConfig:
    """What a run does beside training: members, fusion, and where everything goes."""

    members: tuple[Any, ...] = ()
    """Networks to train: names, YAML files, or mappings of `model` and any option of its own; empty chooses three."""
    fuse: tuple[Method, ...] = METHODS
    """Ways to fuse the members; the best on validation is shipped."""
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
