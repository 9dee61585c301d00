import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import tercet
from tercet.core.errors import ConfigError, DataError, StorageError
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


def test_images_without_a_row_are_left_out_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"1 image without a row in .*sample.csv: left out"):
        assert write(tmp_path, "id,label\nimg-1,cbb\nimg-10,cbb\n") == b"id,label\nimg-1,cmd\nimg-10,=healthy\n"


def options(sample: str, tmp_path: Path, classes: tuple[str, ...] = CLASSES, **given: object) -> SampleSubmission:
    (tmp_path / "sample.csv").write_text(sample, "utf-8")
    return SampleSubmission.read(tmp_path / "sample.csv", classes, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shown", "labels"),
    [("0", ("0", "1", "2")), ("3", ("1", "2", "3")), ("0 2", ("0", "1", "2")), ("1 2 3", ("1", "2", "3"))],
)
def test_numbers_count_from_where_the_sample_shows(tmp_path: Path, shown: str, labels: tuple[str, ...]) -> None:
    rows = "".join(f"{row},{number}\n" for row, number in enumerate(shown.split()))
    assert options(f"id,label\n{rows}", tmp_path).labels == labels


@pytest.mark.parametrize("shown", ["1", "2", "1 2"])
def test_ambiguous_numbers_are_refused_with_the_option(tmp_path: Path, shown: str) -> None:
    sample = "id,label\n" + "".join(f"{row},{number}\n" for row, number in enumerate(shown.split()))
    with pytest.raises(DataError, match=r"from 0, from 1, .*--submission-numbers 0, 1 or names"):
        options(sample, tmp_path)
    assert options(sample, tmp_path, numbers="0").labels == ("0", "1", "2")
    assert options(sample, tmp_path, numbers="1").labels == ("1", "2", "3")
    with pytest.raises(DataError, match="which is none of the 3 classes"):
        options(sample, tmp_path, numbers="names")


def test_probability_columns_may_count_from_1(tmp_path: Path) -> None:
    out = write(tmp_path, "id,3,1,2\nimg-1,0,0,0\nimg-2,0,0,0\nimg-10,0,0,0\n")
    assert out.splitlines()[:2] == [b"id,3,1,2", b"img-1,0.2,0.1,0.7"]


def test_numbers_in_class_names_are_not_mistaken_for_positions(tmp_path: Path) -> None:
    classes = ("Birds_1", "Fish_0", "Plants_2")
    with pytest.raises(DataError, match="--submission-numbers"):
        options("id,predicted\na,0\n", tmp_path, classes)
    assert options("id,predicted\na,0\n", tmp_path, classes, numbers="names").labels == ("1", "0", "2")
    assert options("id,predicted\na,12\n", tmp_path, ("a_07", "b_12", "c_30")).labels == ("07", "12", "30")
    assert options("id,predicted\na,7\n", tmp_path, ("a_07", "b_12", "c_30")).labels == ("7", "12", "30")
    same = ("a_0", "b_1", "c_2")
    assert options("id,predicted\na,0\n", tmp_path, same).labels == ("0", "1", "2")


@pytest.mark.parametrize(
    ("classes", "shown", "labels"),
    [
        (("acer rubrum", "quercus alba"), ("Acer_Rubrum",), ("Acer_Rubrum", "Quercus_Alba")),
        (("acer_rubrum", "quercus_alba"), ("acer rubrum",), ("acer rubrum", "quercus alba")),
        (("Cat", "Dog"), ("cat",), ("cat", "dog")),
        (("cat", "dog"), ("CAT",), ("CAT", "DOG")),
        (("cat", "dog"), ("DOG", "Cat"), ("Cat", "DOG")),
        (("cat", "big dog"), ("Cat",), None),
        (("cat", "dog"), ("cAt",), None),
        (("cat", "Cat"), ("CAT",), None),
    ],
)
def test_labels_in_another_form_are_written_in_that_form(
    tmp_path: Path, classes: tuple[str, ...], shown: tuple[str, ...], labels: tuple[str, ...] | None
) -> None:
    sample = "id,label\n" + "".join(f"{row},{label}\n" for row, label in enumerate(shown))
    if labels is None:
        with pytest.raises(DataError, match=r"in another form|none of the 2 classes"):
            options(sample, tmp_path, classes)
    else:
        assert options(sample, tmp_path, classes).labels == labels


def test_columns_in_another_form_and_other_delimiters_are_kept(tmp_path: Path) -> None:
    out = write(tmp_path, "Id;CMD;=Healthy;Cbb\nimg-1;0;0;0\nimg-2;0;0;0\nimg-10;0;0;0\n")
    assert out.splitlines()[:2] == [b"Id;CMD;=Healthy;Cbb", b"img-1;0.7;0.2;0.1"]


BINARY = ("cat", "dog")


def test_a_single_column_of_probabilities_needs_its_class(tmp_path: Path) -> None:
    assert options("id,Dog\na,0.5\n", tmp_path, BINARY).columns == (1,)
    assert options("id,dog\na,0\n", tmp_path, BINARY).columns == (1,)
    with pytest.raises(DataError, match=r"one column of probabilities, 'label': .*--submission-class \(cat, dog\)"):
        options("id,label\na,0.5\n", tmp_path, BINARY)
    assert options("id,label\na,0.5\n", tmp_path, BINARY, class_name="cat").columns == (0,)
    with pytest.raises(ConfigError, match="did you mean 'dog'"):
        options("id,label\na,0.5\n", tmp_path, BINARY, class_name="dgo")
    with pytest.raises(ConfigError, match="has a column for each class"):
        options("id,cat,dog\na,0,0\n", tmp_path, BINARY, class_name="dog")


def test_a_single_column_has_the_probability_of_its_class(tmp_path: Path) -> None:
    out = write(tmp_path, "id,cmd\nimg-1,0.5\nimg-2,0.5\nimg-10,0.5\n")
    assert out == b"id,cmd\nimg-1,0.7\nimg-2,0.3\nimg-10,0.25\n"


@pytest.mark.parametrize("name", ["test.json", "test.csv"])
def test_ids_that_are_not_file_names_have_them_in_a_file(tmp_path: Path, name: str) -> None:
    images = [{"id": 7, "file_name": "test/img-2.jpg"}, {"id": 8, "file_name": "test/img-1.jpg"}]
    lines = [f"{image['id']},{image['file_name']}" for image in images]
    content = json.dumps({"images": images}) if name.endswith(".json") else "\n".join(["id,file_name", *lines])
    (tmp_path / name).write_text(content)
    (tmp_path / "sample.csv").write_text("id,predicted\n8,0\n7,0\n")
    values = predictions()
    with pytest.raises(DataError, match="--submission-files"):
        write_submission(values, tmp_path / "sample.csv", tmp_path / "out.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_submission(values, tmp_path / "sample.csv", tmp_path / "out.csv", files=tmp_path / name)
    assert (tmp_path / "out.csv").read_bytes() == b"id,predicted\n8,1\n7,0\n"


@pytest.mark.parametrize("content", ["[]", "{", '{"images": [{"id": 1}]}', "id,label\n1,x\n", "[" * 100_000])
def test_invalid_files_of_ids_are_errors(tmp_path: Path, content: str) -> None:
    path = tmp_path / ("x.csv" if content.startswith("id") else "x.json")
    path.write_text(content)
    with pytest.raises(DataError, match=r"images|file_name"):
        options("id,label\na,cbb\n", tmp_path, files=path)
