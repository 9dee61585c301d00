"""Folders of which it is unclear whether they are classes or splits: one-line errors, for folders and archives."""

import zipfile
from pathlib import Path

import pytest
from tests.fixtures.image_trees import Tree

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.load import load_table

CONFIG = DataConfig()


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def error_message(folder: Path) -> str:
    """Return the error message, equal for the folder and its archive."""
    messages = []
    for data in (folder, zipped(folder)):
        with pytest.raises(DataError) as error:
            load_table(data, CONFIG)
        messages.append(str(error.value).replace(str(data), "DATA"))
    assert messages[0] == messages[1] and "\n" not in messages[0]
    return messages[0]


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Test"),
        ("archive/seg_train", "archive/seg_test"),
        ("training_set", "test_set"),
        ("trainset", "testset"),
        ("TrainData", "ValData"),
        ("train2019", "val2019"),
        ("TRAIN", "hold-out"),
        ("train", "eval"),
        ("archive/train", "archive/augmented"),
        ("train", "preview"),
    ],
)
def test_folder_names_similar_to_splits_are_ambiguous(tree: Tree, names: tuple[str, str]) -> None:
    root = tree(*(f"{name}/{kind}/{row}.png" for name in names for kind in "ab" for row in range(2)))
    message = error_message(root)
    assert all(name.removeprefix("archive/") in message for name in names)
    assert "rename splits to 'train', 'val' and 'test'" in message


@pytest.mark.parametrize("other", ["test", "unlabeled", "holdout", "pictures-to-do", "test_images"])
def test_nested_train_folder_beside_a_flat_folder_is_ambiguous(tree: Tree, other: str) -> None:
    assert "rename splits" in error_message(tree("train/a/1.png", "train/b/2.png", f"{other}/1.png", f"{other}/2.png"))


def test_flat_split_folders_are_ambiguous(tree: Tree) -> None:
    assert "classes or splits" in error_message(tree("train/1.png", "test/2.png"))


@pytest.mark.parametrize(
    "paths",
    [
        ("north/cat/1.png", "north/dog/1.png", "south/cat/1.png", "south/dog/1.png"),
        ("north/1/cat/1.png", "north/1/dog/1.png", "south/2/cat/1.png", "south/2/dog/1.png"),
        ("cat/train/1.png", "cat/test/1.png", "dog/train/1.png", "dog/test/1.png"),
    ],
)
def test_folders_with_the_same_sub_folders_are_ambiguous(tree: Tree, paths: tuple[str, ...]) -> None:
    assert "sub-folders of the same names" in error_message(tree(*paths))


@pytest.mark.parametrize(
    "folders", [("train_images", "test_images"), ("train", "test"), ("images", "test"), ("a", "b")]
)
def test_table_beside_image_folders_is_ambiguous(tree: Tree, folders: tuple[str, str]) -> None:
    root = tree(*(f"{folder}/{row}.png" for folder in folders for row in range(4)))
    (root / "train.csv").write_text("image_id,label\n0,x\n1,y\n2,x\n3,y\n")
    assert "the table 'train.csv' beside folders of images" in error_message(root)
    options = DataConfig(image_column="image_id", image_pattern=f"{folders[0]}/{{image_id}}.png")
    for data in (root, root.with_suffix(".zip")):  # as the message suggests
        assert load_table(data, options).classes == ("x", "y")
    (root / "train.csv").rename(root / "set.csv")
    if folders == ("a", "b"):  # other tables beside class folders are ignored
        assert load_table(root, CONFIG).classes == ("a", "b")
    else:
        assert "'set.csv'" in error_message(root)


@pytest.mark.parametrize(
    ("paths", "classes"),
    [
        (("train/1.png", "bus/1.png", "car/1.png"), ("bus", "car", "train")),
        (("train/steam/1.png", "bus/city/1.png", "car/1.png"), ("bus", "car", "train")),
        (("positive_test/1.png", "negative_test/1.png"), ("negative_test", "positive_test")),
        (("n01/images/1.png", "n02/images/1.png"), ("n01", "n02")),
        (("cat/2020/01/1.png", "cat/2021/02/1.png", "dog/2020/01/1.png", "dog/2021/02/1.png"), ("cat", "dog")),
        (("cat/old/1.png", "dog/old/1.png", "dog/new/1.png"), ("cat", "dog")),
        (("photos/1.png", "drawings/1.png"), ("drawings", "photos")),
        (("valid/1.png", "invalid/1.png"), ("invalid", "valid")),
    ],
)
def test_class_folders_stay_classes(tree: Tree, paths: tuple[str, ...], classes: tuple[str, ...]) -> None:
    assert load_table(tree(*paths), CONFIG).classes == classes


def test_one_split_folder_can_be_the_data(tree: Tree) -> None:
    root = tree("Training/a/1.png", "Training/b/1.png", "Testing/a/1.png", "Testing/b/1.png")
    assert load_table(root / "Testing", CONFIG).classes == ("a", "b")
    for old, new in (("Training", "train"), ("Testing", "test")):
        (root / old).rename(root / new)
    assert set(load_table(root, CONFIG).splits or ()) == {"train", "test"}
