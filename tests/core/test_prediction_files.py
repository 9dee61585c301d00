"""Prediction files of all formats, and prediction tables."""

import csv
import tempfile
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tercet.core.errors import DataError, StorageError
from tercet.core.prediction_files import read_labels, read_predictions, write_csv
from tercet.core.predictions import Predictions

ROWS = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
CLASSES = ("cat", "dog", "owl")
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
hostile = st.one_of(text, st.sampled_from("=+-@'\t\r\n\0,;\"").flatmap(lambda prefix: st.builds(prefix.__add__, text)))


def equal(a: Predictions, b: Predictions) -> bool:
    arrays = np.array_equal(a.probabilities, b.probabilities) and np.array_equal(a.labels, b.labels)
    return a.ids == b.ids and a.classes == b.classes and arrays


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4"])
def test_arrays_of_all_float_types_are_read(dtype: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS.astype(dtype))
    result = read_predictions(tmp_path / "x.npy", labels=[0, 2], classes=CLASSES)
    np.testing.assert_allclose(result.probabilities, ROWS, atol=1e-3)
    assert (result.ids, result.classes, result.labels.tolist()) == (("0", "1"), CLASSES, [0, 2])
    assert read_predictions(tmp_path / "x.npy").classes == ("0", "1", "2")


def test_the_format_is_detected_from_the_content(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    moved = (tmp_path / "x.npy").rename(tmp_path / "x.csv")
    np.testing.assert_array_equal(read_predictions(moved).probabilities, ROWS)


def test_npz_files_of_tercet_and_others_are_read(tmp_path: Path) -> None:
    predictions = Predictions.of(ROWS, ids=["x", "y"], classes=CLASSES, labels=[0, -1])
    predictions.save(tmp_path / "tercet.npz")
    assert equal(read_predictions(tmp_path / "tercet.npz"), predictions)
    np.savez(tmp_path / "other.npz", softmax=ROWS.astype(np.float32), epochs=np.arange(3))
    assert read_predictions(str(tmp_path / "other.npz")).classes == ("0", "1", "2")
    np.savez(tmp_path / "two.npz", a=ROWS, b=ROWS)
    with pytest.raises(DataError, match=r"exactly one array of floats.*a, b"):
        read_predictions(tmp_path / "two.npz")


def test_given_classes_reorder_named_columns(tmp_path: Path) -> None:
    predictions = Predictions.of(ROWS, ids=["x", "y"], classes=CLASSES, labels=[0, 2])
    predictions.save(tmp_path / "x.npz")
    write_csv(predictions, tmp_path / "x.csv")
    for name in ("x.npz", "x.csv"):
        reordered = read_predictions(tmp_path / name, classes=CLASSES[::-1])
        assert reordered.classes == CLASSES[::-1]
        assert reordered.labels.tolist() == [2, 0]
        np.testing.assert_array_equal(reordered.probabilities, ROWS[:, ::-1])
        with pytest.raises(DataError, match="same classes"):
            read_predictions(tmp_path / name, classes=("cat", "dog", "emu"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,cat,dog,owl\nx,0.7,0.2,0.1\ny,0.1,0.1,0.8\n"),
        ("a.csv", "cat,dog,FileName,owl\r\n0.7,0.2,x,0.1\r\n0.1,0.1,y,0.8"),
        ("a.csv", "\ufeffimage;cat;dog;owl\nx;0.7;.2;1e-1\n\ny;0.1;0.1;0.8\n"),
        ("a.tsv", "id\tcat\tdog\towl\nx\t0.7\t0.2\t0.1\ny\t0.1\t0.1\t0.8\n"),
        ("a.txt", "id,predicted,cat,dog,owl\nx,dog,0.7,0.2,0.1\ny,cat,0.1,0.1,0.8\n"),
    ],
)
def test_tables_with_all_delimiters_are_read(name: str, content: str, tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-16") if "\ufeff" not in content else ("utf-8",):
        result = read_predictions(write(tmp_path / name, content.encode(encoding)))
        assert (result.ids, result.classes) == (("x", "y"), CLASSES)
        np.testing.assert_array_equal(result.probabilities, ROWS)
        assert not result.known.any()


def test_label_columns_contain_names_or_are_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,label,cat,dog,owl\n007,owl,0.7,0.2,0.1\ny,,0.1,0.1,0.8\n")
    result = read_predictions(path)
    assert result.ids == ("007", "y")
    assert result.labels.tolist() == [2, -1]


@settings(deadline=None, max_examples=25)
@given(st.lists(hostile, min_size=3, max_size=3, unique=True), st.lists(hostile, min_size=3, max_size=3, unique=True))
@example(["=1+1", "'=1", "''=1"], ["label", "predicted", "id"])
@example(["\rx", "\nx", "a\r\nb"], ["+", "Label", " label "])
def test_tables_are_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], classes: list[str]
) -> None:
    values = np.random.default_rng(len("".join(ids))).dirichlet(np.ones(3), 3)
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    for labels in ([0, -1, 2], [-1, -1, -1]):
        predictions = Predictions.of(values, ids=ids, classes=classes, labels=labels)
        write_csv(predictions, path)
        assert equal(read_predictions(path), predictions)


