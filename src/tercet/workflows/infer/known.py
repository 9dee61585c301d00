"""Which rows of a table a model can be measured on: those whose class, or set of labels, it knows by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.data.samples import UNLABELLED, SampleTable
from tercet.ground.errors import DataError
from tercet.records.predictions import Ints

_TOLD = 5  # names in a message


@dataclass(frozen=True, eq=False)
class Known:
    """The rows of a table that a model knows, as it numbers its K classes or labels."""

    rows: Ints
    """N positions in the table."""
    ids: tuple[str, ...]
    """N names of the images."""
    truth: Ints
    """N classes; or N K, 1 for the labels that an image has and 0 for the others."""
    missing: tuple[str, ...]
    """What the model knows and the table does not show."""
    extra: dict[str, int]
    """What the table shows and the model does not know, and the number of its images."""


def known_rows(table: SampleTable, classes: Sequence[str]) -> Known:
    """Return the rows whose class the model knows.

    Raises:
        DataError: There is none.
    """
    names, index = table.label_names(), {name: position for position, name in enumerate(classes)}
    extra: dict[str, int] = {}
    for name in names:
        if name and name not in index:
            extra[name] = extra.get(name, 0) + 1
    known = np.array([row for row, name in enumerate(names) if name in index], dtype=np.int64)
    if not len(known):
        raise _nothing_known(table, sorted({name for name in names if name}), classes, what="classes")
    truth = np.array([index[names[row]] for row in known], dtype=np.int64)
    missing = tuple(np.array(classes, dtype=object)[np.bincount(truth, minlength=len(classes)) == 0])
    return Known(known, tuple(table.ids[row] for row in known), truth, missing, extra)


def known_sets(table: SampleTable, classes: Sequence[str]) -> Known:
    """Return the rows whose sets of labels are known.

    Raises:
        DataError: The table shows no label that the model knows.
    """
    known = np.flatnonzero(table.labels != UNLABELLED)
    shown = table.shown(known)
    place = {name: column for column, name in enumerate(table.classes) if column in shown}
    if not place.keys() & set(classes):
        raise _nothing_known(table, place, classes, what="labels")
    given = table.targets(known)
    truth = np.zeros((len(known), len(classes)), dtype=np.int64)
    for column, name in enumerate(classes):
        if name in place:
            truth[:, column] = given[:, place[name]]
    missing = tuple(name for name in classes if name not in place)
    extra = {name: int((given[:, column] == 1).sum()) for name, column in place.items() if name not in classes}
    return Known(known, tuple(table.ids[row] for row in known), truth, missing, extra)


def _nothing_known(table: SampleTable, shown: Iterable[str], classes: Sequence[str], *, what: str) -> DataError:
    return DataError(
        f"{table.name}: no image has a label that the model knows (labels: {_first([*shown]) or 'none'}; "
        f"the model: {_first(classes)}); {what} are matched by name"
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_TOLD]) + (", ..." if len(names) > _TOLD else "")
