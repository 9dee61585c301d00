"""Prediction and label files from elsewhere: read when right, refused with a reason when not."""

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tercet.core.errors import DataError, StorageError
from tercet.core.prediction_files import attach_labels, read_labels, read_predictions, write_csv
from tercet.core.predictions import Predictions

ROWS = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
CLASSES = ("cat", "dog", "owl")
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
hostile = st.one_of(text, st.sampled_from("=+-@'\t\r\n\0,;\"").flatmap(lambda one: st.builds(one.__add__, text)))


def same(one: Predictions, two: Predictions) -> bool:
    arrays = np.array_equal(one.probabilities, two.probabilities) and np.array_equal(one.labels, two.labels)
    return one.ids == two.ids and one.classes == two.classes and arrays


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_arrays_of_any_float_are_read(dtype: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS.astype(dtype))
    result = read_predictions(tmp_path / "x.npy", labels=[0, 2], classes=CLASSES)
    np.testing.assert_allclose(result.probabilities, ROWS, atol=1e-3)
    assert (result.ids, result.classes, result.labels.tolist()) == (("0", "1"), CLASSES, [0, 2])
    assert read_predictions(tmp_path / "x.npy").classes == ("0", "1", "2")


def test_the_content_tells_the_kind_not_the_name(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    moved = (tmp_path / "x.npy").rename(tmp_path / "x.csv")
    np.testing.assert_array_equal(read_predictions(moved).probabilities, ROWS)


def test_our_own_files_and_foreign_archives_are_read(tmp_path: Path) -> None:
    ours = Predictions.of(ROWS, ids=["x", "y"], classes=CLASSES, labels=[0, -1])
    ours.save(tmp_path / "ours.npz")
    assert same(read_predictions(tmp_path / "ours.npz"), ours)
    np.savez(tmp_path / "foreign.npz", softmax=ROWS.astype(np.float32), epochs=np.arange(3))
    assert read_predictions(str(tmp_path / "foreign.npz")).classes == ("0", "1", "2")
    np.savez(tmp_path / "two.npz", a=ROWS, b=ROWS)
    with pytest.raises(DataError, match=r"exactly one table of floats.*a, b"):
        read_predictions(tmp_path / "two.npz")


def test_given_classes_put_named_columns_in_order(tmp_path: Path) -> None:
    ours = Predictions.of(ROWS, ids=["x", "y"], classes=CLASSES, labels=[0, 2])
    ours.save(tmp_path / "x.npz")
    write_csv(ours, tmp_path / "x.csv")
    for name in ("x.npz", "x.csv"):
        turned = read_predictions(tmp_path / name, classes=CLASSES[::-1])
        assert turned.classes == CLASSES[::-1]
        assert turned.labels.tolist() == [2, 0]
        np.testing.assert_array_equal(turned.probabilities, ROWS[:, ::-1])
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
def test_tables_of_any_delimiter_are_read(name: str, content: str, tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-16") if "\ufeff" not in content else ("utf-8",):
        result = read_predictions(written(tmp_path / name, content.encode(encoding)))
        assert (result.ids, result.classes) == (("x", "y"), CLASSES)
        np.testing.assert_array_equal(result.probabilities, ROWS)
        assert not result.known.any()


def test_a_label_column_holds_names_and_may_have_gaps(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "id,label,cat,dog,owl\n007,owl,0.7,0.2,0.1\ny,,0.1,0.1,0.8\n")
    result = read_predictions(path)
    assert result.ids == ("007", "y")
    assert result.labels.tolist() == [2, -1]


@settings(deadline=None, max_examples=40)
@given(st.lists(hostile, min_size=3, max_size=3, unique=True), st.lists(hostile, min_size=3, max_size=3, unique=True))
@example(["=1+1", "'=1", "''=1"], ["label", "predicted", "id"])
@example(["\rx", "\nx", "a\r\nb"], ["+", "Label", " label "])
def test_what_is_written_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], classes: list[str]
) -> None:
    values = np.random.default_rng(len("".join(ids))).dirichlet(np.ones(3), 3)
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    for labels in ([0, -1, 2], [-1, -1, -1]):
        given_one = Predictions.of(values, ids=ids, classes=classes, labels=labels)
        write_csv(given_one, path)
        assert same(read_predictions(path), given_one)


def test_undecodable_names_survive_the_table(tmp_path: Path) -> None:
    given_one = Predictions.of(ROWS, ids=["\udcff.jpg", "y"], classes=CLASSES)
    write_csv(given_one, tmp_path / "x.csv")
    assert same(read_predictions(tmp_path / "x.csv"), given_one)


