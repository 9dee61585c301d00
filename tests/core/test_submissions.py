from pathlib import Path

import numpy as np
import pytest

import tercet
from tercet.core.errors import DataError, StorageError
from tercet.core.predictions import Predictions
from tercet.core.submissions import SampleSubmission, write_submission

CLASSES = ("cbb", "cmd", "=healthy")
IDS = ("/data/test/img-1.jpg", "/data/test/img-2.jpg", "/data/test/img-10.jpg")
PROBABILITIES = np.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.25, 0.25, 0.5]])


def predictions(ids: tuple[str, ...] = IDS, classes: tuple[str, ...] = CLASSES) -> Predictions:
    return Predictions.of(PROBABILITIES, ids=ids, classes=classes)


def write(tmp_path: Path, sample: str, values: Predictions | None = None) -> bytes:
    (tmp_path / "sample.csv").write_text(sample, "utf-8")
    write_submission(values or predictions(), tmp_path / "sample.csv", tmp_path / "out.csv")
    return (tmp_path / "out.csv").read_bytes()


def test_labels_have_the_header_and_order_of_the_sample(tmp_path: Path) -> None:
    out = write(tmp_path, "image,label\nimg-10.jpg,cbb\nimg-1.jpg,cbb\nimg-2.jpg,cbb\n")
    assert out == b"image,label\nimg-10.jpg,=healthy\nimg-1.jpg,cmd\nimg-2.jpg,cbb\n"  # not escaped


def test_the_id_can_be_the_last_column(tmp_path: Path) -> None:
    out = write(tmp_path, "Category,Id\r\ncbb,img-2.jpg\r\ncbb,img-10.jpg\r\ncbb,img-1.jpg\r\n")
    assert out == b"Category,Id\ncbb,img-2.jpg\n=healthy,img-10.jpg\ncmd,img-1.jpg\n"


def test_labels_are_numbers_if_the_sample_has_numbers(tmp_path: Path) -> None:
    out = write(tmp_path, "\ufeffimage_id,label\nimg-1,0\nimg-2,0\nimg-10,0\n")
    assert out == b"image_id,label\nimg-1,1\nimg-2,0\nimg-10,2\n"


def test_numeric_class_names_are_names(tmp_path: Path) -> None:
    values = predictions(classes=("7", "0", "1"))
    out = write(tmp_path, "id,label\nimg-1,7\nimg-2,7\nimg-10,7\n", values)
    assert out == b"id,label\nimg-1,0\nimg-2,7\nimg-10,1\n"
    with pytest.raises(DataError, match="'2', which is none"):
        write(tmp_path, "id,label\nimg-1,2\nimg-2,7\nimg-10,7\n", values)


def test_an_empty_label_column_gets_names(tmp_path: Path) -> None:
    assert write(tmp_path, "id,label\nimg-1,\nimg-2,\nimg-10,\n").splitlines()[1] == b"img-1,cmd"


@pytest.mark.parametrize("header", ["id,=healthy,cbb,cmd", "=healthy,cbb,id,cmd"])
def test_probabilities_have_the_column_order_of_the_sample(tmp_path: Path, header: str) -> None:
    row = ",".join("img-{}" if name == "id" else "0.3" for name in header.split(","))
    out = write(tmp_path, header + "\n" + "".join(row.format(name) + "\n" for name in (2, 1, 10)))
    lines = [line.split(",") for line in out.decode().splitlines()]
    assert ",".join(lines[0]) == header
    for line, index in zip(lines[1:], (1, 0, 2), strict=True):
        values = dict(zip(lines[0], line, strict=True))
        assert [float(values[name]) for name in CLASSES] == PROBABILITIES[index].tolist()


def test_probability_columns_can_be_numbers(tmp_path: Path) -> None:
    out = write(tmp_path, "id,2,1,0\nimg-1,0,0,0\nimg-2,0,0,0\nimg-10,0,0,0\n")
    assert out.splitlines()[1] == b"img-1,0.2,0.7,0.1"


def test_folders_distinguish_files_of_the_same_name(tmp_path: Path) -> None:
    ids = ("/data/a/1.png", "/data/b/1.png", "/data/2.png")
    sample = "id,label\nb/1,cbb\nother/2.jpg,cbb\na/1.png,cbb\n"
    assert write(tmp_path, sample, predictions(ids)) == b"id,label\nb/1,cbb\nother/2.jpg,=healthy\na/1.png,cmd\n"
    with pytest.raises(DataError, match=r"'1' could be /data/a/1.png or /data/b/1.png"):
        write(tmp_path, "id,label\n1,cbb\n2,cbb\n", predictions(ids))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("id,label\nimg-1,cbb\nimg-2,cbb\n", r"1 image\(s\) have no row in it, such as /data/test/img-10.jpg"),
        (
            "id,label\nimg-1,cbb\nimg-2,cbb\nimg-10,cbb\nimg-11,cbb\nimg-12,cbb\n",
            "2 of its 5 rows have no image, such as 'img-11'",
        ),
        ("id,label\nimg-1,cbb\nimg-1,cbb\nimg-2,cbb\nimg-10,cbb\n", "contains 'img-1' 2 times"),
        ("id,label\nimg-1,cbb\nimg-1.jpg,cbb\nimg-2,cbb\n", "'img-1' and 'img-1.jpg' both match"),
        ("id,label\nimg-1,rust\nimg-2,cbb\nimg-10,cbb\n", "has the label 'rust', which is none of the 3 classes"),
        ("id,label\nimg-1,3\nimg-2,0\nimg-10,1\n", "'3'|'0'"),
        ("id,cbb,cmd,rust\nimg-1,0,0,0\n", "has the column 'rust'"),
        ("id,cbb,cmd\nimg-1,0,0\n", "no column for 1 of the classes, such as '=healthy'"),
        ("id,cbb,cmd,cmd\nimg-1,0,0,0\n", "has a column twice"),
        ("id,cbb,cmd,\nimg-1,0,0,0\n", "has the column ''"),
        ("id,label\nimg-1\n", "line 2: 1 fields, but the header has 2"),
        ("id,label\n", "has no rows"),
        ("id\nimg-1\n", "not a sample submission"),
    ],
)
def test_invalid_samples_raise_with_one_line_and_write_nothing(tmp_path: Path, sample: str, message: str) -> None:
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(DataError, match=message) as error:
        write(tmp_path, sample)
    assert "\n" not in str(error.value) and "sample.csv" in str(error.value)
    assert (tmp_path / "out.csv").read_text() == "old"


def test_missing_samples_and_unwritable_folders_raise(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        SampleSubmission.read(tmp_path / "missing.csv", CLASSES)
    (tmp_path / "file").write_text("")
    (tmp_path / "sample.csv").write_text("id,label\nimg-1,cbb\nimg-2,cbb\nimg-10,cbb\n")
    with pytest.raises(StorageError):
        tercet.write_submission(predictions(), tmp_path / "sample.csv", tmp_path / "file" / "out.csv")
