"""Classes that only the given validation or test split has, of which a model could not learn anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tercet.core.output import count, join_few
from tercet.data.splits import initial_splits
from tercet.data.table import LEFT_OUT, UNLABELLED, SampleTable


def leave_out_unseen_classes(table: SampleTable) -> SampleTable:
    """Return the same rows without the classes that no training image has; their rows are unlabelled and left out.

    A note lists them. Of multi-label data, a row with such a label is left out.
    """
    if table.splits is None:
        return table
    splits = initial_splits(table)
    learned = table.classes_in(np.flatnonzero(splits == "train"))
    unseen = sorted(table.classes_in(np.flatnonzero(splits != LEFT_OUT)) - learned)
    if not unseen:
        return table
    kept = np.setdiff1d(np.arange(table.num_classes), unseen)
    if table.membership is None:
        rows = np.isin(table.labels, unseen)
        position = np.full(table.num_classes + 1, UNLABELLED)  # the last entry is that of unlabelled rows, -1
        position[kept] = np.arange(len(kept))
        labels, membership = position[table.labels], None
    else:
        rows = np.asarray(table.membership[:, unseen].any(axis=1))
        labels, membership = np.where(rows, UNLABELLED, table.labels), table.membership[:, kept]
    reduced = replace(
        table,
        labels=labels,
        classes=tuple(table.classes[index] for index in kept),
        membership=membership,
        splits=tuple(np.where(rows, LEFT_OUT, np.array(table.splits, dtype=np.str_)).tolist()),
    )
    names = join_few([repr(table.classes[index]) for index in unseen])
    return reduced.with_notes(
        f"{count(int(rows.sum()), 'image')} left out, of {count(len(unseen), 'class')} without training images: {names}"
    )
