"""Data sets of consecutive parts of one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tercet.data.memory_sources import ArraySource
from tercet.data.pixel_values import Pixels
from tercet.data.table import LEFT_OUT, Ints, SampleTable

ArrayPart = tuple[str, str, Ints]
"""Consecutive images of an array: prefix of their ids, split (empty: none), and labels."""


def table_of_parts(images: Pixels, parts: Sequence[ArrayPart], *, name: str, classes: tuple[str, ...]) -> SampleTable:
    """Wrap images (N H W C) that consist of consecutive parts; an id is the part's prefix and the row within it."""
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
