"""The training loop in one file: stages, epochs, and the training step (forward, backward, optimizer step).

The loop takes any module and any source of batches. Everything that a resume needs is in `TrainingState` and in the
tensors that `Trainer.save` lists. The order of the batches depends on the number of the epoch alone, so that a resumed
training ends with the same weights, bit for bit, as an uninterrupted one. Shapes: B images, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from tercet.config.training import StageConfig, TrainingConfig
from tercet.core.errors import DataError, ModelError, PartError
from tercet.core.history import TIME_LIMIT, EpochRow, History
from tercet.core.runtime import generator_states, restore_generators
from tercet.core.types import Batch, BatchSource
from tercet.metrics.classification import Scorer, validation_scores
from tercet.models.weight_files import load_weights, restore_module, save_weights
from tercet.training.callbacks import Callback, TrainingProgress, TrainingStart, notify
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
from tercet.training.fabric import WeightAverage, autocast, channels_last, make_fabric, split, steady_batch_norm
from tercet.training.losses import Objective, SingleLabel, count_correct, require_finite
from tercet.training.optimizer import make_optimizer, set_learning_rate
from tercet.training.parts import epochs_without_improvement, learning_rate, stage_steps
from tercet.training.signals import StopSignal


class Trainer:
    """Trains a module in stages; each stage starts from the best weights so far, with a new optimizer.

    Args:
        module: Maps a batch's images to logits B K.
        train: Training batches.
        validation: Validation batches; None keeps the weights of the last epoch.
        config: Stages, optimizer, monitored metric.
        folder: Folder for checkpoints and the history.
        device: As of PyTorch.
        objective: The loss (default: `loss` of the configuration).
        scorer: Scores logits B K against labels; its scores include the monitored metric and the loss.
        callbacks: Observe the training; see `tercet.training.callbacks`.
        name: Name of the training for callbacks.
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
        callbacks: Sequence[Callback] = (),
        name: str = "",
    ) -> None:
        self.name = name
        self.train, self.validation, self.scorer = train, validation, scorer
        self.config, self.folder, self.callbacks = config, folder, callbacks
        self.objective = objective or SingleLabel(config.loss, label_smoothing=config.label_smoothing)
        self.stages = config.stage_list()
        self.total_steps = sum(stage_steps(stage, len(train)) for stage in self.stages)
        self.device, self.fabric = device, make_fabric(device)
        self.module = channels_last(module)
        # The same module behind Fabric's wrapper: forward and backward pass go through it, weights are saved without it
        self.model = self.fabric.setup_module(self.module)
        self.ema = WeightAverage(self.module, config.ema_decay)
        self.state, self.history = TrainingState(), History()
        self.optimizer: torch.optim.Optimizer | None = None
        self.stop_signal = StopSignal()

    def run(self) -> TrainingResult:
        """Train all stages, or those left after `resume`; the module then has the best weights.

        Raises:
            Interrupted: A signal arrived; the state is saved.
            DivergedError: The loss is not finite.
            StorageError: A checkpoint could not be written.
        """
        start = TrainingStart(self.name, self.module, len(self.stages), self.total_steps)
        notify(self.callbacks, "on_train_begin", start)
        with self.stop_signal:
            try:
                while self.state.stage < len(self.stages):
                    self.run_stage(self.stages[self.state.stage])
            except (PartError, DataError):  # the state is that before the failed call, from which a resume continues
                self.save()
                raise
        best = self.state.best
        assert best is not None  # every stage has at least one epoch, and the first epoch is the best so far
        load_weights(self.folder / best.file, self.module, digest=best.digest)
        result = TrainingResult(self.history, best, self.state.seconds, self.state.step)
        notify(self.callbacks, "on_train_end", result)
        return result

    def run_stage(self, stage: StageConfig) -> None:
        """Run the epochs of a stage until `should_stop`."""
        state = self.state
        if self.optimizer is None:  # the stage begins; `resume` within a stage restores weights and optimizer
            if state.best is not None:
                load_weights(self.folder / state.best.file, self.module, digest=state.best.digest)
            self.ema.reset()
            self.optimizer = self.fabric.setup_optimizers(make_optimizer(self.module, self.config, stage))
        stop_reason = ""
        while not stop_reason:
            self.run_epoch(stage)
            stop_reason = self.on_epoch_end(stage)
            if stop_reason:
                state.stage = len(self.stages) if stop_reason == TIME_LIMIT else state.stage + 1
                state.begin_stage()
                self.optimizer = None
            self.save()
            notify(self.callbacks, "on_epoch_end", self.history.rows[-1])

    def run_epoch(self, stage: StageConfig) -> None:
        """Run the batches of an epoch; a resumed epoch starts at the first batch that is still missing."""
        state = self.state
        last_batch = min(len(self.train), state.batch + self.remaining_steps(stage))
        self.model.train()
        clock = saved = time.monotonic()
        for batch in self.train.epoch(len(self.history), state.batch):
            self.train_step(stage, batch)
            now = time.monotonic()
            state.count_seconds(now - clock)
            clock = now
            self.save_and_stop_if_signalled()
            if now - saved > self.config.checkpoint_seconds:
                self.save()
                saved = now
            if state.batch >= last_batch or self.time_limit(stage):
                break

    def train_step(self, stage: StageConfig, batch: Batch) -> None:
        """Forward pass, backward pass, optimizer step: the only place where weights change."""
        assert self.optimizer is not None
        state = self.state
        set_learning_rate(self.optimizer, lr := self.learning_rate(stage, state.stage_step))
        shard = batch.shard(self.fabric.global_rank, self.fabric.world_size).to(self.fabric.device)
        self.optimizer.zero_grad(set_to_none=True)
        batch_loss, num_correct = 0.0, 0
        for micro_batch in split(shard, self.config.micro_batches):
            single = len(micro_batch) == 1
            with steady_batch_norm(self.module, single=single), autocast(self.device, self.config.precision):
                loss, logits = self.objective(self.model, micro_batch)
            loss = loss * (len(micro_batch) / len(shard))  # the gradients add up to that of the mean over the batch
            self.fabric.backward(loss)
            batch_loss += loss.item()
            num_correct += count_correct(logits, micro_batch)
        require_finite(batch_loss, batch, state.stage, state.epoch, state.step)
        if self.config.clip_grad_norm is not None:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.config.clip_grad_norm)
        self.optimizer.step()
        self.ema.update(state.stage_step)

        state.count_step(batch_loss, num_correct, len(shard))
        stages, steps = len(self.stages), self.total_steps
        progress = TrainingProgress(state.stage, stages, state.step, steps, lr, batch_loss, state.epoch)
        notify(self.callbacks, "on_train_batch_end", progress)

    def on_epoch_end(self, stage: StageConfig) -> str:
        """Validate, update the best weights, record and save; return why the stage ends, empty if it does not."""
        state, started = self.state, time.monotonic()
        with self.ema.applied():
            scores = self.validate()
            signalled = self.stop_signal.requested is not None
            best, stage_best = (improves(scores, best, self.config.monitor) for best in (state.best, state.stage_best))
            if stage_best and not signalled:
                self.update_best(scores, best=best)
        if signalled:
            self.save_and_stop_if_signalled()  # outside `applied`: the checkpoint holds the trained weights
        state.count_seconds(time.monotonic() - started)
        stop_reason = self.should_stop(stage, scores)
        row = EpochRow(
            stage=state.stage,
            epoch=state.epoch,
            step=state.step,
            rate=self.learning_rate(stage, state.stage_step - 1),
            train_loss=state.loss_sum / max(1, state.num_seen),
            train_accuracy=state.num_correct / max(1, state.num_seen),
            validation=scores,
            seconds=state.epoch_seconds,
            best=best,
            note=stop_reason,
        )
        self.history.append(row)
        state.begin_epoch()
        return stop_reason

    def learning_rate(self, stage: StageConfig, step: int) -> float:
        """Return the learning rate of a step of the current stage; parameter groups may have multiples of it."""
        losses = (row.validation["loss"] for row in self.history if row.stage == self.state.stage and row.validation)
        return learning_rate(stage, step, steps_per_epoch=len(self.train), validation_losses=losses)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Return the scores on the validation batches; empty without validation batches."""
        if self.validation is None:
            return {}
        self.model.eval()
        logits: list[Tensor] = []
        labels: list[Tensor] = []
        for batch in self.validation.epoch(0):
            assert batch.targets is not None  # validation rows always have labels
            with autocast(self.device, self.config.precision):
                logits.append(self.model(batch.to(self.fabric.device).images).float().cpu())
            labels.append(batch.targets)
            if self.stop_signal.requested is not None:
                return {}  # `on_epoch_end` saves; the resumed training validates again
        return self.scorer(torch.cat(logits).numpy(), torch.cat(labels).numpy())

    def update_best(self, scores: dict[str, float], *, best: bool) -> None:
        """Save the current weights as the best of the stage, and with `best` as the best of all stages."""
        state = self.state
        name = f"best-stage{state.stage + 1}-epoch{state.epoch + 1}.safetensors"
        digest = save_weights(self.folder / name, self.module)
        state.stage_best = BestEpoch(scores, state.stage, state.epoch, name, digest)
        if best:
            state.best = state.stage_best

    def should_stop(self, stage: StageConfig, scores: dict[str, float]) -> str:
        """Return why the stage ends after an epoch with these scores, empty if it does not."""
        if limit := self.time_limit(stage):
            return limit
        earlier = (row.validation for row in self.history if row.stage == self.state.stage)
        epochs = epochs_without_improvement([*earlier, scores], self.config.monitor)
        if stage.patience is not None and epochs >= stage.patience:
            return f"no better for {epochs} epochs"
        return "stage complete" if self.remaining_steps(stage) <= 0 else ""

    def remaining_steps(self, stage: StageConfig) -> int:
        """Return the number of steps left in the current stage."""
        return stage_steps(stage, len(self.train)) - self.state.stage_step

    def time_limit(self, stage: StageConfig) -> str:
        """Return which time limit is reached, empty if none."""
        if self.config.max_time is not None and self.state.seconds >= self.config.max_time:
            return TIME_LIMIT
        return "stage time limit" if stage.max_time is not None and self.state.stage_seconds >= stage.max_time else ""

    def save(self) -> None:
        """Write the checkpoint; weights that it no longer names are deleted once it is on disk."""
        checkpoint = {
            "format": 1,
            "plan": [asdict(stage) for stage in self.stages],
            "state": asdict(self.state),
            "history": self.history.to_list(),
            "module": self.module.state_dict(),
            "ema": self.ema.weights,
            "optimizer": self.optimizer.state_dict() if self.optimizer is not None else None,
            "generators": generator_states(),
        }
        save_checkpoint(self.folder / LAST, checkpoint)
        self.history.save(self.folder / "history.jsonl")
        remove_unreferenced(self.folder, {best.file for best in (self.state.best, self.state.stage_best) if best})

    def save_and_stop_if_signalled(self) -> None:
        """Save the state and raise `Interrupted` if SIGINT or SIGTERM arrived."""
        if self.stop_signal.requested is not None:
            self.save()
            self.stop_signal.raise_if_requested(f"saved at step {self.state.step}; continue with --resume")

    def resume(self) -> bool:
        """Load the checkpoint in the folder; return False if there is none.

        Raises:
            ModelError: The checkpoint is damaged, or was written with other stages or for another network.
        """
        path = self.folder / LAST
        if not path.exists():
            return False
        checkpoint = load_checkpoint(path)
        if [StageConfig(**stage) for stage in checkpoint["plan"]] != list(self.stages):
            raise ModelError(f"{path} was written with other training stages: start a new run")
        restore_module(self.module, checkpoint["module"], source=path)
        self.state = TrainingState.from_dict(checkpoint["state"])
        self.history = History.from_list(checkpoint["history"])
        self.ema.weights = checkpoint["ema"]
        if checkpoint["optimizer"] is not None:
            optimizer = make_optimizer(self.module, self.config, self.stages[self.state.stage])
            optimizer.load_state_dict(checkpoint["optimizer"])
            self.optimizer = self.fabric.setup_optimizers(optimizer)
        restore_generators(checkpoint["generators"])
        return True
