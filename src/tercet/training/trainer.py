"""The training loop: stages, epochs, and the one step (forward, backward, update), in one file.

It takes any module and any source of batches. Everything that must survive a kill is in `TrainingState` and in the
tensors that `Training.save` lists; the order of the batches is a pure function of the epoch's number.
Shapes: B images, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from tercet.config.training import StageConfig, TrainingConfig
from tercet.core.errors import DivergedError, ModelError
from tercet.core.history import EpochRow, History
from tercet.core.runtime import generator_states, restore_generators
from tercet.core.types import Batch, BatchSource
from tercet.metrics.classification import Scorer, validation_scores
from tercet.models.weight_files import load_weights, restore_module, save_weights
from tercet.training.callbacks import Callback, TrainingProgress
from tercet.training.checkpoint import (
    LAST,
    BestEpoch,
    TrainingResult,
    TrainingState,
    improves,
    load_checkpoint,
    remove_unreferenced,
    save_checkpoint,
)
from tercet.training.fabric import autocast, channels_last, make_fabric, split, steady_batch_norm
from tercet.training.losses import CrossEntropy, Objective, count_correct
from tercet.training.optim import WeightAverage, learning_rate, make_optimizer, set_learning_rate, stage_steps
from tercet.training.signals import StopSignal


class Trainer:
    """One training of one module, by stages, each from the best weights so far with a fresh optimizer.

    Args:
        module: Takes a batch's images and returns logits B K.
        train: Batches to learn from.
        validation: Batches to choose with; None keeps the last epoch's weights.
        config: Stages, optimizer, monitored metric.
        folder: Where checkpoints and history go.
        device: Where to compute: cpu, cuda, cuda:N or mps.
        objective: What is minimised (default: cross-entropy).
        scorer: Scores logits B K against labels; includes the monitored metric and the loss.
        observers: Told of every step and epoch.
    """

    def __init__(
        self,
        module: nn.Module,
        train: BatchSource,
        validation: BatchSource | None,
        *,
        config: TrainingConfig,
        folder: Path,
        device: str = "cpu",
        objective: Objective | None = None,
        scorer: Scorer = validation_scores,
        observers: Sequence[Callback] = (),
    ) -> None:
        self.train, self.validation, self.scorer = train, validation, scorer
        self.config, self.folder, self.observers = config, folder, observers
        self.objective = objective or CrossEntropy(label_smoothing=config.label_smoothing)
        self.stages = config.stage_list()
        self.num_steps = sum(stage_steps(stage, len(train)) for stage in self.stages)
        self.device, self.fabric = device, make_fabric(device)
        self.raw = module = channels_last(
            module
        )  # the module itself; `self.module` is the same one behind Fabric's door
        self.module = self.fabric.setup_module(module)
        self.average = WeightAverage(self.raw, config.ema_decay)
        self.state, self.history = TrainingState(), History()
        self.optimizer: torch.optim.Optimizer | None = None
        self.interruption = StopSignal()

    def run(self) -> TrainingResult:
        """Train to the end, or go on to the end after `resume`.

        Raises:
            Interrupted: A signal came; the state was saved.
            DivergedError: The loss is not finite.
            StorageError: A checkpoint could not be written.
        """
        with self.interruption:
            while self.state.stage < len(self.stages):
                self.run_stage(self.stages[self.state.stage])
        best = self.state.best
        assert best is not None  # every stage has at least one epoch, and the first epoch is the best so far
        load_weights(self.folder / best.file, self.raw, digest=best.digest)
        return TrainingResult(self.history, best, self.state.seconds, self.state.step)

    def run_stage(self, stage: StageConfig) -> None:
        """Run one stage, or the rest of it."""
        state = self.state
        if self.optimizer is None:  # not in the middle of a resumed stage
            if state.best is not None:
                load_weights(self.folder / state.best.file, self.raw, digest=state.best.digest)
            self.average.reset()
            self.optimizer = self.fabric.setup_optimizers(make_optimizer(self.module, self.config, lr=stage.lr))
        note = ""
        while not note:
            self.run_epoch(stage)
            note = self.finish_epoch(stage)
        state.stage = len(self.stages) if note == "training time limit" else state.stage + 1
        state.begin_stage()
        self.optimizer = None
        self.save()

    def run_epoch(self, stage: StageConfig) -> None:
        """Run the batches of one epoch, or the rest of them."""
        state = self.state
        last_batch = min(len(self.train), state.batch + self.steps_left(stage))
        self.module.train()
        clock = saved = time.monotonic()
        for batch in self.train.epoch(len(self.history), state.batch):
            self.train_step(stage, batch)
            now = time.monotonic()
            self.state.count_seconds(now - clock)
            clock = now
            self.leave_if_asked()
            if now - saved > self.config.checkpoint_seconds:
                self.save()
                saved = now
            if state.batch >= last_batch or self.time_limit(stage):
                break

    def train_step(self, stage: StageConfig, batch: Batch) -> None:
        """Forward, backward, update: the only place where weights change."""
        assert self.optimizer is not None
        state = self.state
        losses = (row.validation["loss"] for row in self.history if row.stage == state.stage and row.validation)
        rate = learning_rate(stage, state.stage_step, steps_per_epoch=len(self.train), validation_losses=losses)
        set_learning_rate(self.optimizer, rate)

        shard = batch.shard(self.fabric.global_rank, self.fabric.world_size).to(self.fabric.device)
        self.optimizer.zero_grad(set_to_none=True)
        batch_loss = 0.0
        for part in split(shard, self.config.micro_batches):
            with steady_batch_norm(self.raw, alone=len(part) == 1), autocast(self.device, self.config.precision):
                loss, logits = self.objective(self.module, part)
            loss = loss * (len(part) / len(shard))
            self.fabric.backward(loss)
            batch_loss += loss.item()
            state.num_right += count_correct(logits, part)
        self.require_finite(batch_loss, batch)
        if self.config.clip_grad_norm is not None:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=self.config.clip_grad_norm)
        self.optimizer.step()
        self.average.update()

        state.count_step(batch_loss, len(shard))
        progress = TrainingProgress(state.stage, len(self.stages), state.step, self.num_steps, rate, batch_loss)
        for observer in self.observers:
            observer.step(progress)

    def require_finite(self, loss: float, batch: Batch) -> None:
        """Stop before a non-finite loss reaches the weights."""
        if not math.isfinite(loss):
            state, names = self.state, ", ".join(batch.ids[:8]) + (", ..." if len(batch) > 8 else "")
            raise DivergedError(
                f"the loss is {loss} at stage {state.stage + 1}, epoch {state.epoch + 1}, step {state.step + 1} "
                f"(images {names}): lower --lr, set --clip-grad-norm 1, or look at these images"
            )

    def finish_epoch(self, stage: StageConfig) -> str:
        """Validate, keep the best, record, save; return why the stage ends, or nothing."""
        state, started = self.state, time.monotonic()
        with self.average.applied():
            scores = self.validate()
            asked = self.interruption.requested is not None
            best, stage_best = (
                improves(scores, rival, self.config.monitor) for rival in (state.best, state.stage_best)
            )
            if stage_best and not asked:
                self.keep(scores, best=best)
        if asked:
            self.leave_if_asked()  # with the trained weights in place, not their average
        self.state.count_seconds(time.monotonic() - started)
        note = self.ending(stage)
        assert self.optimizer is not None
        row = EpochRow(
            stage=state.stage,
            epoch=state.epoch,
            step=state.step,
            rate=self.optimizer.param_groups[0]["lr"],
            train_loss=state.loss_sum / max(1, state.num_seen),
            train_accuracy=state.num_right / max(1, state.num_seen),
            validation=scores,
            seconds=state.epoch_seconds,
            best=best,
            note=note,
        )
        self.history.append(row)
        state.begin_epoch()
        if not note:
            self.save()
        self.history.save(self.folder / "history.jsonl")
        for observer in self.observers:
            observer.epoch(row)
        return note

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Return the scores on the validation batches; empty where there are none."""
        if self.validation is None:
            return {}
        self.module.eval()
        logits: list[Tensor] = []
        labels: list[Tensor] = []
        for batch in self.validation.epoch(0):
            assert batch.targets is not None  # validation rows always have labels
            with autocast(self.device, self.config.precision):
                logits.append(self.module(batch.to(self.fabric.device).images).float().cpu())
            labels.append(batch.targets)
            if self.interruption.requested is not None:
                return {}  # `finish_epoch` saves; the resumed training validates anew
        return self.scorer(torch.cat(logits).numpy(), torch.cat(labels).numpy())

    def keep(self, scores: dict[str, float], *, best: bool) -> None:
        """Write the present weights as the stage's best, and as the best of all if they are."""
        state = self.state
        name = f"best-stage{state.stage + 1}-epoch{state.epoch + 1}.safetensors"
        state.stage_best = BestEpoch(scores, state.stage, state.epoch, name, save_weights(self.folder / name, self.raw))
        if best:
            state.best = state.stage_best

    def ending(self, stage: StageConfig) -> str:
        """Return why the stage ends after this epoch, or an empty string."""
        best = self.state.stage_best
        waited = self.state.epoch - best.epoch if best else 0
        if limit := self.time_limit(stage):
            return limit
        if stage.patience is not None and waited >= stage.patience:
            return f"no better for {waited} epochs"
        return "stage complete" if self.steps_left(stage) <= 0 else ""

    def steps_left(self, stage: StageConfig) -> int:
        """Return the updates left in the present stage."""
        return stage_steps(stage, len(self.train)) - self.state.stage_step

    def time_limit(self, stage: StageConfig) -> str:
        """Return which time limit is reached, or an empty string."""
        if self.config.max_time is not None and self.state.seconds >= self.config.max_time:
            return "training time limit"
        return "stage time limit" if stage.max_time is not None and self.state.stage_seconds >= stage.max_time else ""

    def save(self) -> None:
        """Write everything that a resume needs; older weights go only after this is on disk."""
        state = {
            "format": 1,
            "plan": [asdict(stage) for stage in self.stages],
            "state": asdict(self.state),
            "history": self.history.to_list(),
            "module": self.raw.state_dict(),
            "average": self.average.average,
            "optimizer": self.optimizer.state_dict() if self.optimizer is not None else None,
            "generators": generator_states(),
        }
        save_checkpoint(self.folder / LAST, state)
        kept = {best.file for best in (self.state.best, self.state.stage_best) if best is not None}
        remove_unreferenced(self.folder, kept)

    def leave_if_asked(self) -> None:
        """Save and raise `Interrupted` if a signal came."""
        if self.interruption.requested is not None:
            self.save()
            self.interruption.check(f"saved at step {self.state.step}; continue with --resume")

    def resume(self) -> bool:
        """Take up the checkpoint in the folder; False if there is none.

        Raises:
            ModelError: The checkpoint is damaged, or belongs to another plan or network.
        """
        if not (self.folder / LAST).exists():
            return False
        stored = load_checkpoint(self.folder / LAST)
        if stored["plan"] != [asdict(stage) for stage in self.stages]:
            raise ModelError(f"{self.folder / LAST} belongs to another plan of stages: start a new run")
        restore_module(self.raw, stored["module"], source=self.folder / LAST)
        self.state = TrainingState.from_dict(stored["state"])
        self.history = History.from_list(stored["history"])
        self.average.average = stored["average"]
        if stored["optimizer"] is not None:
            fresh = make_optimizer(self.module, self.config, lr=self.stages[self.state.stage].lr)
            fresh.load_state_dict(stored["optimizer"])
            self.optimizer = self.fabric.setup_optimizers(fresh)
        restore_generators(stored["generators"])
        return True
