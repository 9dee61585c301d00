"""Types shared by all packages: the input of a network, batches, and sources of batches.

Shapes: B images, C channels, H x W pixels, K classes, M members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from tercet.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
CROP_MODES = ("squash", "center", "border")


@dataclass(frozen=True)
class InputSpec:
    """Input of a network: size, channels, normalization, and resizing of images."""

    size: tuple[int, int]
    """Height and width in pixels."""
    channels: int = 3
    """Channels: 1 for grayscale, 3 for RGB."""
    mean: tuple[float, ...] = (0.5,)
    """Mean for normalization, on the [0, 1] scale: one value, or one per channel."""
    std: tuple[float, ...] = (0.5,)
    """Standard deviation for normalization: one value, or one per channel."""
    interpolation: str = "bilinear"
    """Interpolation for resizing: nearest, bilinear or bicubic."""
    crop_mode: str = "squash"
    """How to reach the aspect ratio: squash distorts, center crops, border pads with border pixels."""
    crop_pct: float = 1.0
    """Fraction of the image's height and width that the center crop keeps (squash and center)."""

    def __post_init__(self) -> None:
        problems = []
        if min(self.size) < 1:
            problems.append(f"size {self.size} must be positive")
        if self.channels < 1:
            problems.append(f"channels {self.channels} must be positive")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                problems.append(f"{name} has {len(values)} values for {self.channels} channels")
        if min(self.std, default=0) <= 0:
            problems.append(f"std {self.std} must be positive")
        if self.interpolation not in INTERPOLATIONS:
            problems.append(f"interpolation '{self.interpolation}' is not one of {', '.join(INTERPOLATIONS)}")
        if self.crop_mode not in CROP_MODES:
            problems.append(f"crop_mode '{self.crop_mode}' is not one of {', '.join(CROP_MODES)}")
        if not 0 < self.crop_pct <= 1:
            problems.append(f"crop_pct {self.crop_pct} must lie in (0, 1]")
        if problems:
            raise ConfigError("input: " + "; ".join(problems))

    @property
    def geometry(self) -> InputSpec:
        """The spec without mean and std, which the network applies itself: equal geometries give equal pixels."""
        return replace(self, mean=(0.5,), std=(0.5,))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InputSpec:
        """Rebuild from the result of `to_dict`."""
        tuples = {key: tuple(values[key]) for key in ("size", "mean", "std")}
        return cls(**{**values, **tuples})


@dataclass(frozen=True)
class Batch:
    """A batch of samples."""

    images: Tensor | tuple[Tensor, ...]
    """B C H W floats in [0, 1]; one tensor per member if members need different sizes."""
    targets: Tensor | None
    """Class indices (B, int64), soft or multi-label targets (B K, float), or None if unknown."""
    ids: tuple[str, ...]
    """B sample names, for messages and predictions."""
    labels: Tensor | None = None
    """Labels for metrics: class indices (B, int64) if `targets` are mixed; for multi-label, 0 and 1 (B K, int64; -1 if
    unknown). None: `targets` are the labels."""
    weights: Tensor | None = None
    """Weights of the samples in the loss (B, float); None: all are 1."""

    def __len__(self) -> int:
        return len(self.ids)

    def _map(self, function: Callable[[Tensor], Tensor], ids: tuple[str, ...]) -> Batch:
        images = tuple(map(function, self.images)) if isinstance(self.images, tuple) else function(self.images)
        columns = (self.targets, self.labels, self.weights)
        targets, labels, weights = (None if value is None else function(value) for value in columns)
        return Batch(images, targets, ids, labels, weights)

    def to(self, device: Any) -> Batch:
        """Return the batch on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True), self.ids)

    def rows(self, part: slice) -> Batch:
        """Return a slice of the samples."""
        return self._map(lambda tensor: tensor[part], self.ids[part])

    def shard(self, rank: int, world_size: int) -> Batch:
        """Return every `world_size`-th row starting at `rank`: this process's shard of a global batch."""
        return self if world_size == 1 else self.rows(slice(rank, None, world_size))


class BatchSource(Protocol):
    """Source of batches whose order depends only on the epoch, so that training resumes exactly."""

    def __len__(self) -> int:
        """Return the number of batches in one epoch."""
        ...

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of epoch `number` from batch `start` on; the same ones on every call."""
        ...
