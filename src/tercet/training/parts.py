"""Losses, optimizers and learning-rate schedules by name.

PyTorch is imported when one is used, because the command line lists the names without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tercet.config.training import StageConfig
from tercet.core.errors import PartError, naming_part
from tercet.core.registry import PARTS, Registry
from tercet.metrics.metric import find_metric

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LOSSES: Registry[Callable[..., Tensor]] = PARTS["loss"]
"""Functions by name: from logits B K and targets to the mean loss. Targets are B class indices, or with Mixup or CutMix
B K soft labels; class weights (K), label smoothing and the weights of the samples (B) are keywords `weight`,
`label_smoothing` and `sample_weight`, if there are any."""


@LOSSES.register("cross-entropy")
def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    weight: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Cross-entropy, averaged over the samples even with weights: micro-batches then add up to the batch."""
    from torch import float32
    from torch.nn import functional

    weights = None if weight is None else logits.new_tensor(weight, dtype=float32)
    reduction = "sum" if sample_weight is None else "none"
    loss = functional.cross_entropy(
        logits.float(), targets, weight=weights, label_smoothing=label_smoothing, reduction=reduction
    )
    return (loss if sample_weight is None else (loss * sample_weight).sum()) / len(logits)


ParameterGroups = list[dict[str, Any]]
OPTIMIZERS: Registry[Callable[..., torch.optim.Optimizer]] = PARTS["optimizer"]
"""Functions by name: from parameter groups and the keyword `lr` to an optimizer, such as `torch.optim.RMSprop`. Other
names are those of timm's optimizers (`tercet.training.optimizer`)."""


@OPTIMIZERS.register("sgd")
def sgd(groups: ParameterGroups, *, lr: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum 0.9."""
    from torch.optim import SGD

    return SGD(groups, lr=lr, momentum=0.9, nesterov=True)


@OPTIMIZERS.register("adam")
def adam(groups: ParameterGroups, *, lr: float) -> torch.optim.Optimizer:
    """Adam with the epsilon of Keras, 1e-7, with whose defaults the paper trained.

    PyTorch adds it after the bias correction, so the first steps differ from Keras in the seventh digit.
    """
    from torch.optim import Adam

    return Adam(groups, lr=lr, eps=1e-7, fused=_supports_fused(groups))


@OPTIMIZERS.register("adamw")
def adamw(groups: ParameterGroups, *, lr: float) -> torch.optim.Optimizer:
    """AdamW with the epsilon of `adam`."""
    from torch.optim import AdamW

    return AdamW(groups, lr=lr, eps=1e-7, fused=_supports_fused(groups))


def _supports_fused(groups: ParameterGroups) -> bool:
    """Whether one kernel can update all tensors, with a tenth of the overhead per parameter."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda") for parameter in parameters)


_PLATEAU_THRESHOLD = 1e-4  # relative; the default of PyTorch's `ReduceLROnPlateau`


def stage_steps(stage: StageConfig, steps_per_epoch: int) -> int:
    """Return the number of optimizer steps of a stage, at least 1."""
    if stage.steps is not None:
        return stage.steps
    assert stage.epochs is not None  # StageConfig checks that one of the two is given
    return max(1, round(stage.epochs * steps_per_epoch))


def _warmup_steps(stage: StageConfig, steps_per_epoch: int) -> int:
    return stage.warmup_steps or round(stage.warmup_epochs * steps_per_epoch)


@dataclass(frozen=True)
class Schedule:
    """A built-in schedule, which knows more of the training than a caller's: that one is a function of two steps."""

    rate: Callable[[StageConfig, float, int, int, Iterable[float]], float]
    """Maps stage, learning rate, step from 0, steps per epoch, and the stage's validation losses to a rate."""


SCHEDULES: Registry[Schedule | Callable[[int, int], float]] = PARTS["schedule"]
"""Schedules by name; a caller's maps the step within the stage, from 0, and the stage's steps to a factor on `lr`."""


def learning_rate(
    stage: StageConfig, step: int, *, steps_per_epoch: int, validation_losses: Iterable[float] = ()
) -> float:
    """Return the learning rate of a step of a stage.

    Args:
        stage: The stage.
        step: Step within the stage, from 0.
        steps_per_epoch: Steps per epoch.
        validation_losses: Losses of the stage's epochs so far, read by `plateau` only.

    Raises:
        PartError: A caller's schedule raises an exception, or returns no finite factor of at least 0.
    """
    lr = min(1.0, (step + 1) / (_warmup_steps(stage, steps_per_epoch) + 1)) * stage.lr
    schedule = SCHEDULES[stage.schedule]
    if isinstance(schedule, Schedule):
        return schedule.rate(stage, lr, step, steps_per_epoch, validation_losses)
    name = f"schedule '{stage.schedule}'"
    with naming_part(name):
        factor = float(schedule(step, stage_steps(stage, steps_per_epoch)))
    if not 0 <= factor < math.inf:
        raise PartError(f"{name} returned {factor} at step {step}: expected a finite factor of at least 0")
    return lr * factor


def _time(stage: StageConfig, lr: float, step: int, steps_per_epoch: int, losses: Iterable[float]) -> float:
    """Keras' decay, lr / (1 + decay * step) with decay = lr / epochs: the paper's equation 26, per stage."""
    epochs = stage.epochs if stage.epochs is not None else stage_steps(stage, steps_per_epoch) / steps_per_epoch
    decay = stage.decay if stage.decay is not None else stage.lr / epochs
    return lr / (1 + decay * step)


def _cosine(stage: StageConfig, lr: float, step: int, steps_per_epoch: int, losses: Iterable[float]) -> float:
    """Loshchilov and Hutter, arXiv:1608.03983, without restarts."""
    total, warmup = stage_steps(stage, steps_per_epoch), _warmup_steps(stage, steps_per_epoch)
    fraction = max(0, step - warmup) / max(1, total - warmup)
    return lr * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))


def _plateau(stage: StageConfig, lr: float, step: int, steps_per_epoch: int, losses: Iterable[float]) -> float:
    return lr * stage.factor ** _plateaus(losses, stage.plateau_patience)


SCHEDULES.register("time")(Schedule(_time))
SCHEDULES.register("constant")(Schedule(lambda stage, lr, *_: lr))
SCHEDULES.register("cosine")(Schedule(_cosine))
SCHEDULES.register("plateau")(Schedule(_plateau))


def _plateaus(losses: Iterable[float], patience: int) -> int:
    """Count the plateaus as PyTorch's `ReduceLROnPlateau` does: more than `patience` epochs without improvement."""
    best, bad_epochs, count = math.inf, 0, 0
    for loss in losses:
        if loss < best * (1 - _PLATEAU_THRESHOLD):
            best, bad_epochs = loss, 0
        elif (bad_epochs := bad_epochs + 1) > patience:
            bad_epochs, count = 0, count + 1
    return count


def epochs_without_improvement(scores: Sequence[Mapping[str, float]], monitor: str) -> int:
    """Return the number of epochs since the monitored metric was last better than in all earlier epochs of a stage.

    The metric alone counts: a lower loss at an equal metric selects weights, but does not count. Without
    scores (no validation images) every epoch is an improvement, and NaN never is.
    """
    if not scores[-1]:
        return 0
    best, best_epoch = math.nan, 0
    sign = 1 if find_metric(monitor).higher_is_better else -1
    for epoch, row in enumerate(scores):
        value = sign * row[monitor]
        if value > best or (math.isnan(best) and not math.isnan(value)):
            best, best_epoch = value, epoch
    return len(scores) - 1 - best_epoch
