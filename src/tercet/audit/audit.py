"""From a table and what was seen of its images to findings.

N rows of the table, M readable images, K classes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.audit.copies import find_copies
from tercet.audit.inspect import Inspection
from tercet.audit.result import AuditResult, LabelCheck
from tercet.config.analysis import AuditConfig
from tercet.config.run import DataConfig
from tercet.data.data_module import preview_splits, read_problems
from tercet.data.splits import initial_splits
from tercet.data.table import LEFT_OUT, SPLITS, UNLABELLED, SampleTable


def check_table(
    table: SampleTable,
    inspection: Inspection,
    config: DataConfig,
    options: AuditConfig,
    *,
    features: NDArray[np.floating[Any]] | None = None,
    labels: LabelCheck | None = None,
) -> AuditResult:
    """Return everything that can be told of a data set.

    Args:
        table: The samples as they were read.
        inspection: What was seen of their images.
        config: How they are to be divided.
        options: What is looked for.
        features: M 8 D, what a network makes of the readable images in each orientation: they tell further copies.
        labels: What a run's predictions say about labels.
    """
    readable = table.take(inspection.rows)
    division = preview_splits(readable, config)
    divided = division.table
    copies = find_copies(divided, inspection, options, features)
    small, units = _small_classes(readable, options.folds)
    shapes = Counter((int(height), int(width)) for height, width in inspection.sizes)
    return AuditResult(
        name=table.name,
        classes=table.classes,
        sets=table.membership is not None,
        images=len(table),
        unlabelled=int((readable.labels == UNLABELLED).sum()),
        counts=_counts(readable),
        by_split={} if divided.splits is None else {split: _counts(_part(divided, split)) for split in _used(divided)},
        split_sizes={} if divided.splits is None else {split: len(_part(divided, split)) for split in _used(divided)},
        division=division.description,
        refusals=(*read_problems(table, inspection.bad, config), *division.problems),
        unreadable=inspection.bad,
        missing=table.missing,
        empty=table.empty,
        sizes=tuple((height, width, count) for (height, width), count in shapes.most_common()),
        modes=tuple(Counter(inspection.modes).most_common()),
        flat=tuple(readable.ids[row] for row in np.flatnonzero(inspection.flat)),
        copies=copies.told,
        complete=copies.complete,
        leaks_complete=copies.leaks_complete,
        max_hash_distance=options.max_hash_distance,
        leaks=copies.leaks,
        torn=_torn(readable),
        folds=options.folds,
        small=small,
        units="groups" if units else "images",
        absent=_absent(readable),
        most_imbalance=options.imbalance,
        labels=labels,
        notes=(*table.notes, *division.notes),
    )


def _counts(table: SampleTable) -> dict[str, int]:
    return dict(zip(table.classes, table.class_counts().tolist(), strict=True))


def _used(table: SampleTable) -> list[str]:
    """Return the splits that hold rows, in order; rows that are left out come last."""
    found = set(table.splits or ())
    return [split for split in (*SPLITS, LEFT_OUT) if split in found]


def _part(table: SampleTable, split: str) -> SampleTable:
    return table.take(np.array(table.splits, dtype=np.str_) == split)


def _torn(table: SampleTable) -> dict[str, tuple[str, ...]]:
    """Return the groups that lie in several given splits; what a training leaves out is in none."""
    if table.groups is None or table.splits is None:
        return {}
    places: dict[str, set[str]] = {}
    for group, split in zip(table.groups, initial_splits(table).tolist(), strict=True):
        places.setdefault(group, set()).add(split)
    ordered = {group: tuple(split for split in SPLITS if split in found) for group, found in places.items()}
    return {group: found for group, found in ordered.items() if len(found) > 1}


def _small_classes(table: SampleTable, folds: int) -> tuple[dict[str, int], bool]:
    """Return classes with too few images, or groups, outside a given test split; and whether groups were counted."""
    pool = table if table.splits is None else table.take(np.array(table.splits, dtype=np.str_) != "test")
    grouped = pool.groups is not None
    counts = _groups_by_class(pool) if pool.groups is not None else _counts(pool)
    return {name: count for name, count in counts.items() if count < folds}, grouped


def _groups_by_class(table: SampleTable) -> dict[str, int]:
    assert table.groups is not None
    groups = np.unique(np.array(table.groups), return_inverse=True)[1]
    if table.membership is not None:
        shown = [groups[table.membership[:, label]] for label in range(table.num_classes)]
    else:
        shown = [groups[table.labels == label] for label in range(table.num_classes)]
    return {name: len(np.unique(found)) for name, found in zip(table.classes, shown, strict=True)}


def _absent(table: SampleTable) -> dict[str, tuple[str, ...]]:
    """Return the classes that a given split does not show, by split; a split without labels shows none on purpose."""
    if table.splits is None:
        return {}
    lacking = {}
    for split in _used(table):
        shown = _part(table, split).class_counts()
        if split and shown.any() and not shown.all():
            lacking[split] = tuple(table.classes[label] for label in np.flatnonzero(shown == 0))
    return lacking
