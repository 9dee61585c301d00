"""User-supplied images (paths, folders, arrays, PIL images) as batches of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from tercet.core.types import Batch, InputSpec
from tercet.data.inputs import ImageInputs, ImageLike
from tercet.data.loader import prepare


class InputBatches(ImageInputs):
    """Images of any kind and size as batches of one tensor B C H W per spec, decoded on iteration.

    Args:
        images: Paths, folders, arrays or PIL images, one or many; a Dataset, DataFrame or `SampleTable`.
        specs: Inputs of the networks.
        batch_size: Images per batch.
        skip_bad: Skip unreadable images and list them in `bad`, instead of raising.

    Raises:
        ConfigError: The batch size is not positive.
        DataError: There are no images, or two have the same name; on iteration: an image cannot be read.
    """

    def __init__(
        self,
        images: ImageLike,
        specs: Sequence[InputSpec],
        *,
        batch_size: int,
        skip_bad: bool = False,
    ) -> None:
        super().__init__(images, batch_size=batch_size, skip_bad=skip_bad)
        self.specs = tuple(specs)

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the images in their order; `bad` then lists the unreadable images of this pass."""
        self.bad = []
        for first in range(start * self.batch_size, len(self.items), self.batch_size):
            items = self.items[first : first + self.batch_size]
            images = [(name, pixels) for name, image in items if (pixels := self._read(name, image)) is not None]
            if images:
                tensors = tuple(torch.stack([prepare(pixels, spec) for _, pixels in images]) for spec in self.specs)
                yield Batch(tensors, None, tuple(name for name, _ in images))
