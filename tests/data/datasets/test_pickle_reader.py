import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.data.datasets.official import pickled_batch

from tercet.core.errors import DataError
from tercet.data.datasets.pickle_reader import read_pickled_mapping

VALUES = np.random.default_rng(0).integers(0, 256, (4, 12), dtype=np.uint8)
BATCH = pickled_batch({"batch_label": "training batch 1 of 5", "labels": [6, 300, 0, 70_000], "data": VALUES})


def test_official_batch_equals_pickle() -> None:
    mapping, expected = read_pickled_mapping(BATCH, name="x"), pickle.loads(BATCH, encoding="latin-1")
    assert mapping.keys() == expected.keys()
    assert mapping["batch_label"] == expected["batch_label"] and mapping["labels"] == expected["labels"]
    np.testing.assert_array_equal(mapping["data"], expected["data"])
    assert mapping["data"].dtype == np.uint8


def test_fortran_order_arrays_are_read() -> None:
    by_columns = BATCH.replace(b"\x89T", b"\x88T")
    expected = pickle.loads(by_columns, encoding="latin-1")
    np.testing.assert_array_equal(read_pickled_mapping(by_columns, name="x")["data"], expected["data"])


class WritesFile:
    """Writes a file when it is unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.write_text, (self.sentinel, "ran"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("nested", [False, True])
def test_no_code_in_a_pickle_runs(tmp_path: Path, protocol: int, nested: bool) -> None:
    sentinel = tmp_path / "sentinel"
    hostile = pickle.dumps({"data": WritesFile(sentinel)} if nested else WritesFile(sentinel), protocol=protocol)
    with pytest.raises(DataError, match=r"could run code|not a readable pickle"):
        read_pickled_mapping(hostile, name="x")
    assert not sentinel.exists()
    pickle.loads(hostile)
    assert sentinel.exists()  # a real unpickler runs the code


def batch_with(**changes: bytes) -> bytes:
    """Return an official batch with some names replaced."""
    content = BATCH
    for old, new in ((b"_reconstruct", "call"), (b"dtype", "dtype"), (b"u1", "kind"), (b"numpy\nndarray", "array")):
        content = content.replace(old, changes.get(new, old))
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (batch_with(call=b"scalar"), "imports"),
        (batch_with(dtype=b"fromfile"), "imports"),
        (batch_with(kind=b"O8"), "not of unsigned bytes"),
        (BATCH.replace(b"numpy.core.multiarray\n_reconstruct", b"os\nsystem"), "imports 'os system'"),
        (BATCH.replace(b"K\x04K\x0c\x86", b"K\x04K\x0d\x86"), "shape"),
        (BATCH[:-1], "not a readable"),
        (b"\x80\x02]q\x00.", "does not contain a dictionary"),
        (b"\x80\x02}K\x01K\x02s.", "not strings"),
        (b"\x80\x02K\x01(K\x02e.", "not a list"),
        (b"\x80\x02t.", "not a readable"),
        (b"\x80\x02}Nb.", "not a readable"),
        (b"", "not a readable"),
        (b"\x80\x02" + b"N" * 1_000_010 + b".", "opcodes"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_invalid_pickles_are_errors(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pickled_mapping(content, name="x")


def test_wrong_sizes_in_pickles_allocate_nothing() -> None:
    for content in (b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"abc", b"\x80\x02Nr\xff\xff\xff\x7f."):
        with pytest.raises(DataError):
            read_pickled_mapping(content, name="x")
    deep = b"\x80\x02}U\x01aN" + b"\x85" * 100_000 + b"s."
    assert set(read_pickled_mapping(deep, name="x")) == {"a"}


@settings(max_examples=150, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, len(BATCH) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@example(flips=[(82, 92)])  # an invalid escape
def test_damaged_batch_raises_only_data_error(flips: list[tuple[int, int]]) -> None:
    content = bytearray(BATCH)
    for position, value in flips:
        content[position] = value
    try:
        read_pickled_mapping(bytes(content), name="x")
    except DataError as error:
        assert str(error).startswith("x ")


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=80))
def test_random_bytes_raise_nothing_else(content: bytes) -> None:
    try:
        assert isinstance(read_pickled_mapping(b"\x80\x02" + content, name="x"), dict)
    except DataError as error:
        assert str(error).startswith("x ")
