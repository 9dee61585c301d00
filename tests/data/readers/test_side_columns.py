"""Columns beside image and label: usual names, groups, splits, folds and weights."""

import pytest
from tests.data.readers.test_label_cells import rows

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.data.folds import make_folds
from tercet.data.in_memory import table_from_arrays
from tercet.data.table import SampleTable


def folded(*folds: str, count: int = 2) -> SampleTable:
    lines = [f"{row}-{copy}.jpg,{'xy'[copy]},{fold}" for row, fold in enumerate(folds) for copy in range(count)]
    return rows("\n".join(["image,label,fold", *lines]) + "\n")


@pytest.mark.parametrize(
    "name",
    ["file_name", "image_id", "image_path", "filepath", "img", "filename", "File Name", "image-file", "Path", "fname"],
)
@pytest.mark.parametrize(
    "label", ["label", "class", "target", "category", "species", "breed", "diagnosis", "Class_Name"]
)
def test_usual_column_names(name: str, label: str) -> None:
    table = rows(f"number,{label},{name}\n5,cat,a.jpg\n6,dog,b.jpg\n")
    assert table.locations == ("a.jpg", "b.jpg") and table.classes == ("cat", "dog")


def test_files_are_preferred_to_ids_and_labels_to_further_names() -> None:
    table = rows("image_id,file_name,label,species\n1,a.jpg,x,s\n2,b.jpg,y,s\n")
    assert table.locations == ("a.jpg", "b.jpg") and table.classes == ("x", "y")
    with pytest.raises(ConfigError, match="species, breed could all be the label"):
        rows("image,species,breed\na,x,y\n")


@pytest.mark.parametrize("value", ["", "-1", "x", "nan", "1.5"])
def test_an_unusable_fold_column_stops_cross_validation_only(value: str) -> None:
    table = folded("0", "1", "0", value)
    assert table.folds is not None and table.folds.tolist() == [0, 0, 1, 1, 0, 0, -1, -1]
    with pytest.raises(DataError, match=r"2 of 8 images have no fold, such as '3-0.jpg'"):
        make_folds(table, DataConfig(test_fraction=0))


def test_folds_may_be_written_as_floats() -> None:
    plan = make_folds(folded("0.0", "1.0"), DataConfig(test_fraction=0))
    assert [fold.name for fold in plan.folds] == ["0", "1"]


@pytest.mark.parametrize("column", ["weight", "group", "patient"])
@pytest.mark.parametrize("value", ["", "heavy", "-1"])
def test_columns_that_are_not_chosen_have_no_effect(column: str, value: str) -> None:
    table = rows(f"image,label,{column}\na,x,1\nb,y,{value}\n")
    assert table.weights is None and table.groups is None and table.notes == ()


@pytest.mark.parametrize("blank", ["", "  ", "nan", "NULL"])
def test_rows_without_a_group_are_groups_of_their_own(blank: str) -> None:
    table = rows(f"image,label,p\na,x,1\nb,y,{blank}\nc,x,{blank}\nd,y,1\n", group_column="p")
    assert table.groups == ("1", "=b", "=c", "1")
    assert "2 rows have no group: each is a group of its own" in table.notes
    with pytest.raises(DataError, match="2 images have no group, such as 'b'"):
        make_folds(table, DataConfig(test_fraction=0), leave_one_group_out=True)


def test_arrays_without_a_group_are_groups_of_their_own() -> None:
    import numpy as np

    table = table_from_arrays(np.zeros((4, 2, 2), np.uint8), list("xyxy"), groups=["g", "", None, "g"])  # type: ignore[list-item]
    assert table.groups == ("g", "=image-00001", "=image-00002", "g")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train_set", "train"),
        ("TRAINING", "train"),
        ("trn", "train"),
        ("Train2", "train"),
        ("trainset", "train"),
        ("dev", "val"),
        ("valid", "val"),
        ("val-split", "val"),
        ("eval", "test"),
        ("hold-out", "test"),
        ("Test Data", "test"),
    ],
)
def test_split_names_with_additions(name: str, split: str) -> None:
    assert rows(f"image,label,split\na,x,train\nb,y,{name}\n").splits == ("train", split)


def test_columns_without_names_of_splits_are_ignored_with_a_note() -> None:
    table = rows("image,label,split\na,x,kitchen\nb,y,garden\n")
    assert table.splits is None
    assert table.notes == ("the column 'split' is ignored: it has no names of splits, but 'garden', 'kitchen'",)
    with pytest.raises(DataError, match=r"line 2: split 'kitchen' is not train, val or test"):
        rows("image,label,split\na,x,kitchen\nb,y,garden\n", split_column="split")


def test_unknown_splits_beside_known_ones_are_an_error_that_names_the_option() -> None:
    content = "image,label,split\na,x,train\nb,y,extra\nc,x,\n"
    with pytest.raises(DataError, match=r"2 rows are invalid: line 3: split 'extra' .*--data.split-column none"):
        rows(content)
    assert rows(content, split_column="none").splits is None
    assert rows("image,label,part,split\na,x,train,?\nb,y,test,?\n", split_column="part").splits == ("train", "test")


@pytest.mark.parametrize(("column", "split"), [("is_valid", "val"), ("is_test", "test"), ("isVal", "val")])
@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("1", "0"), ("yes", "no")])
def test_flags_of_fastai_are_splits(column: str, split: str, yes: str, no: str) -> None:
    table = rows(f"fname,labels,{column}\na,x,{yes}\nb,y,{no}\n")
    assert table.splits == (split, "train") and f"the column '{column}' gives the splits" in table.notes