def test_no_cell_of_the_table_is_a_formula(tmp_path: Path) -> None:
    bad = ("=cmd", "+1", "-1", "@x", "\tx", "\rx")
    given_one = Predictions.of(np.eye(6), ids=bad, classes=bad, labels=range(6))
    for top in (None, 2):
        write_csv(given_one, tmp_path / "x.csv", top=top)
        with open(tmp_path / "x.csv", encoding="utf-8", newline="") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        assert cells and all(cell[0] not in "=+-@\t\r" for cell in cells)


def test_the_best_classes_alone_are_for_people(tmp_path: Path) -> None:
    given_one = Predictions.of(ROWS, ids=["x", "y"], classes=CLASSES)
    write_csv(given_one, tmp_path / "x.csv", top=2)
    lines = (tmp_path / "x.csv").read_text().splitlines()
    assert lines[0] == "id,predicted,class_1,probability_1,class_2,probability_2"
    assert lines[1] == "x,cat,cat,0.7,dog,0.2"
    assert lines[2] == "y,owl,owl,0.8,cat,0.1"
    write_csv(given_one, tmp_path / "x.csv", top=99)
    assert (tmp_path / "x.csv").read_text().splitlines()[0].endswith("class_3,probability_3")
    with pytest.raises(DataError, match="'cat' is not a number"):
        read_predictions(tmp_path / "x.csv")
    with pytest.raises(DataError, match="must be positive"):
        write_csv(given_one, tmp_path / "x.csv", top=0)


