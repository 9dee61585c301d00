"""A toy problem: points of K clusters as 1 x 1 x D images, and a small network with dropout."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tercet.core.types import Batch


class Points:
    """Batches of points in an order that is a pure function of the epoch."""

    def __init__(self, count: int = 96, *, batch_size: int = 16, classes: int = 3, seed: int = 0, shuffle: bool = True):
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(classes, 6, generator=torch.Generator().manual_seed(99)) * 2
        self.labels = torch.arange(count) % classes
        self.points = centres[self.labels] + torch.randn(count, 6, generator=generator)
        self.batch_size, self.shuffle = batch_size, shuffle
        self.asked: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        self.asked.append((number, start))
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
        out: Tensor = self.layers(images)
        return out


def make_net(dropout: float = 0.3) -> Net:
    torch.manual_seed(7)
    return Net(dropout=dropout)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([value.double().flatten() for value in module.state_dict().values()])
