"""Options of one training: stages, optimizer, augmentation, and monitored metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from tercet.config.fields import Config, bounded
from tercet.core.errors import Problem


@dataclass(frozen=True)
class StageConfig(Config):
    """One training stage. It starts from the best weights so far with a new optimizer."""

    lr: float = bounded(1e-4, above=0)
    """Initial learning rate."""
    epochs: float | None = bounded(None, above=0)
    """Number of epochs (may be fractional)."""
    steps: int | None = bounded(None, above=0)
    """Number of optimizer steps, instead of epochs."""
    schedule: str = field(default="time", metadata={"registry": "schedule"})
    """Learning rate schedule: Keras' time-based decay, constant, cosine annealing to zero, or reduce on plateau."""
    decay: float | None = None
    """Time-based decay per step: lr / (1 + decay * step) (default: lr / epochs, as in the paper)."""
    warmup_steps: int = bounded(0, least=0)
    """Number of linear warm-up steps, starting at lr / (warmup_steps + 1)."""
    warmup_epochs: float = bounded(0.0, least=0)
    """Length of the warm-up in epochs, instead of warmup_steps."""
    head_lr: float | None = bounded(None, above=0)
    """Initial learning rate of the layers after the backbone (default: that of lr); the schedule scales both."""
    factor: float = bounded(0.5, above=0, below=1)
    """Plateau: factor by which the learning rate is reduced."""
    plateau_patience: int = 5
    """Plateau: epochs without improvement of the validation loss before the learning rate is reduced."""
    patience: int | None = bounded(None, above=0)
    """Early stopping: epochs without a better value of the monitored metric before the stage ends."""
    max_time: float | None = None
    """Time limit of the stage in seconds."""

    def _rules(self) -> Iterable[Problem]:
        if (self.epochs is None) == (self.steps is None):
            yield Problem("a stage needs either epochs or steps", "epochs", "steps")
        if self.warmup_steps and self.warmup_epochs:
            yield Problem("give either warmup_steps or warmup_epochs, not both", "warmup_steps", "warmup_epochs")


PAPER_STAGES = (StageConfig(lr=1e-4, epochs=40), StageConfig(lr=1e-5, epochs=15), StageConfig(lr=1e-6, epochs=15))
"""The paper's three stages (section 4.4)."""

SINGLE_STAGE = ("head_lr", "schedule", "warmup_epochs", "patience")
"""Options of a single stage, which stages have as fields."""

CLASS_WEIGHTS = ("none", "balanced", "auto")

Monitor: TypeAlias = str
"""Name of a registered metric."""


