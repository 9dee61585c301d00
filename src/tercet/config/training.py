"""Options of one training: stages, optimizer, augmentation, and monitored metric."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tercet.core.errors import raise_problems


@dataclass(frozen=True)
class StageConfig:
    """One training stage. It starts from the best weights so far with a new optimizer."""

    lr: float = 1e-4
    """Initial learning rate."""
    epochs: float | None = None
    """Number of epochs (may be fractional)."""
    steps: int | None = None
    """Number of optimizer steps, instead of epochs."""
    schedule: str = field(default="time", metadata={"registry": "schedule"})
    """Learning rate schedule: Keras' time-based decay, constant, cosine annealing to zero, or reduce on plateau."""
    decay: float | None = None
    """Time-based decay per step: lr / (1 + decay * step) (default: lr / epochs, as in the paper)."""
    warmup_steps: int = 0
    """Number of linear warm-up steps, starting at lr / (warmup_steps + 1)."""
    factor: float = 0.5
    """Plateau: factor by which the learning rate is reduced."""
    plateau_patience: int = 5
    """Plateau: epochs without improvement of the validation loss before the learning rate is reduced."""
    patience: int | None = None
    """Early stopping: epochs without improvement of the monitored metric before the stage ends."""
    max_time: float | None = None
    """Time limit of the stage in seconds."""

    def __post_init__(self) -> None:
        raise_problems(
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
"""The paper's three stages (section 4.4)."""

Monitor = Literal["accuracy", "loss", "macro_f1", "kappa", "sum", "o_f1", "c_f1", "map"]


@dataclass(frozen=True)
class TrainingConfig:
    """Optimization, augmentation and model selection."""

    stages: tuple[StageConfig, ...] | None = None
    """Training stages: 'paper' (1e-4 x 40, 1e-5 x 15, 1e-6 x 15 epochs), a YAML file with a list, or that list."""
    epochs: float | None = None
    """Number of epochs of a single stage, instead of stages."""
    lr: float | None = None
    """Learning rate of a single stage (default: 1e-3)."""
    schedule: str = field(default="constant", metadata={"registry": "schedule"})
    """Learning rate schedule of a single stage."""
    patience: int | None = None
    """Early stopping of a single stage: epochs without improvement of the monitored metric."""
    max_time: float | None = None
    """Time limit of the training in seconds (paper: 12 hours)."""
    batch_size: int = 32
    """Images per optimizer step (batch size)."""
    optimizer: str = field(default="adam", metadata={"registry": "optimizer"})
    """Adam, AdamW, or SGD with Nesterov momentum 0.9."""
    weight_decay: float = 0.0
    """Weight decay (not applied to biases and normalization layers)."""
    loss: str = field(default="cross-entropy", metadata={"registry": "loss"})
    """Loss of single-label members; multi-label ones use that of labels.decoder."""
    label_smoothing: float = 0.0
    """Label smoothing: fraction of the target probability that is spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """Class weights in the loss: none, or inverse class frequencies (balanced)."""
    augment: str = field(default="none", metadata={"registry": "augmentation"})
    """Augmentation: horizontal flips, small shifts (light), both, the paper's with or without flips, or brightness,
    contrast, rotation and flips (leaves)."""
    random_erasing: float = 0.0
    """Random erasing: probability per image (0 is off)."""
    mixup: float = 0.0
    """Mixup: alpha of the Beta distribution (0 is off)."""
    cutmix: float = 0.0
    """CutMix: alpha of the Beta distribution (0 is off)."""
    micro_batches: int = 1
    """Split each batch into this many micro-batches to save memory; the optimizer step is that of the full batch."""
    clip_grad_norm: float | None = None
    """Clip the gradient to this norm."""
    ema_decay: float | None = None
    """Decay of an exponential moving average (EMA) of the weights, such as 0.999; the averaged weights are evaluated
    and saved."""
    monitor: Monitor = "accuracy"
    """Metric that selects the best epoch and ensemble; sum is accuracy + macro-F1 + kappa. Multi-label: o_f1, c_f1, map
    or loss (accuracy means o_f1, macro_f1 means c_f1). The lower loss breaks ties."""
    monitor_split: Literal["validation", "test"] = "validation"
    """Split on which the metric is monitored; test reproduces papers that did so (reports show a warning)."""
    precision: Literal["32", "bf16", "auto"] = "32"
    """Numerical precision: 32-bit, bf16 (mixed), or auto: bf16 if it is supported and faster on this machine."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints within an epoch; each epoch also ends with a checkpoint."""

    def __post_init__(self) -> None:
        single = self.epochs is not None or self.lr is not None
        raise_problems(
            [
                self.stages is not None and single and "give either stages or epochs and lr, not both",
                self.epochs is not None and self.epochs <= 0 and f"epochs {self.epochs} must be positive",
                self.lr is not None and self.lr <= 0 and f"lr {self.lr} must be positive",
                self.batch_size < 1 and f"batch_size {self.batch_size} must be positive",
                not 1 <= self.micro_batches <= self.batch_size and "micro_batches must lie between 1 and batch_size",
                not 0 <= self.random_erasing <= 1 and f"random_erasing {self.random_erasing} must lie in [0, 1]",
                not 0 <= self.label_smoothing < 1 and "label_smoothing must lie in [0, 1)",
                min(self.mixup, self.cutmix, self.weight_decay) < 0
                and "mixup, cutmix and weight_decay must not be negative",
                self.ema_decay is not None and not 0 < self.ema_decay < 1 and "ema_decay must lie in (0, 1)",
                self.clip_grad_norm is not None and self.clip_grad_norm <= 0 and "clip_grad_norm must be positive",
                self.max_time is not None and self.max_time <= 0 and "max_time must be positive",
            ]
        )

    def stage_list(self) -> tuple[StageConfig, ...]:
        """Return `stages`, or one stage of `epochs` at `lr`; the paper's stages if neither is set."""
        if self.epochs is not None or self.lr is not None:
            lr, epochs = self.lr or 1e-3, self.epochs or 10
            return (StageConfig(lr=lr, epochs=epochs, schedule=self.schedule, patience=self.patience),)
        return self.stages or PAPER_STAGES
