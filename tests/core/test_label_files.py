"""Columns `rejected` and `set` of a prediction table: written for people, left out when the table is read again."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.errors import DataError
from tercet.core.prediction_files import read_predictions, write_csv
from tercet.core.predictions import Predictions

NAMES = st.sampled_from(["cat", "rejected", "set", "Set ", "label", "predicted", "3", "yes", "=1+1", "a | b"])
MARKS = {
    "none": {},
    "both": {"rejected": ["no", "yes"], "set": ["cat", "cat | dog"]},
    "rejected": {"rejected": ["no", "yes"]},
    "set": {"set": ["=cat", ""]},
}


def said(classes: list[str]) -> Predictions:
    shares = np.arange(1.0, len(classes) + 1)
    return Predictions.of(np.stack([shares, shares[::-1]]) / shares.sum(), ids=["a.png", "b.png"], classes=classes)


@pytest.mark.parametrize("marks", MARKS)
@given(st.lists(NAMES, min_size=2, max_size=4, unique=True))
def test_the_table_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, marks: str, classes: list[str]
) -> None:
    path = tmp_path_factory.mktemp("marks") / "out.csv"
    write_csv(said(classes), path, marks=MARKS[marks])
    found = read_predictions(path)
    assert found.classes == tuple(classes)
    assert np.array_equal(found.probabilities, said(classes).probabilities)


def test_they_stand_after_the_predicted_class(tmp_path: Path) -> None:
    write_csv(said(["cat", "dog"]), tmp_path / "out.csv", marks=MARKS["both"])
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as stream:
        header, first, second = csv.reader(stream)
    assert header == ["id", "predicted", "rejected", "set", "cat", "dog"]
    assert first[:4] == ["a.png", "dog", "no", "cat"]
    assert second[:4] == ["b.png", "cat", "yes", "cat | dog"]


def test_a_cell_is_no_formula(tmp_path: Path) -> None:
    write_csv(said(["cat", "dog"]), tmp_path / "out.csv", marks=MARKS["set"])
    assert ",'=cat," in (tmp_path / "out.csv").read_text("utf-8")


def test_sets_of_classes_that_are_numbers(tmp_path: Path) -> None:
    write_csv(said(["0", "3"]), tmp_path / "out.csv", marks={"set": ["3", "0"]})
    assert read_predictions(tmp_path / "out.csv").classes == ("0", "3")


def test_a_strangers_class_of_that_name_is_a_class(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text("id,predicted,rejected,scratched\na,rejected,0.75,0.25\n")
    assert read_predictions(path).classes == ("rejected", "scratched")
    path.write_text("id,rejected,set\na,0.75,0.25\n")
    assert read_predictions(path).classes == ("rejected", "set")
    path.write_text("id,predicted,cat,rejected\na,cat,0.75,no\n")  # not where it is written: a damaged class
    with pytest.raises(DataError, match="rejected"):
        read_predictions(path)