@dataclass(frozen=True)
class TrainingConfig(Config):
    """Optimization, augmentation and model selection."""

    stages: tuple[StageConfig, ...] | None = None
    """Training stages: 'paper' (1e-4 x 40, 1e-5 x 15, 1e-6 x 15 epochs), a YAML file with a list, or that list."""
    epochs: float | None = bounded(None, above=0)
    """Number of epochs of a single stage, instead of stages."""
    lr: float | None = bounded(None, above=0)
    """Learning rate of a single stage (default: 1e-3)."""
    head_lr: float | None = bounded(None, above=0)
    """Learning rate of the layers after the backbone in a single stage (default: that of lr)."""
    layer_decay: float | None = bounded(None, above=0, most=1)
    """Factor of the learning rate per layer group of a timm backbone, from the head down."""
    schedule: str = field(default="constant", metadata={"registry": "schedule"})
    """Learning rate schedule of a single stage."""
    warmup_epochs: float = bounded(0.0, least=0)
    """Linear warm-up of a single stage, in epochs (may be fractional)."""
    patience: int | None = None
    """Early stopping of a single stage: epochs without a better value of the monitored metric."""
    max_time: float | None = bounded(None, above=0)
    """Time limit of the training in seconds (paper: 12 hours)."""
    batch_size: int = bounded(32, above=0)
    """Images per optimizer step (batch size)."""
    optimizer: str = field(default="adam", metadata={"registry": "optimizer"})
    """Adam, AdamW, SGD with Nesterov momentum 0.9, or an optimizer of timm, such as lamb."""
    weight_decay: float = bounded(0.0, least=0)
    """Weight decay (not applied to biases and normalization layers)."""
    head_init: Literal["random", "logistic"] = "random"
    """Initial weights of a linear head: random, or a logistic regression on the backbone's initial features, fitted
    before the training (LP-FT)."""
    loss: str = field(default="cross-entropy", metadata={"registry": "loss"})
    """Loss of single-label members; multi-label ones use that of labels.decoder."""
    label_smoothing: float = bounded(0.0, least=0, below=1)
    """Label smoothing: fraction of the target probability that is spread over all classes."""
    class_weights: Any = "none"
    """Class weights in the loss and in fitted heads: none, inverse class frequencies (balanced, or auto), or a mapping
    such as '{rare: 5}', in which other classes have 1."""
    augment: str = field(default="none", metadata={"registry": "augmentation"})
    """Augmentation: horizontal flips, small shifts (light), both, the paper's with or without flips, or brightness,
    contrast, rotation and flips (leaves)."""
    random_erasing: float = bounded(0.0, least=0, most=1)
    """Random erasing: probability per image (0 is off)."""
    mixup: float = bounded(0.0, least=0)
    """Mixup: alpha of the Beta distribution (0 is off)."""
    cutmix: float = bounded(0.0, least=0)
    """CutMix: alpha of the Beta distribution (0 is off)."""
    micro_batches: int = bounded(1, above=0)
    """Split each batch into this many micro-batches to save memory; the optimizer step is that of the full batch."""
    clip_grad_norm: float | None = bounded(None, above=0)
    """Clip the gradient to this norm."""
    ema_decay: float | None = bounded(None, above=0, below=1)
    """Decay of an exponential moving average (EMA) of the weights, such as 0.999, after a warm-up; the averaged weights
    are evaluated and saved."""
    monitor: Monitor = field(default="accuracy", metadata={"registry": "metric"})
    """Metric that selects the best epoch and ensemble; sum is accuracy + macro-F1 + kappa. Multi-label: o_f1, c_f1, map
    or loss (accuracy means o_f1, macro_f1 means c_f1). The lower loss breaks ties."""
    monitor_split: Literal["validation", "test"] = "validation"
    """Split on which the metric is monitored; test reproduces papers that did so (reports show a warning)."""
    precision: Literal["32", "bf16", "auto"] = "32"
    """Numerical precision: 32-bit, bf16 (mixed), or auto: bf16 if it is supported and faster on this machine."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints within an epoch; each epoch also ends with a checkpoint."""

    def __post_init__(self) -> None:
        """Check the options; class names become text, and auto class weights are the balanced ones."""
        weights = self.class_weights
        if isinstance(weights, Mapping):
            weights = {str(name): weight for name, weight in weights.items()}
        object.__setattr__(self, "class_weights", "balanced" if weights == "auto" else weights)
        super().__post_init__()

    def _rules(self) -> Iterable[Problem]:
        if isinstance(self.class_weights, Mapping):
            weights = self.class_weights.values()
            if not all(type(weight) in (int, float) and 0 < weight < math.inf for weight in weights):
                yield Problem("each of class_weights must be a positive number", "class_weights")
        elif self.class_weights not in CLASS_WEIGHTS:
            yield self.problem("class_weights", f"must be {', '.join(CLASS_WEIGHTS)} or a mapping of class to weight")
        if self.stages is not None and (self.epochs is not None or self.lr is not None):
            yield Problem("give either stages or epochs and lr, not both", "stages", "epochs", "lr")
        if self.micro_batches > self.batch_size:
            yield Problem("micro_batches must lie between 1 and batch_size", "micro_batches", "batch_size")

    def stage_list(self) -> tuple[StageConfig, ...]:
        """Return `stages`, or one stage of `epochs` at `lr`; the paper's stages if neither is set."""
        if self.epochs is not None or self.lr is not None:
            lr, epochs = self.lr or 1e-3, self.epochs or 10
            single = {name: getattr(self, name) for name in SINGLE_STAGE}
            return (StageConfig(**{"lr": lr, "epochs": epochs, **single}),)
        return self.stages or PAPER_STAGES