def test_undecodable_names_are_preserved_in_tables(tmp_path: Path) -> None:
    predictions = Predictions.of(ROWS, ids=["\udcff.jpg", "y"], classes=CLASSES)
    write_csv(predictions, tmp_path / "x.csv")
    assert equal(read_predictions(tmp_path / "x.csv"), predictions)


def test_no_cell_of_a_table_is_a_formula(tmp_path: Path) -> None:
    names = ("=cmd", "+1", "-1", "@x", "\tx", "\rx")
    predictions = Predictions.of(np.eye(6), ids=names, classes=names, labels=range(6))
    for top in (None, 2):
        write_csv(predictions, tmp_path / "x.csv", top=top)
        with open(tmp_path / "x.csv", encoding="utf-8", newline="") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        assert cells and all(cell[0] not in "=+-@\t\r" for cell in cells)


def test_tables_can_be_limited_to_the_top_classes(tmp_path: Path) -> None:
    predictions = Predictions.of(ROWS, ids=["x", "y"], classes=CLASSES)
    write_csv(predictions, tmp_path / "x.csv", top=2)
    lines = (tmp_path / "x.csv").read_text().splitlines()
    assert lines[0] == "id,predicted,class_1,probability_1,class_2,probability_2"
    assert lines[1] == "x,cat,cat,0.7,dog,0.2"
    assert lines[2] == "y,owl,owl,0.8,cat,0.1"
    write_csv(predictions, tmp_path / "x.csv", top=99)
    assert (tmp_path / "x.csv").read_text().splitlines()[0].endswith("class_3,probability_3")
    with pytest.raises(DataError, match="'cat' is not a number"):
        read_predictions(tmp_path / "x.csv")
    with pytest.raises(DataError, match="must be positive"):
        write_csv(predictions, tmp_path / "x.csv", top=0)


