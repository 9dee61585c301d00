"""User-supplied images (paths, folders, arrays, PIL images) as batches of tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch

from tercet.core.errors import raise_problems
from tercet.core.types import Batch, BatchSource, InputSpec
from tercet.data.inputs import AnyImages, ImageInputs, LabelledImages
from tercet.data.loader import ImageLoader, prepare


class InputBatches:
    """Images of any kind and size as batches of one tensor B C H W per spec, decoded on iteration.

    Args:
        images: Paths, folders, arrays or PIL images, one or many; a Dataset, DataFrame or `SampleTable`.
        specs: Inputs of the networks.
        batch_size: Images per batch.

    Raises:
        ConfigError: The batch size is not positive.
        DataError: There are no images, or two have the same name; on iteration: an image cannot be read.
    """

    def __init__(self, images: AnyImages, specs: Sequence[InputSpec], *, batch_size: int) -> None:
        raise_problems([batch_size < 1 and f"batch_size {batch_size} must be positive"])
        self.inputs, self.specs, self.batch_size = ImageInputs.of(images), tuple(specs), batch_size

    def __len__(self) -> int:
        return -(-len(self.inputs.items) // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the images in their order; `inputs.bad` then lists the unreadable images of this pass."""
        images = self.inputs.pixels(start * self.batch_size)
        while batch := [*itertools.islice(images, self.batch_size)]:
            tensors = tuple(torch.stack([prepare(pixels, spec) for _, pixels in batch]) for spec in self.specs)
            yield Batch(tensors, None, tuple(name for name, _ in batch))


def batches_of(source: ImageInputs | LabelledImages, specs: Sequence[InputSpec], *, batch_size: int) -> BatchSource:
    """Return images as batches of tensors, for networks with these inputs."""
    if isinstance(source, ImageInputs):
        return InputBatches(source, specs, batch_size=batch_size)
    return ImageLoader(
        source.images,
        source.rows,
        ids=source.ids,
        labels=source.labels,
        num_classes=0,  # only needed to mix images
        specs=specs,
        batch_size=batch_size,
        num_workers=source.num_workers,
    )
