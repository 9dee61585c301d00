"""A toy problem: points of K clusters, a small network with dropout, and a callback that sends a signal."""

import os
import signal
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tercet.core.history import EpochRow
from tercet.core.types import Batch
from tercet.training.callbacks import TrainingProgress


class Points:
    """Batches of points in an order that is a pure function of the epoch."""

    def __init__(self, count: int = 96, *, batch_size: int = 16, classes: int = 3, seed: int = 0, shuffle: bool = True):
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(classes, 6, generator=torch.Generator().manual_seed(99)) * 2
        self.labels = torch.arange(count) % classes
        self.points = centres[self.labels] + torch.randn(count, 6, generator=generator)
        self.batch_size, self.shuffle = batch_size, shuffle

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        order = torch.arange(len(self.labels))
        if self.shuffle:
            order = torch.randperm(len(order), generator=torch.Generator().manual_seed(number))
        for rows in order.split(self.batch_size)[start:]:
            yield Batch(self.points[rows], self.labels[rows], tuple(f"point-{row}" for row in rows.tolist()))


class Net(nn.Module):
    def __init__(self, classes: int = 3, dropout: float = 0.3) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


class StopAt:
    """Sends a signal to this process at a step, as a user or a scheduler would."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    def on_train_batch_end(self, progress: TrainingProgress) -> None:
        if progress.step == self.step:
            os.kill(os.getpid(), self.number)

    def on_epoch_end(self, row: EpochRow) -> None:
        pass


def make_net(dropout: float = 0.3) -> Net:
    torch.manual_seed(7)
    return Net(dropout=dropout)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([value.double().flatten() for value in module.state_dict().values()])
