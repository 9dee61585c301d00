"""Rows of feature tables equal those of an array, wherever the features are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.data.feature_table import FeatureTable

ROWS = st.lists(st.integers(0, 5), max_size=8)


@given(st.lists(st.sampled_from([np.float16, np.float32]), min_size=1, max_size=3), ROWS, ROWS)
def test_rows_of_several_parts(types: list[type], rows: list[int], chosen: list[int]) -> None:
    parts = [np.arange(12, dtype=kind).reshape(2, 2, 3) + 100 * number for number, kind in enumerate(types)]
    places = [{bytes([row]): (parts[row % len(parts)], row // len(parts) % 2) for row in range(6)} for _ in range(2)]
    places[1] = {name: (part, 1 - row) for name, (part, row) in places[1].items()}
    names = [bytes([row]) for row in rows]
    expected = np.array([[part[row] for part, row in (view[name] for view in places)] for name in names], np.float32)
    if not rows:
        return
    table = FeatureTable.from_rows(places, names)
    np.testing.assert_array_equal(table[:], expected)
    assert table.shape == expected.shape and table[:].dtype == np.float32
    picked = np.array([index for index in chosen if index < len(rows)], dtype=np.int64)
    np.testing.assert_array_equal(table[picked], expected[picked])
    np.testing.assert_array_equal(table.view(1)[picked], expected[picked, 1])
    np.testing.assert_array_equal(table.loaded()[picked], expected[picked])


def test_other_rows_are_zero() -> None:
    values = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    table = FeatureTable.of(values, axes=2).at(np.array([4, 0, 2]), 6)
    expected = np.zeros((6, 2, 4), np.float32)
    expected[[4, 0, 2]] = values
    np.testing.assert_array_equal(table[:], expected)
    assert len(table) == 6


def test_only_the_rows_of_a_batch_are_read() -> None:
    class Counting(np.ndarray):
        reads = 0

        def __getitem__(self, key: object) -> object:
            Counting.reads += np.size(key)
            return super().__getitem__(key)  # type: ignore[call-overload]

    part = np.zeros((1000, 4), np.float16).view(Counting)
    table = FeatureTable((part,), np.arange(1000))
    table[np.array([7, 3])]
    assert Counting.reads == 2
    with pytest.raises(IndexError):
        table[np.array([1000])]
