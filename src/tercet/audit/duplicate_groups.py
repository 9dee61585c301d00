"""Duplicates that an audit finds, and the clusters that they connect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Method = Literal["pixels", "hash", "network"]
_KEPT_FIRST = ("test", "val", "train", "")  # a given test split stays complete, for comparison with other results


@dataclass(frozen=True)
class _Group:
    """Images with their splits and labels."""

    ids: tuple[str, ...]
    """Sample names."""
    splits: tuple[str, ...]
    """Split of each; empty if it has none."""
    labels: tuple[str, ...]
    """Class name of each; empty if unlabelled."""

    @property
    def crosses(self) -> bool:
        """Whether its images are in different splits."""
        return len(set(self.splits) - {""}) > 1

    @property
    def disagrees(self) -> bool:
        """Whether its images have different labels."""
        return len(set(self.labels) - {""}) > 1

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "crosses_splits": self.crosses, "labels_disagree": self.disagrees}


@dataclass(frozen=True)
class Duplicate(_Group):
    """A group of duplicate images: all with the same pixels, or a pair."""

    method: Method
    """How it was detected: identical pixels, perceptual hash, or network features."""
    similarity: float = 1.0
    """Correlation of the downscaled images, or cosine similarity of the features."""
    distance: int | None = None
    """Different hash bits, if detected by hash."""
    orientation: str = "identity"
    """Transform of the first image that yields the second."""

    def ordered(self, values: Sequence[str] | None = None) -> tuple[int, ...]:
        """Return the indices of all images, starting with one per value (default: per split, or label in one split)."""
        keys = values or (self.splits if self.crosses else self.labels)
        first = sorted({key: index for index, key in reversed([*enumerate(keys)]) if key}.values())
        return (*first, *(index for index in range(len(self.ids)) if index not in first))

    def equation(self, values: Sequence[str] | None = None) -> str:
        """Return the names of two images, of different values if possible (see `ordered`)."""
        return " = ".join(self.ids[index] for index in self.ordered(values)[:2])

    def between(self, split: str, other: str) -> str | None:
        """Return the names of one image per split; None if a split has none."""
        if not {split, other} <= {*self.splits}:
            return None
        return " = ".join(self.ids[self.splits.index(name)] for name in (split, other))


@dataclass(frozen=True)
class Leak:
    """Number of images of one split that have a duplicate in another."""

    split: str
    """The split whose images are counted."""
    other: str
    """The split of their duplicates."""
    images: int


@dataclass(frozen=True)
class Cluster(_Group):
    """Images that are connected by duplicates, starting with one per split, or per label in one split."""

    methods: tuple[Method, ...]
    """How its duplicates were detected."""
    similarity: float
    """Lowest similarity of its pairs."""

    @property
    def identical(self) -> bool:
        """Whether all images have the same pixels."""
        return self.methods == ("pixels",)

    def equation(self) -> str:
        """Return the names of up to three images."""
        return " = ".join(self.ids[:3]) + (f" = ... ({len(self.ids)} images)" if len(self.ids) > 3 else "")

    def kept(self) -> str:
        """Return the image to keep if the copies are left out: one of the test split, if there is any."""
        return self.ids[min(range(len(self.ids)), key=lambda index: (_KEPT_FIRST.index(self.splits[index]), index))]


def clusters_of(duplicates: Sequence[Duplicate]) -> tuple[Cluster, ...]:
    """Return the connected components of duplicates: across splits first, then different labels, then the largest."""
    members = {
        name: (split, label)
        for duplicate in duplicates
        for name, split, label in zip(duplicate.ids, duplicate.splits, duplicate.labels, strict=True)
    }
    if not members:
        return ()
    number = {name: index for index, name in enumerate(members)}
    edges = np.array([(number[item.ids[0]], number[name]) for item in duplicates for name in item.ids[1:]]).T
    graph = coo_array((np.ones(edges.shape[1], dtype=np.int8), tuple(edges)), shape=(len(members),) * 2)
    component = connected_components(graph, directed=False)[1].tolist()
    parts: dict[int, list[Duplicate]] = {}
    for duplicate in duplicates:
        parts.setdefault(component[number[duplicate.ids[0]]], []).append(duplicate)
    clusters = [_cluster(part, members) for part in parts.values()]
    return tuple(sorted(clusters, key=lambda item: (not item.crosses, not item.disagrees, -len(item.ids))))


def _cluster(duplicates: Sequence[Duplicate], members: dict[str, tuple[str, str]]) -> Cluster:
    names = list(dict.fromkeys(name for duplicate in duplicates for name in duplicate.ids))
    splits, labels = [members[name][0] for name in names], [members[name][1] for name in names]
    keys = splits if len(set(splits) - {""}) > 1 else labels
    first = {key: index for index, key in reversed([*enumerate(keys)])}
    order = sorted(range(len(names)), key=lambda index: (first[keys[index]] != index, index))
    methods: tuple[Method, ...] = tuple(dict.fromkeys(duplicate.method for duplicate in duplicates))
    lowest = min(duplicate.similarity for duplicate in duplicates)
    ids, splits, labels = ([values[index] for index in order] for values in (names, splits, labels))
    return Cluster(tuple(ids), tuple(splits), tuple(labels), methods, lowest)


def exclusions(duplicates: Sequence[Duplicate]) -> Iterator[tuple[str, str]]:
    """Yield the images to leave out so that no copy is left, with the reason: all but one of each cluster.

    Of copies with different labels all are left out. Similar features are not copies.
    """
    for cluster in clusters_of([duplicate for duplicate in duplicates if duplicate.method != "network"]):
        if cluster.disagrees:
            labels = ", ".join(sorted({*cluster.labels} - {""}))
            reason = f"copies with different labels ({labels}): remove the line of an image whose label is right"
            yield from ((name, reason) for name in cluster.ids)
        else:
            kept = cluster.kept()
            reason = f"{'identical to' if cluster.identical else 'near copies of'} {kept}"
            yield from ((name, reason) for name in cluster.ids if name != kept)
