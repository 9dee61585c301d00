"""Batches in an order that is a pure function of seed, epoch and batch number.

Shapes: N rows, B images a batch, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from tercet.core.errors import ConfigError, DataError, MemoryExhausted
from tercet.core.registry import did_you_mean
from tercet.core.resize import CropMode, Interpolation, fit_size, to_channels
from tercet.core.types import Batch, InputSpec
from tercet.data.decode import Pixels
from tercet.data.image_cache import CachedImages
from tercet.data.table import UNLABELLED, Ints
from tercet.data.transforms import PRESETS, augment, cutmix, erase, mixup

_ORDER, _AUGMENT, _MIX, _ERASE = range(4)  # what a generator is for
_NATIVE_RATIO = 4  # images of up to so many times the pixels of the largest spec are augmented at their own size

CropGeometry = tuple[tuple[int, int], int, str, str, float]
BatchMixer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def prepare(image: Pixels, spec: InputSpec) -> Tensor:
    """Turn one uint8 image H W C into what `spec` asks for: floats in [0, 1], C H W.

    Raises:
        ValueError: The channels can be neither repeated nor reduced to the spec's.
    """
    return _to_spec(_to_float(image[None]), spec)[0]


def _to_float(images: Pixels) -> Tensor:
    """Turn B H W C uint8 into B C H W floats in [0, 1]."""
    return torch.tensor(images).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _to_spec(images: Tensor, spec: InputSpec) -> Tensor:
    """Bring B C H W to the spec's channels and size; channels are few during the resize."""
    crop_mode: CropMode = spec.crop_mode  # type: ignore[assignment]  # InputSpec has checked both words
    interpolation: Interpolation = spec.interpolation  # type: ignore[assignment]
    if spec.channels < images.shape[1]:
        images = to_channels(images, spec.channels)
    images = fit_size(images, spec.size, crop_mode=crop_mode, crop_pct=spec.crop_pct, interpolation=interpolation)
    return to_channels(images, spec.channels).contiguous()


def _geometry(spec: InputSpec) -> CropGeometry:
    """Return what of a spec decides its pixels; mean and std are applied by the network."""
    return spec.size, spec.channels, spec.interpolation, spec.crop_mode, spec.crop_pct


class _Assembler:
    """Makes the images of a batch from a store, one tensor (B C H W) a geometry; also within worker processes."""

    def __init__(self, store: CachedImages, specs: Sequence[InputSpec]) -> None:
        self.store = store
        self.specs = {_geometry(spec): spec for spec in specs}
        self.native = _native(store, specs)

    def __call__(self, rows: Ints) -> tuple[Tensor, ...]:
        if self.store.uniform_shape is not None:
            images = _to_float(self.store.gather(rows))
            return (images,) if self.native else tuple(_to_spec(images, spec) for spec in self.specs.values())
        pixels = [self.store.read(int(row)) for row in rows]
        return tuple(torch.stack([prepare(image, spec) for image in pixels]) for spec in self.specs.values())


def _native(store: CachedImages, specs: Sequence[InputSpec]) -> bool:
    """Return whether batches carry images at their own size, for the network's first layer to resize.

    That is equal, and augmentation is cheaper there: all images of one size, only squashed, and not much larger.
    """
    if store.uniform_shape is None or any(spec.crop_mode != "squash" or spec.crop_pct != 1 for spec in specs):
        return False
    largest = max(spec.size[0] * spec.size[1] for spec in specs)
    return store.uniform_shape[0] * store.uniform_shape[1] <= _NATIVE_RATIO * largest


class _Decoding(torch.utils.data.Dataset[tuple[Tensor, ...] | str]):
    """One batch an item, for worker processes; a fault comes back as its message, in one line."""

    def __init__(self, assemble: _Assembler, batches: Sequence[Ints]) -> None:
        self.assemble, self.batches = assemble, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Tensor, ...] | str:
        try:
            return self.assemble(self.batches[index])
        except DataError as error:
            return str(error)


