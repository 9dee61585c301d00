"""Folders that would be read as classes and may be splits: one line of refusal, in folders and in archives."""

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


def refusal(folder: Path) -> str:
    """Return the message, which is the same for a folder and for an archive of it."""
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
        ("Training", "Testing"),
        ("Training", "Test"),
        ("seg_train", "seg_test"),
        ("training_set", "test_set"),
        ("trainset", "testset"),
        ("TrainData", "ValData"),
        ("train2019", "val2019"),
        ("TRAIN", "hold-out"),
        ("train", "eval"),
        ("training", "validation"),
        ("train", "augmented"),
        ("train", "preview"),
    ],
)
@pytest.mark.parametrize("within", ["", "archive/"])
def test_folders_that_look_like_splits(tree: Tree, names: tuple[str, str], within: str) -> None:
    root = tree(*(f"{within}{name}/{kind}/{row}.png" for name in names for kind in "ab" for row in range(2)))
    message = refusal(root)
    assert all(name in message for name in names)
    assert "rename splits to 'train', 'val' and 'test'" in message


@pytest.mark.parametrize("other", ["test", "unlabeled", "holdout", "pictures-to-do", "test_images"])
def test_class_folders_within_train_beside_a_flat_folder(tree: Tree, other: str) -> None:
    assert "rename splits" in refusal(tree("train/a/1.png", "train/b/2.png", f"{other}/1.png", f"{other}/2.png"))


def test_flat_folders_that_are_all_named_as_splits(tree: Tree) -> None:
    assert "classes or splits" in refusal(tree("train/1.png", "test/2.png"))


@pytest.mark.parametrize(
    "paths",
    [
        ("north/cat/1.png", "north/dog/1.png", "south/cat/1.png", "south/dog/1.png"),
        ("north/1/cat/1.png", "north/1/dog/1.png", "south/2/cat/1.png", "south/2/dog/1.png"),
        ("cat/train/1.png", "cat/test/1.png", "dog/train/1.png", "dog/test/1.png"),
    ],
)
def test_top_folders_with_the_same_sub_folders(tree: Tree, paths: tuple[str, ...]) -> None:
    assert "sub-folders of the same names" in refusal(tree(*paths))


@pytest.mark.parametrize(
    "folders", [("train_images", "test_images"), ("train", "test"), ("images", "test"), ("a", "b")]
)
def test_a_table_beside_folders_of_images(tree: Tree, folders: tuple[str, str]) -> None:
    root = tree(*(f"{folder}/{row}.png" for folder in folders for row in range(4)))
    (root / "train.csv").write_text("image_id,label\n0,x\n1,y\n2,x\n3,y\n")
    assert "the table 'train.csv' beside folders of images" in refusal(root)
    options = DataConfig(image_column="image_id", image_pattern=f"{folders[0]}/{{image_id}}.png")
    for data in (root, root.with_suffix(".zip")):  # what the message proposes
        assert load_table(data, options).classes == ("x", "y")
    (root / "train.csv").rename(root / "set.csv")
    if folders == ("a", "b"):  # any other table beside class folders stays unread
        assert load_table(root, CONFIG).classes == ("a", "b")
    else:
        assert "'set.csv'" in refusal(root)


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


def test_one_of_the_splits_can_be_named(tree: Tree) -> None:
    root = tree("Training/a/1.png", "Training/b/1.png", "Testing/a/1.png", "Testing/b/1.png")
    assert load_table(root / "Testing", CONFIG).classes == ("a", "b")
    for old, new in (("Training", "train"), ("Testing", "test")):
        (root / old).rename(root / new)
    assert set(load_table(root, CONFIG).splits or ()) == {"train", "test"}
