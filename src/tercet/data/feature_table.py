"""Features of the rows of a table, in arrays that are in memory or memory-mapped; a batch reads its rows only.

Shapes: N rows, V views, F features or h x w cells of D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.data.table import Ints

Features = NDArray[np.float32]
Stored = NDArray[Any]
"""Features in half or single precision, the first axis over images."""
_ZERO = -1  # position of rows without features


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of N rows, or of N rows and V views."""

    parts: tuple[Stored, ...]
    """Arrays of features with equal shapes of a row."""
    positions: Ints
    """N or N V: positions in the concatenated parts; -1 are features of zeros."""

    @classmethod
    def of(cls, features: Features, *, axes: int = 1) -> FeatureTable:
        """Return the table of an array in memory, whose first axes are rows (1), or rows and views (2)."""
        shape = features.shape[:axes]
        return cls((features.reshape(-1, *features.shape[axes:]),), np.arange(int(np.prod(shape))).reshape(shape))

    @classmethod
    def from_rows(cls, views: Sequence[Mapping[bytes, tuple[Stored, int]]], names: Sequence[bytes]) -> FeatureTable:
        """Return the table (N V) of named rows.

        Args:
            views: For each view, the array that holds the features of an image, and their row in it, by name.
            names: N names.
        """
        places = [[view[name] for view in views] for name in names]
        parts = list({id(part): part for columns in places for part, _ in columns}.values())
        starts = dict(zip(map(id, parts), np.cumsum([0, *map(len, parts)]).tolist(), strict=False))
        positions = [[starts[id(part)] + row for part, row in columns] for columns in places]
        return cls(tuple(parts), np.array(positions, dtype=np.int64).reshape(len(names), len(views)))

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of all features."""
        return (*self.positions.shape, *self.parts[0].shape[1:])

    def __getitem__(self, rows: Ints | slice) -> Features:
        """Return the features of some rows in single precision, in memory."""
        positions = self.positions[rows]
        flat = positions.ravel()
        values: Features = np.zeros((len(flat), *self.shape[self.positions.ndim :]), dtype=np.float32)
        starts = np.cumsum([0, *map(len, self.parts)])
        numbers = np.searchsorted(starts, flat, side="right") - 1  # -1 for zeros
        for number in np.unique(numbers[numbers >= 0]).tolist():
            chosen = np.flatnonzero(numbers == number)
            values[chosen] = self.parts[number][flat[chosen] - starts[number]]
        return values.reshape(*positions.shape, *values.shape[1:])

    def loaded(self) -> FeatureTable:
        """Return the table with all features in memory, in single precision."""
        return FeatureTable.of(self[:], axes=self.positions.ndim)

    def view(self, column: int) -> FeatureTable:
        """Return the features (N) of one of the views."""
        return FeatureTable(self.parts, self.positions[:, column])

    def at(self, rows: Ints, count: int) -> FeatureTable:
        """Return a table of `count` rows that has these features at `rows`, and zeros elsewhere."""
        positions = np.full((count, *self.positions.shape[1:]), _ZERO, dtype=np.int64)
        positions[rows] = self.positions
        return FeatureTable(self.parts, positions)
