"""Images as people hand them over, as batches for networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from tercet.data.loading import prepare
from tercet.deploy.loose import ImageLike, LoosePictures
from tercet.records.contracts import Batch, InputSpec


class LooseImages(LoosePictures):
    """Images of any kind and size as batches: one tensor B C H W a spec, decoded when they are asked for.

    Args:
        images: Paths, folders, uint8 arrays or PIL images; one or many.
        specs: What each network wants to be shown.
        batch_size: Images a batch.
        skip_bad: Leave out images that cannot be read, and list them in `bad`, instead of raising.

    Raises:
        ConfigError: The batch size is not positive.
        DataError: There is no image, or two have the same name; while iterating: an image cannot be read.
    """

    def __init__(
        self,
        images: ImageLike | Sequence[ImageLike],
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
        """Yield the images in the order they were given; `bad` then lists those of this pass."""
        self.bad = []
        for first in range(start * self.batch_size, len(self.items), self.batch_size):
            part = self.items[first : first + self.batch_size]
            read = [(name, pixels) for name, image in part if (pixels := self._read(name, image)) is not None]
            if read:
                views = tuple(torch.stack([prepare(pixels, spec) for _, pixels in read]) for spec in self.specs)
                yield Batch(views, None, tuple(name for name, _ in read))
