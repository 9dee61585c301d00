"""Compute the audit result from a table, the inspection of its images, and the duplicates among them.

N rows of the table, M readable images, F features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.audit.duplicate_groups import Duplicate, Leak, Method
from tercet.audit.inspect import Inspection
from tercet.audit.quality import odd_images
from tercet.audit.result import AuditResult, LabelCheck
from tercet.config.commands import AuditConfig
from tercet.config.run import DataConfig
from tercet.data.copies import with_copies
from tercet.data.data_module import preview_splits, read_problems
from tercet.data.duplicate_pairs import PairList, PairSearch
from tercet.data.duplicates import exact_groups, near_pairs, similar_pairs
from tercet.data.perceptual_hashes import ORIENTATIONS
from tercet.data.splits import initial_splits
from tercet.data.table import LEFT_OUT, SPLITS, UNLABELLED, Ints, SampleTable


def check_table(
    table: SampleTable,
    inspection: Inspection,
    config: DataConfig,
    options: AuditConfig,
    *,
    features: NDArray[np.floating[Any]] | None = None,
    labels: LabelCheck | None = None,
) -> AuditResult:
    """Run all checks.

    Args:
        table: All N samples, including unreadable ones.
        inspection: Inspection of their images.
        config: How training would split the data.
        options: Thresholds of the checks.
        features: M 8 F, features of the readable images in each orientation, for additional duplicates.
        labels: Label check with the predictions of a run.
    """
    readable = with_copies(table.take(inspection.rows), inspection.traits(), config)
    preview = preview_splits(readable, config)
    split = preview.table
    duplicates = find_duplicates(split, inspection, options, features)
    small, grouped = _small_classes(readable, options.folds)
    shapes = Counter((int(height), int(width)) for height, width in inspection.sizes)
    parts = {name: _rows_of(split, name) for name in _used_splits(split)}
    return AuditResult(
        name=table.name,
        classes=table.classes,
        multilabel=table.membership is not None,
        images=len(table),
        unlabelled=int((readable.labels == UNLABELLED).sum()),
        counts=_counts(readable),
        by_split={name: _counts(part) for name, part in parts.items()},
        split_sizes={name: len(part) for name, part in parts.items()},
        split_source=preview.description,
        given_splits=table.splits is not None,
        training_errors=(*read_problems(table, inspection.bad, config), *preview.problems),
        unreadable=inspection.bad,
        missing_files=table.missing,
        empty_folders=table.empty,
        sizes=tuple((height, width, count) for (height, width), count in shapes.most_common()),
        modes=tuple(Counter(inspection.modes).most_common()),
        uniform=tuple(readable.ids[row] for row in np.flatnonzero(inspection.uniform)),
        odd=odd_images(readable.ids, inspection.grey, inspection.sharpness, inspection.sizes),
        duplicates=duplicates.duplicates,
        complete=duplicates.complete,
        leaks_complete=duplicates.leaks_complete,
        max_hash_distance=options.max_hash_distance,
        leaks=duplicates.leaks,
        leaking_groups=_leaking_groups(readable),
        folds=options.folds,
        small_classes=small,
        small_unit="groups" if grouped else "images",
        missing_classes=_missing_classes(readable),
        max_imbalance=options.imbalance,
        labels=labels,
        notes=(*table.notes, *preview.notes),
        skipped=table.skipped,
    )


def _counts(table: SampleTable) -> dict[str, int]:
    return dict(zip(table.classes, table.class_counts().tolist(), strict=True))


def _used_splits(table: SampleTable) -> list[str]:
    """Return the non-empty splits in order; rows that are left out come last."""
    used = set(table.splits or ())
    return [split for split in (*SPLITS, LEFT_OUT) if split in used]


def _rows_of(table: SampleTable, split: str) -> SampleTable:
    return table.take(np.array(table.splits, dtype=np.str_) == split)


def _leaking_groups(table: SampleTable) -> dict[str, tuple[str, ...]]:
    """Return the groups in more than one given split; rows that training leaves out do not count."""
    if table.groups is None or table.splits is None:
        return {}
    splits_of: dict[str, set[str]] = {}
    for group, split in zip(table.groups, initial_splits(table).tolist(), strict=True):
        splits_of.setdefault(group, set()).add(split)
    ordered = {group: tuple(split for split in SPLITS if split in splits) for group, splits in splits_of.items()}
    return {group: splits for group, splits in ordered.items() if len(splits) > 1}


def _small_classes(table: SampleTable, folds: int) -> tuple[dict[str, int], bool]:
    """Return classes with fewer images, or groups, than folds outside a given test split; and if groups are counted."""
    pool = table if table.splits is None else table.take(np.array(table.splits, dtype=np.str_) != "test")
    grouped = pool.groups is not None
    counts = _groups_by_class(pool) if grouped else _counts(pool)
    return {name: count for name, count in counts.items() if count < folds}, grouped


def _groups_by_class(table: SampleTable) -> dict[str, int]:
    groups = np.unique(np.array(table.groups), return_inverse=True)[1]
    if table.membership is not None:
        by_class = [groups[table.membership[:, label]] for label in range(table.num_classes)]
    else:
        by_class = [groups[table.labels == label] for label in range(table.num_classes)]
    return {name: len(np.unique(members)) for name, members in zip(table.classes, by_class, strict=True)}


def _missing_classes(table: SampleTable) -> dict[str, tuple[str, ...]]:
    """Return the classes without images, by given split; splits without any labels are skipped."""
    if table.splits is None:
        return {}
    missing = {}
    for split in _used_splits(table):
        counts = _rows_of(table, split).class_counts()
        if split and counts.any() and not counts.all():
            missing[split] = tuple(table.classes[label] for label in np.flatnonzero(counts == 0))
    return missing


@dataclass(frozen=True)
class DuplicateResult:
    """The duplicates in a table."""

    duplicates: tuple[Duplicate, ...]
    """Across splits first, then with conflicting labels; within each kind exact ones first, then by similarity."""
    leaks: tuple[Leak, ...]
    complete: bool
    """Whether all pairs are listed."""
    leaks_complete: bool
    """Whether all pairs across splits were compared."""


def find_duplicates(
    table: SampleTable, inspection: Inspection, options: AuditConfig, features: NDArray[np.floating[Any]] | None
) -> DuplicateResult:
    """Return the duplicates among M readable images; without features (M 8 F), only hashes are compared."""
    exact = exact_groups(inspection.digests)
    first_of = np.arange(len(table))  # the first of identical images
    for group in exact:
        first_of[group] = group[0]
    split_bits = np.array([_SPLIT_BITS[split] for split in table.splits or ("",) * len(table)], dtype=np.int64)
    all_bits = np.zeros(len(table), dtype=np.int64)
    np.bitwise_or.at(all_bits, first_of, split_bits)
    chosen = np.flatnonzero((first_of == np.arange(len(table))) & ~np.array(inspection.uniform, dtype=np.bool_))
    near = network = PairSearch(all_bits, max_pairs=0, min_similarity=0).pairs()  # none
    if options.max_hash_distance is not None and inspection.hashes is not None:
        hashes, grey = inspection.hashes[chosen], inspection.grey[chosen]
        pairs = near_pairs(hashes, grey, max_distance=options.max_hash_distance, splits=all_bits[chosen])
        near = _to_table_rows(pairs, chosen)
    if features is not None:
        pairs = similar_pairs(features[chosen], min_similarity=options.similarity, splits=all_bits[chosen])
        network = _to_table_rows(pairs, chosen)
    known = set(zip(near.first.tolist(), near.second.tolist(), strict=True))
    network_pairs = zip(network.first.tolist(), network.second.tolist(), strict=True)
    new = network.take(np.array([row for row, pair in enumerate(network_pairs) if pair not in known], dtype=np.int64))
    members = {int(group[0]): _first_per_split(group.tolist(), table.splits) for group in exact} if table.splits else {}
    builder = _DuplicateBuilder(table, table.label_names(), members)
    duplicates = [*map(builder.group, exact), *builder.pairs(near, "hash"), *builder.pairs(new, "network")]
    return DuplicateResult(
        tuple(sorted(duplicates, key=lambda item: (not item.crosses, not item.disagrees))),
        _leaks(split_bits, all_bits, first_of, [near, network]),
        near.complete and network.complete,
        near.all_crossing and network.all_crossing,
    )


_SPLIT_BITS = {"": 0} | {split: 1 << index for index, split in enumerate(SPLITS)}


def _to_table_rows(pairs: PairList, rows: Ints) -> PairList:
    return replace(pairs, first=rows[pairs.first], second=rows[pairs.second])


def _leaks(split_bits: Ints, all_bits: Ints, first_of: Ints, pairs: Sequence[PairList]) -> tuple[Leak, ...]:
    """Count the images of each split that have a direct duplicate in another split.

    The first of identical images, in row `first_of` (M), has the splits of all of them in `all_bits` (M).
    """
    known, bits = all_bits.copy(), _SPLIT_BITS
    for part in pairs:
        np.bitwise_or.at(known, part.first, all_bits[part.second])
        np.bitwise_or.at(known, part.second, all_bits[part.first])
    counts = [
        Leak(split, other, int(((split_bits == bits[split]) & (known[first_of] & bits[other] != 0)).sum()))
        for split, other in (("val", "train"), ("test", "train"), ("test", "val"))
    ]
    return tuple(leak for leak in counts if leak.images)


@dataclass(frozen=True)
class _DuplicateBuilder:
    """Creates `Duplicate` values from rows of a table."""

    table: SampleTable
    labels: Sequence[str]
    members: Mapping[int, list[int]]
    """By the first of identical images: one of them per split."""

    def group(self, rows: Ints) -> Duplicate:
        return Duplicate(*self._describe(rows.tolist()), method="pixels")

    def pairs(self, pairs: PairList, method: Method) -> Iterator[Duplicate]:
        """Yield each pair; identical images are represented by those that make the pair cross splits, if any."""
        for index, (first, second) in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)):
            distance = int(pairs.distance[index])
            yield Duplicate(
                *self._describe(self._prefer_crossing(first, second)),
                method=method,
                similarity=round(float(pairs.similarity[index]), 4),
                distance=None if distance < 0 else distance,
                orientation=ORIENTATIONS[int(pairs.orientation[index])],
            )

    def _prefer_crossing(self, first: int, second: int) -> tuple[int, int]:
        splits, members = self.table.splits, self.members
        if splits is None or not {first, second} & members.keys():
            return first, second
        firsts, seconds = members.get(first, [first]), members.get(second, [second])
        crossing = ((row, other) for row in firsts for other in seconds if splits[row] != splits[other])
        return next(crossing, (first, second))

    def _describe(self, rows: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Return ids, splits and labels."""
        table = self.table
        splits = tuple(table.splits[row] for row in rows) if table.splits else ("",) * len(rows)
        return tuple(table.ids[row] for row in rows), splits, tuple(self.labels[row] for row in rows)


def _first_per_split(rows: Sequence[int], splits: Sequence[str]) -> list[int]:
    """Return the first row of every split, or the first row if all rows are left out."""
    return list({splits[row]: row for row in reversed(rows) if splits[row]}.values()) or list(rows[:1])
