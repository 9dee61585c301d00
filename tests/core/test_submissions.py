from pathlib import Path

import numpy as np
import pytest

import tercet
from tercet.core.errors import DataError, StorageError
from tercet.core.predictions import Predictions
from tercet.core.submissions import SampleSubmission, write_submission

CLASSES = ("cbb", "cmd", "=healthy")
IDS = ("/data/test/img-1.jpg", "/data/test/img-2.jpg", "/data/test/img-10.jpg")
SHARES = np.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.25, 0.25, 0.5]])


def predictions(ids: tuple[str, ...] = IDS, classes: tuple[str, ...] = CLASSES) -> Predictions:
    return Predictions.of(SHARES, ids=ids, classes=classes)


def written(tmp_path: Path, sample: str, said: Predictions | None = None) -> bytes:
    (tmp_path / "sample.csv").write_text(sample, "utf-8")
    write_submission(said or predictions(), tmp_path / "sample.csv", tmp_path / "out.csv")
    return (tmp_path / "out.csv").read_bytes()


def test_a_label_in_the_samples_header_and_order(tmp_path: Path) -> None:
    out = written(tmp_path, "image,label\nimg-10.jpg,cbb\nimg-1.jpg,cbb\nimg-2.jpg,cbb\n")
    assert out == b"image,label\nimg-10.jpg,=healthy\nimg-1.jpg,cmd\nimg-2.jpg,cbb\n"  # not guarded: no spreadsheet


def test_the_id_may_come_last(tmp_path: Path) -> None:
    out = written(tmp_path, "Category,Id\r\ncbb,img-2.jpg\r\ncbb,img-10.jpg\r\ncbb,img-1.jpg\r\n")
    assert out == b"Category,Id\ncbb,img-2.jpg\n=healthy,img-10.jpg\ncmd,img-1.jpg\n"


def test_labels_are_numbers_where_the_sample_shows_numbers(tmp_path: Path) -> None:
    out = written(tmp_path, "\ufeffimage_id,label\nimg-1,0\nimg-2,0\nimg-10,0\n")
    assert out == b"image_id,label\nimg-1,1\nimg-2,0\nimg-10,2\n"


def test_names_that_are_numbers_stay_names(tmp_path: Path) -> None:
    said = predictions(classes=("7", "0", "1"))
    assert (
        written(tmp_path, "id,label\nimg-1,7\nimg-2,7\nimg-10,7\n", said) == b"id,label\nimg-1,0\nimg-2,7\nimg-10,1\n"
    )
    with pytest.raises(DataError, match="'2', which is none"):
        written(tmp_path, "id,label\nimg-1,2\nimg-2,7\nimg-10,7\n", said)


def test_an_empty_label_column_takes_names(tmp_path: Path) -> None:
    assert written(tmp_path, "id,label\nimg-1,\nimg-2,\nimg-10,\n").splitlines()[1] == b"img-1,cmd"


@pytest.mark.parametrize("header", ["id,=healthy,cbb,cmd", "=healthy,cbb,id,cmd"])
def test_a_probability_a_class_in_the_headers_order(tmp_path: Path, header: str) -> None:
    row = ",".join("img-{}" if name == "id" else "0.3" for name in header.split(","))
    out = written(tmp_path, header + "\n" + "".join(row.format(name) + "\n" for name in (2, 1, 10)))
    lines = [line.split(",") for line in out.decode().splitlines()]
    assert ",".join(lines[0]) == header
    for line, index in zip(lines[1:], (1, 0, 2), strict=True):
        values = dict(zip(lines[0], line, strict=True))
        assert [float(values[name]) for name in CLASSES] == SHARES[index].tolist()


def test_columns_may_be_numbers(tmp_path: Path) -> None:
    out = written(tmp_path, "id,2,1,0\nimg-1,0,0,0\nimg-2,0,0,0\nimg-10,0,0,0\n")
    assert out.splitlines()[1] == b"img-1,0.2,0.7,0.1"


def test_folders_tell_files_of_one_name_apart(tmp_path: Path) -> None:
    ids = ("/data/a/1.png", "/data/b/1.png", "/data/2.png")
    sample = "id,label\nb/1,cbb\nother/2.jpg,cbb\na/1.png,cbb\n"
    assert written(tmp_path, sample, predictions(ids)) == b"id,label\nb/1,cbb\nother/2.jpg,=healthy\na/1.png,cmd\n"
    with pytest.raises(DataError, match=r"'1' could be /data/a/1.png or /data/b/1.png"):
        written(tmp_path, "id,label\n1,cbb\n2,cbb\n", predictions(ids))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("id,label\nimg-1,cbb\nimg-2,cbb\n", r"1 image\(s\) have no row in it, such as /data/test/img-10.jpg"),
        (
            "id,label\nimg-1,cbb\nimg-2,cbb\nimg-10,cbb\nimg-11,cbb\nimg-12,cbb\n",
            "2 of its 5 rows have no image, such as 'img-11'",
        ),
        ("id,label\nimg-1,cbb\nimg-1,cbb\nimg-2,cbb\nimg-10,cbb\n", "names 'img-1' 2 times"),
        ("id,label\nimg-1,cbb\nimg-1.jpg,cbb\nimg-2,cbb\n", "'img-1' and 'img-1.jpg' both mean"),
        ("id,label\nimg-1,rust\nimg-2,cbb\nimg-10,cbb\n", "shows the label 'rust', which is none of the 3 classes"),
        ("id,label\nimg-1,0.5\nimg-2,0.5\nimg-10,0.5\n", "'0.5'"),
        ("id,label\nimg-1,3\nimg-2,0\nimg-10,1\n", "'3'|'0'"),
        ("id,cbb,cmd,rust\nimg-1,0,0,0\n", "has the column 'rust'"),
        ("id,cbb,cmd\nimg-1,0,0\n", "no column for 1 of the classes, such as '=healthy'"),
        ("id,cbb,cmd,cmd\nimg-1,0,0,0\n", "names a column twice"),
        ("id,cbb,cmd,\nimg-1,0,0,0\n", "has the column ''"),
        ("id,label\nimg-1\n", "line 2 has 1 cells"),
        ("id,label\n", "no sample of a submission"),
        ("", "no sample of a submission"),
        ("id\nimg-1\n", "no sample of a submission"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(tmp_path: Path, sample: str, message: str) -> None:
    (tmp_path / "out.csv").write_text("precious")
    with pytest.raises(DataError, match=message) as error:
        written(tmp_path, sample)
    assert "\n" not in str(error.value) and "sample.csv" in str(error.value)
    assert (tmp_path / "out.csv").read_text() == "precious"


def test_no_sample_and_no_place_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        SampleSubmission.read(tmp_path / "absent.csv", CLASSES)
    (tmp_path / "file").write_text("")
    (tmp_path / "sample.csv").write_text("id,label\nimg-1,cbb\nimg-2,cbb\nimg-10,cbb\n")
    with pytest.raises(StorageError):
        tercet.write_submission(predictions(), tmp_path / "sample.csv", tmp_path / "file" / "out.csv")
