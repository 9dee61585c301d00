import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tercet.core.errors import DataError
from tercet.core.untrusted_files import read_idx


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def read(folder: Path, content: bytes) -> np.ndarray:
    (folder / "x").write_bytes(content)
    return read_idx(folder / "x")


shapes = st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple)
shared_folder = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@shared_folder
@given(shape=shapes)
def test_written_values_are_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    result = read(tmp_path, idx(values))
    assert result.shape == shape
    np.testing.assert_array_equal(result, values)


@shared_folder
@given(shape=shapes, cut=st.integers(1, 40), extra=st.binary(max_size=5))
def test_wrong_length_is_an_error(tmp_path: Path, shape: tuple[int, ...], cut: int, extra: bytes) -> None:
    content = idx(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(DataError):
        read(tmp_path, content[:-cut])
    if extra:
        with pytest.raises(DataError, match="more"):
            read(tmp_path, content + extra)


@shared_folder
@given(content=st.binary(max_size=60))
def test_random_bytes_raise_nothing_else(tmp_path: Path, content: bytes) -> None:
    try:
        read(tmp_path, content)
    except DataError as error:
        assert str(error).startswith(str(tmp_path))


def test_wrong_size_in_the_header_allocates_nothing(tmp_path: Path) -> None:
    huge = bytes([0, 0, 8, 4]) + struct.pack(">4I", *[2**32 - 1] * 4)
    with pytest.raises(DataError, match="more than"):
        read(tmp_path, huge)
    large = bytes([0, 0, 8, 1]) + struct.pack(">I", 2**32 - 1) + b"abc"
    with pytest.raises(DataError, match="there are 3"):
        read(tmp_path, large)


def test_other_types_and_formats_are_errors(tmp_path: Path) -> None:
    for content in (bytes([0, 0, 0x0D, 1, 0, 0, 0, 0]), b"\x89PNG"):
        with pytest.raises(DataError, match="not an IDX file of unsigned bytes"):
            read(tmp_path, content)


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
    with pytest.raises(DataError, match="does not exist"):
        read_idx(tmp_path / "absent")