def test_a_table_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(StorageError, match=r"x\.csv"):
        write_csv(Predictions.of(ROWS), tmp_path / "x.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "names no id column"),
        ("cat,dog\n0.5,0.5\n", "names no id column"),
        ("\x89PNG\r\n\x1a\n\0\0\0", "names no id column"),
        ("id,cat,dog\n", "holds no sample"),
        ("id,label\nx,cat\n", "holds no column of a class"),
        ("id,cat,dog\nx,0.5\n", "line 2 has 2 cells, the header has 3"),
        ("id,cat,dog\nx,0.5,half\n", "line 2, column 'dog': 'half' is not a number"),
        ("id;cat;dog\nx;0,5;0,5\n", "line 2, column 'cat': '0,5' is not a number"),
        ("id,cat,dog\nx,nan,1\n", "sample 1 has a value that is not finite"),
        ("id,cat,dog\nx,0.5,0.5\ny,3.5,-1.25\n", "sample 2 sums to 2.25 with least value -1.25.*softmax"),
        ("id,cat,dog\nx,50,50\n", "sums to 100"),
        ("id,cat,dog\nx,0.5,0.5\nx,0.5,0.5\n", "ids are not unique"),
        ("id,cat,cat\nx,0.5,0.5\n", "class names are not unique: cat, cat"),
        ("id,label,cat,dog\nx,cta,0.5,0.5\n", "label 'cta' is none of the 2 classes, did you mean 'cat'"),
        ('id,cat,dog\n"' + "x" * 200_000 + '",0.5,0.5\n', "names no id column"),
    ],
)
def test_wrong_tables_are_refused_with_their_place(content: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "bad.csv", content)
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[2.0, -1.0, 0.5]]), "softmax"),
        (np.array([[np.inf, 0.0]]), "not finite"),
        (np.array([0.5, 0.5]), r"float64 of shape \(2,\), expected floats"),
        (np.array([[1, 0]]), "int64"),
        (np.zeros((0, 3)), "expected floats|usable"),
        (np.array([[{}]], dtype=object), "usable array"),
        (np.array([["0.5", "0.5"]]), "expected floats"),
    ],
)
def test_wrong_arrays_are_refused(values: Any, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", values, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        read_predictions(tmp_path / "bad.npy")


def test_a_wrong_number_of_class_names_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(DataError, match="3 columns for 2 class names"):
        read_predictions(tmp_path / "x.npy", classes=["a", "b"])
    with pytest.raises(DataError, match="not unique"):
        read_predictions(tmp_path / "x.npy", classes=["a", "b", "b"])


def test_damaged_files_are_data_errors(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((200, 5), 0.2))
    np.savez(tmp_path / "x.npz", p=np.full((200, 5), 0.2))
    for name in ("x.npy", "x.npz"):
        content = (tmp_path / name).read_bytes()
        for keep in (9, 100, len(content) - 50):
            with pytest.raises(DataError, match="bad"):
                read_predictions(written(tmp_path / "bad", content[:keep]))


def test_an_array_that_lies_about_its_size_takes_no_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    lying = (tmp_path / "x.npy").read_bytes().replace(b"(2, 3)", b"(1000000000000, 3)")
    with pytest.raises(DataError, match="usable array"):
        read_predictions(written(tmp_path / "bad.npy", lying))


def test_absent_files_and_folders_are_data_errors(tmp_path: Path) -> None:
    for read in (read_predictions, read_labels):
        with pytest.raises(DataError, match="does not exist"):
            read(tmp_path / "absent")
        with pytest.raises(DataError, match="is not a file"):
            read(tmp_path)


def idx(labels: list[int], *, count: int | None = None) -> bytes:
    return b"\0\0\x08\x01" + (len(labels) if count is None else count).to_bytes(4, "big") + bytes(labels)


def test_labels_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([2, 0], dtype=np.uint8))
    assert list(read_labels(tmp_path / "a.npy")) == [2, 0]
    assert list(read_labels(written(tmp_path / "a-idx1-ubyte", idx([2, 0])))) == [2, 0]
    assert list(read_labels(written(tmp_path / "a.gz", gzip.compress(idx([2, 0]))))) == [2, 0]
    assert read_labels(written(tmp_path / "a.csv", "label,id\ncat,x\ndog,y\ncat,x\n")) == {"x": "cat", "y": "dog"}
    assert read_labels(written(tmp_path / "b.csv", "image;Class\n'=x;cat\n")) == {"=x": "cat"}
    assert read_labels(written(tmp_path / "a.txt", "cat, big\r\ndog\n\n")) == ("cat, big", "dog")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", idx([1, 2], count=3), "announces 3 labels and holds 2"),
        ("a", idx([1, 2], count=1), "announces 1 labels and holds more"),
        ("a", idx([], count=4_000_000_000), "not an IDX label file"),
        ("a", b"\0\0\x08\x03" + bytes(12), "not an IDX label file"),
        ("a", b"\0\0\x08", "not an IDX label file"),
        ("a", gzip.compress(b"", mtime=0), "begins with nothing"),
        ("a", gzip.compress(idx([1] * 99), mtime=0)[:-20], "damaged"),
        ("a", b"\x1f\x8b\x08garbage!", "damaged"),
        ("a.csv", b"cat\ndog\n", "no id and label column"),
        ("a.csv", b"id,label\nx,\n", "line 2 has no label"),
        ("a.csv", b"id,label\nx\n", "line 2 has no label"),
        ("a.csv", b"id,label\nx,cat\ny,cat\nx,dog\n", "line 4 calls 'x' 'dog', an earlier line 'cat'"),
        ("a.txt", b"cat\n\ndog\n", "line 2 is blank"),
        ("a.txt", b"", "line 1 is blank"),
    ],
)
def test_wrong_label_files_are_refused_with_their_place(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_labels(written(tmp_path / name, content))


@pytest.mark.parametrize("values", [np.eye(2, dtype=int), np.array([0.0, 1.0]), np.array(["cat"])])
def test_label_arrays_hold_one_integer_a_sample(values: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match="one integer a sample"):
        read_labels(tmp_path / "a.npy")


PLAIN = Predictions.of(ROWS, ids=["x", "y"], classes=CLASSES)


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
def test_labels_are_attached_by_position_or_by_id(labels: Any, expected: list[int]) -> None:
    assert attach_labels(PLAIN, labels).labels.tolist() == expected


def test_names_go_before_numbers() -> None:
    numbered = Predictions.of(ROWS[:1], classes=["2", "0", "1"])
    assert attach_labels(numbered, ["2"]).labels.tolist() == [0]
    assert attach_labels(numbered, [2]).labels.tolist() == [2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0], r"shape \(1,\) for 2 samples"),
        ([0, 1, 2], "for 2 samples"),
        ([0, 3], "labels lie in 0..3"),
        ([0.0, 1.0], "of type float64"),
        (["cat", "dgo"], "label 'dgo' is none of the 3 classes, did you mean 'dog'"),
        (["cat", "1"], "label '1' is none"),
        (["00", "1"], "label '00' is none"),
        ({"x": "cat"}, "1 of 2 samples have no label, such as 'y'"),
        ({}, "2 of 2 samples"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        attach_labels(PLAIN, labels)


def test_labels_that_contradict_the_file_are_refused() -> None:
    known = PLAIN.with_labels([0, -1])
    assert attach_labels(known, [0, 2]).labels.tolist() == [0, 2]
    with pytest.raises(DataError, match="sample 'x' is not the one in its predictions file"):
        attach_labels(known, [1, 2])
