"""Tables of images that are in memory.

Shapes: N images, H x W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tercet.data.images import Pixels
from tercet.data.samples import LEFT_OUT, Ints, SampleTable
from tercet.data.sources import ArraySource

Part = tuple[str, str, Ints]
"""Consecutive images: what their ids begin with, their split (empty where there is none), and their labels."""


def table_of_parts(images: Pixels, parts: Sequence[Part], *, name: str, classes: tuple[str, ...]) -> SampleTable:
    """Wrap images (N H W C) that come in parts; ids are the part's name and the row in it."""
    splits = tuple(split for _, split, labels in parts for _ in range(len(labels)))
    return SampleTable(
        name=name,
        ids=tuple(f"{part}-{row:05d}" for part, _, labels in parts for row in range(len(labels))),
        locations=tuple(str(row) for row in range(len(images))),
        labels=np.concatenate([labels for _, _, labels in parts]),
        classes=classes,
        source=ArraySource(images),
        splits=None if set(splits) == {LEFT_OUT} else splits,
    )
