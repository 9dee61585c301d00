"""Presets of training options, and the ladder of models that `train` climbs from the cheapest to the most expensive."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from tercet.config.fields import Config
from tercet.config.model import ModelConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError, Problem, problems_of

Preset = Literal["fast", "good", "best", "paper"]
RungName = Literal["probe", "fine-tune", "ensemble"]
RUNGS: tuple[RungName, ...] = get_args(RungName)
"""Rungs of the ladder, from the cheapest to the most expensive."""

FINE_TUNING: Mapping[str, Any] = {
    "epochs": 12.0,
    "lr": 1e-4,
    "head_lr": 1e-3,
    "head_init": "logistic",
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "ema_decay": 0.99,
    "label_smoothing": 0.1,
    "augment": "light",
    "patience": 5,
}
"""Fine-tuning of a pretrained network from the head of its probe (LP-FT, Kumar et al. 2022, arXiv:2202.10054)."""
FROZEN: Mapping[str, Any] = {
    "epochs": 20.0,
    "lr": 1e-3,
    "head_init": "logistic",
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "patience": 6,
}
"""Training on a frozen pretrained backbone: without augmentation, so that its features are computed once."""
FROM_SCRATCH: Mapping[str, Any] = {
    "epochs": 40.0,
    "lr": 2e-3,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "augment": "light",
    "patience": 12,
}
"""Training of a network without pretrained weights."""
_LENGTH = ("epochs", "lr")  # unset, even if they were given as null
_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(h|min|m|s|)")


@dataclass(frozen=True)
class PresetConfig(Config):
    """How much training to spend where no option says it."""

    preset: Preset = "good"
    """Training where --epochs, --lr and --stages are not given: fast fits a linear head, or trains another --head, on a
    frozen network; good also fine-tunes, and trains an ensemble while it pays; best does so in any case; paper is the
    published training, 70 epochs in three stages."""


@dataclass(frozen=True)
class LadderConfig(Config):
    """How far the presets good and best go, from a probe over a fine-tuned network to an ensemble."""

    time_budget: str | None = None
    """Time for the whole run, such as 90s, 10m or 1h30m; the best model that is finished by then is kept."""
    stop_at: RungName | None = None
    """Last rung of the presets good and best (default: the last one that pays): probe, fine-tune or ensemble."""

    def _rules(self) -> Iterable[Problem]:
        if self.time_budget is not None:
            yield from problems_of(lambda: read_duration(self.time_budget or ""), "time_budget")

    @property
    def seconds(self) -> float | None:
        """The time budget in seconds."""
        return None if self.time_budget is None else read_duration(self.time_budget)

    def remaining(self, started: float) -> float:
        """Return the seconds left for a run that started at this `time.monotonic()`; infinite without a budget."""
        return math.inf if self.seconds is None else self.seconds - (time.monotonic() - started)


def read_duration(text: str) -> float:
    """Return the seconds of a duration such as `90`, `90s`, `10m` or `1h30m`.

    Raises:
        ConfigError: The text is not a positive duration.
    """
    compact = text.strip().lower()
    parts = _DURATION.findall(compact)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != compact.replace(" ", "") or not 0 < seconds < float("inf"):
        raise ConfigError(f"time_budget '{text}' is not a duration: write 90s, 10m or 1h30m")
    return seconds


def has_stages(training: TrainingConfig) -> bool:
    """Return whether options define the stages, which replace the training of a preset."""
    return training.epochs is not None or training.lr is not None or training.stages is not None


def with_recipe(
    model: ModelConfig,
    training: TrainingConfig,
    *,
    pretrained: bool,
    given: Collection[str],
    multilabel: bool = False,
) -> tuple[ModelConfig, TrainingConfig]:
    """Return the options of a network with those of its recipe, wherever the user set none.

    Args:
        model: Options of the network.
        training: Options of its training.
        pretrained: Whether the network has pretrained weights.
        given: Names of the options that the user set.
        multilabel: Whether an image has a set of labels: these have no fitted head and no label smoothing.
    """
    if has_stages(training):
        return model, training
    recipe = dict(FROM_SCRATCH if not pretrained else FROZEN if model.freezes_backbone else FINE_TUNING)
    if pretrained and "head" not in given:
        model = replace(model, head="linear")
    if model.head != "linear" or model.recurrent != "none" or multilabel:
        recipe.pop("head_init", None)
    if multilabel or training.loss != TrainingConfig.loss:
        recipe.pop("label_smoothing", None)
    return model, replace(
        training, **{name: value for name, value in recipe.items() if name not in given or name in _LENGTH}
    )
