"""The options of one training: its stages, optimizer, augmentation, and what best means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tercet.ground.errors import require


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

Criterion = Literal["accuracy", "loss", "macro_f1", "kappa", "sum", "o_f1", "c_f1", "map"]


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
    augment: Literal["none", "flip", "light", "light-flip", "paper", "paper-noflip", "leaves"] = "none"
    """Augmentation: mirror images, small moves, both, the paper's strong ones with or without flips, or brightness,
    contrast, turns and flips for leaves."""
    erase: float = 0.0
    """Random erasing: probability that a box of an image becomes noise, 0 is off."""
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
    """What 'best' means on the validation split; sum is accuracy + macro-F1 + kappa, label sets take o_f1, c_f1, map or
    loss (accuracy means o_f1, macro_f1 means c_f1); the loss decides ties."""
    selection: Literal["validation", "test"] = "validation"
    """Split that chooses; 'test' reproduces papers that did so, and every report then says it."""
    precision: Literal["32", "bf16", "auto"] = "32"
    """Arithmetic: 32 bits, bf16 (mixed), or auto: bf16 if this machine computes it and timed steps are faster."""
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
                not 0 <= self.erase <= 1 and f"erase {self.erase} must lie in [0, 1]",
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