def _leave_signals(worker: int) -> None:
    """Let the parent alone answer Ctrl-C, and end this process at a plain SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class ImageLoader:
    """Batches of a store's rows; `epoch` is a pure function, so a training resumes at any batch exactly.

    The images of a batch are one tensor, or one a spec where the specs need different pixels. Training batches never
    hold a single image where others could join it, since batch normalisation cannot learn from one: such a last one
    joins the batch before.

    Args:
        store: The decoded images.
        rows: N positions in the store.
        ids: N sample names, in the order of `rows`.
        labels: N class indices, or sets (N K) of 0 and 1, in the order of `rows`; -1 or None where unknown.
        num_classes: K.
        specs: What each network wants to see.
        batch_size: Images a batch.
        seed: Seed of order, augmentation and mixing.
        shuffle: Draw a new order each epoch.
        augment: Name of an augmentation preset.
        random_erasing: Probability of random erasing; 0 is off.
        mixup: Alpha of Mixup; 0 is off.
        cutmix: Alpha of CutMix; 0 is off. With both, each batch takes one of them, evenly.
        balanced: Draw every class equally often, with replacement; N draws an epoch, in a new order each.
        num_workers: Processes that decode, where the store decodes on demand.

    Raises:
        ConfigError: An unknown preset, or channels that a network cannot read.
        ValueError: Columns of different lengths, or labels that mixing and balancing need but miss.
    """

    def __init__(
        self,
        store: CachedImages,
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
    ) -> None:
        self._rows = np.asarray(rows, dtype=np.int64)
        self._ids = tuple(ids)
        unknown = np.full(len(self._rows), UNLABELLED)
        self._labels = np.asarray(unknown if labels is None else labels, dtype=np.int64)
        self._known = bool((self._labels != UNLABELLED).any())
        self._num_classes, self._batch_size, self._seed = num_classes, batch_size, seed
        self._shuffle, self._balanced = shuffle, balanced
        self._augment, self._random_erasing, self._mixup, self._cutmix = augment, random_erasing, mixup, cutmix
        self._num_workers = num_workers if store.on_demand else 0
        self._check(store, specs)
        self._assemble = _Assembler(store, specs)
        self._branches = [list(self._assemble.specs).index(_geometry(spec)) for spec in specs]

    def _check(self, store: CachedImages, specs: Sequence[InputSpec]) -> None:
        if not len(self._rows) == len(self._ids) == len(self._labels):
            raise ValueError(f"{len(self._rows)} rows, {len(self._ids)} ids and {len(self._labels)} labels: one each")
        if not specs or self._batch_size < 1:
            raise ValueError("a loader needs a spec and a positive batch size")
        if self._augment not in PRESETS:
            raise ConfigError(f"unknown augmentation '{self._augment}'{did_you_mean(self._augment, PRESETS)}")
        for spec in specs:
            if store.channels != 1 and spec.channels not in (1, store.channels):
                have, want = store.channels, spec.channels
                raise ConfigError(f"images have {have} channels, the network reads {want}: set --input.channels")
        needs_labels = self._balanced or self._mixup or self._cutmix
        if needs_labels and (self._labels == UNLABELLED).any():
            raise ValueError("balanced drawing, Mixup and CutMix need a label for every row")

    def __len__(self) -> int:
        """Return the number of batches in one epoch."""
        return len(self._cuts()) - 1

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of epoch `number` from batch `start` on: the same ones every time.

        Raises:
            DataError: An image can no longer be read.
        """
        order, cuts = self._order(number), self._cuts()
        parts = [order[low:high] for low, high in itertools.pairwise(cuts)][start:]
        for offset, (part, images) in enumerate(zip(parts, self._images(parts), strict=True)):
            yield self._batch(part, images, number=number, index=start + offset)

    def _cuts(self) -> list[int]:
        """Return where batches begin, and the end."""
        total = len(self._rows)
        cuts = [*range(0, total, self._batch_size), total]
        if (self._shuffle or self._balanced) and self._batch_size > 1 and len(cuts) > 2 and cuts[-1] - cuts[-2] == 1:
            del cuts[-2]
        return cuts if total else [0]

    def _generator(self, *key: int) -> torch.Generator:
        """Return a generator that depends on the seed and `key` only."""
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
        """Draw N positions, every class N / K times up to one, its rows with replacement."""
        by_label = np.argsort(self._labels, kind="stable")
        present, first, counts = np.unique(self._labels[by_label], return_index=True, return_counts=True)
        total = len(self._rows)
        turns = -(-total // len(present))
        classes = torch.cat([torch.randperm(len(present), generator=generator) for _ in range(turns)])[:total].numpy()
        places = torch.rand(total, generator=generator, dtype=torch.float64).numpy() * counts[classes]
        drawn = by_label[first[classes] + places.astype(np.int64)]
        return np.asarray(drawn[torch.randperm(total, generator=generator).numpy()])

    def _images(self, parts: Sequence[Ints]) -> Iterator[tuple[Tensor, ...]]:
        """Yield the images of each batch as stored, decoded by workers where that is asked for."""
        if not self._num_workers or not parts:
            yield from (self._assemble(self._rows[part]) for part in parts)
            return
        dataset = _Decoding(self._assemble, [self._rows[part] for part in parts])
        own = torch.Generator().manual_seed(0)  # else the loader would draw from the global generator
        loader = DataLoader(
            dataset, batch_size=None, num_workers=self._num_workers, generator=own, worker_init_fn=_leave_signals
        )
        try:
            for images in loader:
                if isinstance(images, str):
                    raise DataError(images)
                yield tuple(images)
        except RuntimeError as error:
            raise MemoryExhausted(f"a decoding process died ({error}): lower --data.num-workers") from error

    def _batch(self, part: Ints, images: tuple[Tensor, ...], *, number: int, index: int) -> Batch:
        labels = torch.from_numpy(self._labels[part])
        ids = tuple(self._ids[row] for row in part)
        moved = [augment(image, self._augment, self._generator(_AUGMENT, number, index)) for image in images]
        if self._random_erasing:
            moved = [erase(image, self._random_erasing, self._generator(_ERASE, number, index)) for image in moved]
        sets = labels.ndim == 2
        if not self._mixup and not self._cutmix:
            targets = labels.to(torch.float32) if sets else labels
            return Batch(self._per_branch(moved), targets if self._known else None, ids, labels if sets else None)
        hard = (labels if sets else functional.one_hot(labels, self._num_classes)).to(torch.float32)
        mixed = [self._mix(image, hard, self._generator(_MIX, number, index)) for image in moved]
        return Batch(self._per_branch([image for image, _ in mixed]), mixed[0][1], ids, labels)

    def _mix(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        cut = bool(self._cutmix) and (not self._mixup or bool(torch.rand(1, generator=generator) < 0.5))
        if cut:
            return cutmix(images, targets, alpha=self._cutmix, generator=generator)
        return mixup(images, targets, alpha=self._mixup, generator=generator)

    def _per_branch(self, images: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """Return one tensor where all branches see the same, else one a branch."""
        return images[0] if len(images) == 1 else tuple(images[branch] for branch in self._branches)