def test_an_unwritable_table_raises_storage_error(tmp_path: Path) -> None:
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(StorageError, match=r"x\.csv"):
        write_csv(Predictions.of(ROWS), tmp_path / "x.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat,dog\n0.5,0.5\n", "has no id column"),
        ("\x89PNG\r\n\x1a\n\0\0\0", "has no id column"),
        ("id,cat,dog\n", "has no rows"),
        ("id,label\nx,cat\n", "has no class columns"),
        ("id,cat,dog\nx,0.5\n", "line 2: 2 fields, but the header has 3"),
        ("id,cat,dog\nx,0.5,half\n", "line 2, column 'dog': 'half' is not a number"),
        ("id;cat;dog\nx;0,5;0,5\n", "line 2, column 'cat': '0,5' is not a number"),
        ("id,cat,dog\nx,nan,1\n", "sample 1 has a value that is not finite"),
        ("id,cat,dog\nx,0.5,0.5\ny,3.5,-1.25\n", "sample 2 has sum 2.25 and minimum -1.25.*softmax"),
        ("id,cat,dog\nx,0.5,0.5\nx,0.5,0.5\n", "ids are not unique"),
        ("id,cat,cat\nx,0.5,0.5\n", "class names are not unique: cat, cat"),
        ("id,label,cat,dog\nx,cta,0.5,0.5\n", "label 'cta' is none of the 2 classes, did you mean 'cat'"),
        ('id,cat,dog\n"' + "x" * 200_000 + '",0.5,0.5\n', "line 2: not a valid table"),
    ],
)
def test_invalid_tables_raise_with_the_location(content: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.csv", content)
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[2.0, -1.0, 0.5]]), "softmax"),
        (np.array([[np.inf, 0.0]]), "not finite"),
        (np.array([0.5, 0.5]), r"float64 of shape \(2,\), expected floats"),
        (np.zeros((0, 3)), "expected floats|usable"),
        (np.array([[{}]], dtype=object), "usable array"),
        (np.array([["0.5", "0.5"]]), "expected floats"),
    ],
)
def test_invalid_arrays_raise(values: Any, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", values, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        read_predictions(tmp_path / "bad.npy")


def test_invalid_class_names_raise(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(DataError, match="3 columns for 2 class names"):
        read_predictions(tmp_path / "x.npy", classes=["a", "b"])
    with pytest.raises(DataError, match="not unique"):
        read_predictions(tmp_path / "x.npy", classes=["a", "b", "b"])


def test_damaged_files_raise_data_error(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((200, 5), 0.2))
    np.savez(tmp_path / "x.npz", p=np.full((200, 5), 0.2))
    for name in ("x.npy", "x.npz"):
        content = (tmp_path / name).read_bytes()
        for keep in (9, 100, len(content) - 50):
            with pytest.raises(DataError, match="bad"):
                read_predictions(write(tmp_path / "bad", content[:keep]))


def test_a_wrong_shape_in_the_header_allocates_no_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    content = (tmp_path / "x.npy").read_bytes().replace(b"(2, 3)", b"(1000000000000, 3)")
    with pytest.raises(DataError, match="usable array"):
        read_predictions(write(tmp_path / "bad.npy", content))


def test_missing_files_and_folders_raise_data_error(tmp_path: Path) -> None:
    for read in (read_predictions, read_labels):
        with pytest.raises(DataError, match="does not exist"):
            read(tmp_path / "missing")
        with pytest.raises(DataError, match="is not a file"):
            read(tmp_path)


MARKS = {
    "both": {"rejected": ["no", "yes"], "set": ["cat", "cat | dog"]},
    "rejected": {"rejected": ["no", "yes"]},
    "set": {"set": ["=cat", ""]},
}


def two_samples(classes: list[str]) -> Predictions:
    weights = np.arange(1.0, len(classes) + 1)
    rows = np.stack([weights, weights[::-1]]) / weights.sum()
    return Predictions.of(rows, ids=["a.png", "b.png"], classes=classes)


@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize(
    "classes", [["cat", "dog"], ["rejected", "cat"], ["Set ", "set", "=1+1"], ["set", "3"], ["label", "predicted"]]
)
def test_tables_with_extra_columns_are_read_back_exactly(tmp_path: Path, marks: str, classes: list[str]) -> None:
    write_csv(two_samples(classes), tmp_path / "out.csv", marks=MARKS[marks])
    assert equal(read_predictions(tmp_path / "out.csv"), two_samples(classes))


def test_extra_columns_follow_the_predicted_class(tmp_path: Path) -> None:
    write_csv(two_samples(["cat", "dog"]), tmp_path / "out.csv", marks=MARKS["both"])
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as stream:
        header, first, second = csv.reader(stream)
    assert header == ["id", "predicted", "rejected", "set", "cat", "dog"]
    assert first[:4] == ["a.png", "dog", "no", "cat"]
    assert second[:4] == ["b.png", "cat", "yes", "cat | dog"]
    write_csv(two_samples(["cat", "dog"]), tmp_path / "out.csv", marks=MARKS["set"])
    assert ",'=cat," in (tmp_path / "out.csv").read_text("utf-8")  # not a formula


def test_prediction_sets_of_numeric_classes_are_ignored(tmp_path: Path) -> None:
    write_csv(two_samples(["0", "3"]), tmp_path / "out.csv", marks={"set": ["3", "0"]})
    assert read_predictions(tmp_path / "out.csv").classes == ("0", "3")


def test_classes_with_the_name_of_an_extra_column_are_read(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("id,predicted,rejected,scratched\na,rejected,0.75,0.25\n")
    assert read_predictions(path).classes == ("rejected", "scratched")
    path.write_text("id,rejected,set\na,0.75,0.25\n")
    assert read_predictions(path).classes == ("rejected", "set")
    path.write_text("id,predicted,cat,rejected\na,cat,0.75,no\n")  # not right after `predicted`: an invalid class
    with pytest.raises(DataError, match="rejected"):
        read_predictions(path)


def test_small_files_that_decompress_to_gigabytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with (
        ZipFile(path, "w", ZIP_DEFLATED) as archive,
        archive.open("probabilities.npy", "w", force_zip64=True) as stream,
    ):
        for _ in range(1100):
            stream.write(bytes(1_000_000))
    for read in (read_predictions, Predictions.load):
        with pytest.raises(DataError, match="decompressed, more than 100 times"):
            read(path)


def test_votes_of_many_classes_are_read_back(tmp_path: Path) -> None:
    votes = np.zeros((2500, 1000))
    votes[np.arange(2500), np.arange(2500) % 1000] = 1
    predictions = Predictions.of(votes)
    predictions.save(tmp_path / "votes.npz")
    assert votes.nbytes > 200 * (tmp_path / "votes.npz").stat().st_size
    assert equal(read_predictions(tmp_path / "votes.npz"), predictions)


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.sampled_from("{}[]()'\"<f8:,_ 019deilmnoprsuhTrueFalcx\\\n-*^"), max_size=80), st.sampled_from([1, 2, 3])
)
def test_any_header_of_an_array_is_an_error_or_read(text: str, version: int) -> None:
    header = text.encode()
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "x.npy", b"\x93NUMPY" + bytes([version, 0]) + length + header)
        with pytest.raises(DataError):
            read_predictions(path)
