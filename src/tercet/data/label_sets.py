"""Label sets between names, a matrix, and the text of a cell. N rows, K labels."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LabelNames = Sequence[str] | None
"""The labels of one row; None where they are unknown."""


def membership_of(sets: Sequence[LabelNames], classes: Sequence[str]) -> NDArray[np.bool_]:
    """Return which labels each row has (N K); unknown sets as empty rows.

    Raises:
        KeyError: A label is none of the K names.
    """
    index_of = {name: index for index, name in enumerate(classes)}
    membership = np.zeros((len(sets), len(classes)), dtype=np.bool_)
    for row, labels in enumerate(sets):
        membership[row, [index_of[label] for label in labels or ()]] = True
    return membership


def known_sets(sets: Sequence[LabelNames]) -> list[int]:
    """Return what stands for class indices where rows have sets: 0, or -1 where the set is unknown (N)."""
    return [-1 if labels is None else 0 for labels in sets]


def write_sets(membership: NDArray[np.bool_], known: NDArray[np.bool_], classes: Sequence[str]) -> list[str]:
    """Return each set as a JSON list of names (N); empty text where it is unknown."""
    return [
        json.dumps([classes[label] for label in np.flatnonzero(row).tolist()], ensure_ascii=False) if told else ""
        for row, told in zip(membership, known, strict=True)
    ]


def read_sets(cells: Sequence[str]) -> list[list[str] | None]:
    """Return what `write_sets` wrote.

    Raises:
        ValueError: A cell is no JSON list of texts.
    """
    sets: list[list[str] | None] = []
    for cell in cells:
        labels = json.loads(cell) if cell else None
        if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
            raise ValueError(f"'{cell}' is no list of labels")
        sets.append(labels)
    return sets
