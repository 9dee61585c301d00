import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.core.errors import DataError
from tercet.data.datasets.mnist import parse_idx, read_idx


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


shapes = st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple)


@settings(max_examples=50, deadline=None)
@given(shape=shapes)
def test_written_values_are_read(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    result = parse_idx(io.BytesIO(idx(values)), name="x")
    assert result.shape == shape
    np.testing.assert_array_equal(result, values)


@settings(max_examples=80, deadline=None)
@given(shape=shapes, cut=st.integers(1, 40), extra=st.binary(max_size=5))
def test_wrong_length_is_an_error(shape: tuple[int, ...], cut: int, extra: bytes) -> None:
    content = idx(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(DataError):
        parse_idx(io.BytesIO(content[:-cut]), name="x")
    if extra:
        with pytest.raises(DataError, match="more"):
            parse_idx(io.BytesIO(content + extra), name="x")


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60))
def test_random_bytes_raise_nothing_else(content: bytes) -> None:
    try:
        parse_idx(io.BytesIO(content), name="x")
    except DataError as error:
        assert str(error).startswith("x ")


def test_wrong_size_in_the_header_allocates_nothing() -> None:
    huge = bytes([0, 0, 8, 4]) + struct.pack(">4I", *[2**32 - 1] * 4)
    with pytest.raises(DataError, match="more than"):
        parse_idx(io.BytesIO(huge), name="x")
    large = bytes([0, 0, 8, 1]) + struct.pack(">I", 2**32 - 1) + b"abc"
    with pytest.raises(DataError, match="only 3"):
        parse_idx(io.BytesIO(large), name="x")


def test_other_types_and_formats_are_errors() -> None:
    with pytest.raises(DataError, match="0x0d"):
        parse_idx(io.BytesIO(bytes([0, 0, 0x0D, 1, 0, 0, 0, 0])), name="x")
    with pytest.raises(DataError, match="not an IDX file"):
        parse_idx(io.BytesIO(b"\x89PNG"), name="x")


def test_gzip_is_detected_by_content(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for name, content in (("plain", idx(values)), ("packed", gzip.compress(idx(values)))):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_idx(tmp_path / name), values)


@pytest.mark.parametrize("cut", [5, 30])
def test_damaged_gzip_is_an_error(tmp_path: Path, cut: int) -> None:
    packed = gzip.compress(idx(np.arange(200, dtype=np.uint8)))
    (tmp_path / "a.gz").write_bytes(packed[:-cut])
    with pytest.raises(DataError, match=r"a\.gz"):
        read_idx(tmp_path / "a.gz")
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    (tmp_path / "b.gz").write_bytes(bytes(flipped))
    with pytest.raises(DataError, match=r"b\.gz"):
        read_idx(tmp_path / "b.gz")
    with pytest.raises(DataError, match="cannot read"):
        read_idx(tmp_path / "absent")
