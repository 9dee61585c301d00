"""Label files, and labels attached to predictions."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet.core.errors import DataError
from tercet.core.label_files import attach_labels, read_labels
from tercet.core.predictions import Predictions

ROWS = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
PREDICTIONS = Predictions.of(ROWS, ids=["x", "y"], classes=("cat", "dog", "owl"))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def idx(labels: list[int], *, count: int | None = None) -> bytes:
    return b"\0\0\x08\x01" + (len(labels) if count is None else count).to_bytes(4, "big") + bytes(labels)


def test_labels_are_read_from_all_formats(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([2, 0], dtype=np.uint8))
    assert list(read_labels(tmp_path / "a.npy")) == [2, 0]
    assert list(read_labels(write(tmp_path / "a-idx1-ubyte", idx([2, 0])))) == [2, 0]
    assert list(read_labels(write(tmp_path / "a.gz", gzip.compress(idx([2, 0]))))) == [2, 0]
    assert read_labels(write(tmp_path / "a.csv", "label,id\ncat,x\ndog,y\ncat,x\n")) == {"x": "cat", "y": "dog"}
    assert read_labels(write(tmp_path / "b.csv", "image;Class\n'=x;cat\n")) == {"=x": "cat"}
    assert read_labels(write(tmp_path / "a.txt", "cat, big\r\ndog\n\n")) == ("cat, big", "dog")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", idx([1, 2], count=3), "states 3 values, but there are 2"),
        ("a", idx([1, 2], count=1), "states 1 values, but there are more"),
        ("a", idx([], count=4_000_000_000), "but there are 0"),
        ("a", b"\0\0\x08\x03" + bytes(12), "expected one integer per sample"),
        ("a", gzip.compress(b"", mtime=0), "begins with nothing"),
        ("a", gzip.compress(idx([1] * 99), mtime=0)[:-20], "damaged"),
        ("a", b"\x1f\x8b\x08garbage!", "damaged"),
        ("a.csv", b"cat\ndog\n", "no id or label column"),
        ("a.csv", b"id,label\nx,\n", "line 2 has no label"),
        ("a.csv", b"id,label\nx,cat\ny,cat\nx,dog\n", "line 4: 'x' has label 'dog', but 'cat'"),
        ("a.txt", b"cat\n\ndog\n", "line 2 is blank"),
        ("a.txt", b"", "line 1 is blank"),
    ],
)
def test_invalid_label_files_raise_with_the_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_labels(write(tmp_path / name, content))


@pytest.mark.parametrize("values", [np.eye(2, dtype=int), np.array([0.0, 1.0]), np.array(["cat"])])
def test_label_arrays_must_contain_one_integer_per_sample(values: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match="one integer per sample"):
        read_labels(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([2, 0], [2, 0]),
        (np.array([2, -1], dtype=np.int8), [2, -1]),
        (["owl", "cat"], [2, 0]),
        (("2", "0"), [2, 0]),
        ({"y": "cat", "x": "owl", "z": "emu"}, [2, 0]),
    ],
)
def test_labels_are_attached_by_row_or_by_id(labels: Any, expected: list[int]) -> None:
    assert attach_labels(PREDICTIONS, labels).labels.tolist() == expected


def test_names_take_precedence_over_numbers() -> None:
    numbered = Predictions.of(ROWS[:1], classes=["2", "0", "1"])
    assert attach_labels(numbered, ["2"]).labels.tolist() == [0]
    assert attach_labels(numbered, [2]).labels.tolist() == [2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0], r"shape \(1,\), expected one per sample \(2\)"),
        ([0, 3], "labels lie in 0..3"),
        ([0.0, 1.0], "of type float64"),
        (["cat", "dgo"], "label 'dgo' is none of the 3 classes, did you mean 'dog'"),
        (["cat", "1"], "label '1' is none"),
        (["00", "1"], "label '00' is none"),
        ({"x": "cat"}, "1 of 2 samples have no label, such as 'y'"),
    ],
)
def test_labels_that_do_not_match_raise(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        attach_labels(PREDICTIONS, labels)


def test_labels_that_contradict_the_file_raise() -> None:
    known = PREDICTIONS.with_labels([0, -1])
    assert attach_labels(known, [0, 2]).labels.tolist() == [0, 2]
    with pytest.raises(DataError, match="sample 'x' differs from the one in its predictions file"):
        attach_labels(known, [1, 2])
