import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.data.datasets.official import pickled_batch

from tercet.core.errors import DataError
from tercet.data.datasets.cifar import read_batch

VALUES = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
BATCH = pickled_batch({"batch_label": "training batch 1 of 5", "labels": [6, 300, 0, 70_000], "data": VALUES})


def test_official_batch_equals_pickle() -> None:
    (values, labels), expected = read_batch(BATCH, "x", key="labels"), pickle.loads(BATCH, encoding="latin-1")
    assert labels.tolist() == expected["labels"] and values.dtype == np.uint8
    np.testing.assert_array_equal(values, expected["data"])


def test_fortran_order_arrays_are_read() -> None:
    by_columns = BATCH.replace(b"\x89T", b"\x88T")
    expected = pickle.loads(by_columns, encoding="latin-1")
    np.testing.assert_array_equal(read_batch(by_columns, "x", key="labels")[0], expected["data"])


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
    with pytest.raises(DataError, match=r"could run code|not a readable CIFAR batch"):
        read_batch(hostile, "x", key="labels")
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
        (BATCH.replace(b"K\x04M\x00\x0c\x86", b"K\x04M\x00\x0d\x86"), "reshape"),
        (BATCH[:-1], "not a readable"),
        (b"\x80\x02]q\x00.", "not a readable"),
        (b"\x80\x02}K\x01K\x02s.", "not a readable"),
        (b"\x80\x02K\x01(K\x02e.", "not a readable"),
        (b"\x80\x02t.", "not a readable"),
        (b"\x80\x02}Nb.", "not a readable"),
        (b"", "not a readable"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_invalid_pickles_are_errors(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_batch(content, "x", key="labels")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"abc",
        b"\x80\x02Nr\xff\xff\xff\x7f.",
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc",
        b"\x80\x05\x95" + struct.pack("<Q", 2**40) + b"abc",
        b"\x80\x02}U\x01aN" + b"\x85" * 100_000 + b"s.",
    ],
    ids=["text", "memo", "bytearray", "frame", "nested"],
)
def test_wrong_sizes_in_pickles_allocate_nothing(content: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(DataError):
        read_batch(content, "x", key="labels")
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()


@settings(max_examples=150, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, len(BATCH) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@example(flips=[(82, 92)])  # an invalid escape
def test_damaged_batch_raises_only_data_error(flips: list[tuple[int, int]]) -> None:
    content = bytearray(BATCH)
    for position, value in flips:
        content[position] = value
    try:
        read_batch(bytes(content), "x", key="labels")
    except DataError as error:
        assert str(error).startswith("x ")


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=80))
def test_random_bytes_raise_nothing_else(content: bytes) -> None:
    try:
        read_batch(b"\x80\x02" + content, "x", key="labels")
    except DataError as error:
        assert str(error).startswith("x ")
