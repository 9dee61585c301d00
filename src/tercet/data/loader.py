"""Batches whose order and augmentation are a pure function of seed, epoch and batch number.

Shapes: N rows, B images per batch, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import copy
import itertools
import signal
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from tercet.core.errors import ConfigError, DataError, MemoryExhausted
from tercet.core.resize import CropMode, Interpolation, fit_size, to_channels
from tercet.core.types import Batch, InputSpec
from tercet.data.augmentations import AUGMENTATIONS
from tercet.data.feature_table import FeatureTable
from tercet.data.image_cache import CachedImages
from tercet.data.pixel_values import Pixels
from tercet.data.table import UNLABELLED, Ints
from tercet.data.transforms import augment, cutmix, erase, mixup

_ORDER, _AUGMENT, _MIX, _ERASE = range(4)  # purposes of the random generators
_NATIVE_RATIO = 4  # images with at most this many times the pixels of the largest spec are augmented before the resize


def prepare(image: Pixels, spec: InputSpec) -> Tensor:
    """Convert one uint8 image H W C to the size and channels of `spec`: floats in [0, 1], C H W.

    Raises:
        ValueError: The number of channels is not compatible with the spec.
    """
    return _to_spec(_to_float(image[None]), spec)[0]


def _to_float(images: Pixels) -> Tensor:
    """Convert B H W C uint8 to B C H W floats in [0, 1]."""
    return torch.tensor(images).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _to_spec(images: Tensor, spec: InputSpec) -> Tensor:
    """Convert B C H W to the spec's channels and size; channels are reduced before the resize, repeated after it."""
    crop_mode: CropMode = spec.crop_mode  # type: ignore[assignment]  # InputSpec validates both
    interpolation: Interpolation = spec.interpolation  # type: ignore[assignment]
    if spec.channels < images.shape[1]:
        images = to_channels(images, spec.channels)
    images = fit_size(images, spec.size, crop_mode=crop_mode, crop_pct=spec.crop_pct, interpolation=interpolation)
    return to_channels(images, spec.channels).contiguous()


class _Assembler:
    """Assembles the images of a batch, one tensor (B C H W) per geometry; also used in worker processes."""

    def __init__(self, images: CachedImages, specs: Sequence[InputSpec]) -> None:
        self.images = images
        self.specs = {spec.geometry: spec for spec in specs}
        self.native = _keeps_native_size(images, specs)

    def __call__(self, rows: Ints) -> tuple[Tensor, ...]:
        if self.images.uniform_shape is not None:
            batch = _to_float(self.images.gather(rows))
            return (batch,) if self.native else tuple(_to_spec(batch, spec) for spec in self.specs.values())
        pixels = [self.images.read(int(row)) for row in rows]
        return tuple(torch.stack([prepare(image, spec) for image in pixels]) for spec in self.specs.values())


def _keeps_native_size(images: CachedImages, specs: Sequence[InputSpec]) -> bool:
    """Return whether batches keep the images' own size and the network's first layer resizes them.

    The result is the same and augmentation is cheaper if all images have one size, are only squashed, and are not much
    larger than the spec.
    """
    if images.uniform_shape is None or any(spec.crop_mode != "squash" or spec.crop_pct != 1 for spec in specs):
        return False
    largest = max(spec.size[0] * spec.size[1] for spec in specs)
    return images.uniform_shape[0] * images.uniform_shape[1] <= _NATIVE_RATIO * largest


class _BatchDataset(torch.utils.data.Dataset[tuple[Tensor, ...] | str]):
    """One batch per item, for worker processes; an error is returned as its message, since it must stay one line."""

    def __init__(self, assemble: _Assembler, batches: Sequence[Ints]) -> None:
        self.assemble, self.batches = assemble, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Tensor, ...] | str:
        try:
            return self.assemble(self.batches[index])
        except DataError as error:
            return str(error)


def _reset_signals(worker: int) -> None:
    """Ignore Ctrl-C, which the parent handles, and restore the default action of SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class ImageLoader:
    """Batches of cached images. `epoch` is a pure function, so a training resumes exactly at any batch.

    The images of a batch are one tensor, or one per spec if the specs have different geometries. A last training batch
    of a single image is merged into the previous batch, since batch normalisation needs at least two.

    Args:
        images: The decoded images.
        rows: N positions in `images`.
        ids: N sample names, in the order of `rows`.
        labels: N class indices or N K multi-hot labels, in the order of `rows`; -1 or None if unknown.
        num_classes: K.
        specs: Input spec of each network.
        batch_size: Images per batch.
        seed: Seed of order, augmentation and mixing.
        shuffle: Draw a new order each epoch.
        augment: Name of an augmentation.
        random_erasing: Probability of random erasing; 0 is off.
        mixup: Alpha of Mixup; 0 is off.
        cutmix: Alpha of CutMix; 0 is off. With both, each batch uses one of them with equal probability.
        balanced: Draw every class equally often, with replacement; N draws per epoch.
        num_workers: Decoding processes, if images are decoded on demand.
        weights: N weights in the loss, in the order of `rows`; None if all are 1.

    Raises:
        ConfigError: The augmentation is unknown, or the channels do not fit a network.
        ValueError: Columns differ in length, or labels that mixing or balancing needs are missing.
    """

    def __init__(
        self,
        images: CachedImages,
        rows: ArrayLike,
        *,
        ids: Sequence[str],
        labels: ArrayLike | None,
        num_classes: int,
        specs: Sequence[InputSpec],
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        augment: str = "none",
        random_erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        balanced: bool = False,
        num_workers: int = 0,
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        self._rows = np.asarray(rows, dtype=np.int64)
        self._ids = tuple(ids)
        unknown = np.full(len(self._rows), UNLABELLED)
        self._labels = np.asarray(unknown if labels is None else labels, dtype=np.int64)
        self._known = bool((self._labels != UNLABELLED).any())
        self._num_classes, self._batch_size, self._seed = num_classes, batch_size, seed
        self._shuffle, self._balanced = shuffle, balanced
        self._augment, self._random_erasing, self._mixup, self._cutmix = augment, random_erasing, mixup, cutmix
        self._num_workers, self._weights = num_workers if images.on_demand else 0, weights
        self._features: FeatureTable | None = None
        self._check(images, specs)
        self._assemble = _Assembler(images, specs)
        self._branches = [list(self._assemble.specs).index(spec.geometry) for spec in specs]

    def _check(self, images: CachedImages, specs: Sequence[InputSpec]) -> None:
        if not len(self._rows) == len(self._ids) == len(self._labels):
            counts = f"{len(self._rows)} rows, {len(self._ids)} ids and {len(self._labels)} labels"
            raise ValueError(f"{counts}: the numbers must be equal")
        if not specs or self._batch_size < 1:
            raise ValueError("a loader needs a spec and a positive batch size")
        _ = AUGMENTATIONS[self._augment]  # raises for unknown names
        for spec in specs:
            if images.channels != 1 and spec.channels not in (1, images.channels):
                raise ConfigError(
                    f"images have {images.channels} channels, the network expects {spec.channels}: set --input.channels"
                )
        needs_labels = self._balanced or self._mixup or self._cutmix
        if needs_labels and (self._labels == UNLABELLED).any():
            raise ValueError("class-balanced sampling, Mixup and CutMix need a label for every row")

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return len(self._boundaries()) - 1

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of epoch `number` from batch `start` on; equal calls yield equal batches.

        Raises:
            DataError: An image can no longer be read.
        """
        order, bounds = self._order(number), self._boundaries()
        batches = [order[low:high] for low, high in itertools.pairwise(bounds)][start:]
        for offset, (positions, images) in enumerate(zip(batches, self._load_images(batches), strict=True)):
            yield self._batch(positions, images, number=number, index=start + offset)

    def _boundaries(self) -> list[int]:
        """Return the start of every batch, and the end of the last."""
        total = len(self._rows)
        bounds = [*range(0, total, self._batch_size), total]
        training = self._shuffle or self._balanced
        if training and self._batch_size > 1 and len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:
            del bounds[-2]
        return bounds if total else [0]

    def _generator(self, *key: int) -> torch.Generator:
        """Return a generator seeded by the loader's seed and `key`."""
        state = np.random.SeedSequence([self._seed, *key]).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))

    def _order(self, number: int) -> Ints:
        """Return positions within the rows (N), in the order of epoch `number`."""
        total = len(self._rows)
        generator = self._generator(_ORDER, number)
        if self._balanced and total:
            return self._balanced_order(generator)
        if self._shuffle:
            return np.asarray(torch.randperm(total, generator=generator).numpy())
        return np.arange(total, dtype=np.int64)

    def _balanced_order(self, generator: torch.Generator) -> Ints:
        """Draw N positions, every class N / K times (rounded), with replacement within a class."""
        by_label = np.argsort(self._labels, kind="stable")
        present, first, counts = np.unique(self._labels[by_label], return_index=True, return_counts=True)
        total = len(self._rows)
        rounds = -(-total // len(present))
        classes = torch.cat([torch.randperm(len(present), generator=generator) for _ in range(rounds)])[:total].numpy()
        offsets = torch.rand(total, generator=generator, dtype=torch.float64).numpy() * counts[classes]
        positions = by_label[first[classes] + offsets.astype(np.int64)]
        return np.asarray(positions[torch.randperm(total, generator=generator).numpy()])

    def with_features(self, features: FeatureTable) -> ImageLoader:
        """Return a loader of the same samples in the same order, whose batches hold `features[row]` as images.

        Raises:
            ValueError: The loader changes images at random.
        """
        if self._augment != "none" or self._random_erasing or self._mixup or self._cutmix:
            raise ValueError("features belong to images that are not changed at random")
        loader = copy.copy(self)
        loader._features = features
        return loader

    def _load_images(self, batches: Sequence[Ints]) -> Iterator[tuple[Tensor, ...]]:
        """Yield the images of each batch, before augmentation, or their features."""
        if self._features is not None:
            yield from ((torch.from_numpy(self._features[self._rows[positions]]),) for positions in batches)
            return
        if not self._num_workers or not batches:
            yield from (self._assemble(self._rows[positions]) for positions in batches)
            return
        loader = DataLoader(
            _BatchDataset(self._assemble, [self._rows[positions] for positions in batches]),
            batch_size=None,
            num_workers=self._num_workers,
            generator=torch.Generator().manual_seed(0),  # without it, DataLoader advances the global generator
            worker_init_fn=_reset_signals,
        )
        try:
            for images in loader:
                if isinstance(images, str):
                    raise DataError(images)
                yield tuple(images)
        except RuntimeError as error:
            raise MemoryExhausted(f"a decoding process died ({error}): lower --data.num-workers") from error

    def _batch(self, positions: Ints, images: Sequence[Tensor], *, number: int, index: int) -> Batch:
        labels = torch.from_numpy(self._labels[positions])
        ids = tuple(self._ids[position] for position in positions)
        # every geometry gets the same draws, so that all networks are trained on the same augmented image
        images = [augment(image, self._augment, self._generator(_AUGMENT, number, index)) for image in images]
        if self._random_erasing:
            images = [erase(image, self._random_erasing, self._generator(_ERASE, number, index)) for image in images]
        weights = None if self._weights is None else torch.from_numpy(self._weights[positions])
        multilabel = labels.ndim == 2
        if not self._mixup and not self._cutmix:
            targets = labels.to(torch.float32) if multilabel else labels
            hard_labels = labels if multilabel else None
            return Batch(self._per_branch(images), targets if self._known else None, ids, hard_labels, weights)
        one_hot = (labels if multilabel else functional.one_hot(labels, self._num_classes)).to(torch.float32)
        columns = one_hot if weights is None else torch.cat([one_hot, weights[:, None]], dim=1)  # all are mixed alike
        mixed = [self._mix(image, columns, self._generator(_MIX, number, index)) for image in images]
        targets, weights = mixed[0][1][:, : one_hot.shape[1]], None if weights is None else mixed[0][1][:, -1]
        return Batch(self._per_branch([image for image, _ in mixed]), targets, ids, labels, weights)

    def _mix(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self._cutmix and (not self._mixup or bool(torch.rand(1, generator=generator) < 0.5)):
            return cutmix(images, targets, alpha=self._cutmix, generator=generator)
        return mixup(images, targets, alpha=self._mixup, generator=generator)

    def _per_branch(self, images: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """Return a single tensor if all networks share a geometry, else one tensor per network."""
        return images[0] if len(images) == 1 else tuple(images[branch] for branch in self._branches)
