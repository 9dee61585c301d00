"""Folders read as classes or splits by their structure: understood, or refused in one line that names the options."""

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fixtures.image_trees import CLASSES, Tree, archives, in_classes, numbered, picture

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError, TercetError
from tercet.data.load import load_table
from tercet.data.readers.split_names import split_name
from tercet.data.table import SampleTable

CONFIG = DataConfig()


def read_all(folder: Path, config: DataConfig = CONFIG) -> SampleTable:
    """Return the table of a folder, after checking that its archives are read alike."""
    tables = [load_table(data, config) for data in (folder, *archives(folder))]
    for table in tables[1:]:
        for column in ("ids", "classes", "splits", "layout", "notes", "unlabelled"):
            assert getattr(table, column) == getattr(tables[0], column)
    return tables[0]


def error_message(folder: Path, config: DataConfig = CONFIG) -> str:
    """Return the error message, equal for the folder and its archives."""
    messages = []
    for data in (folder, *archives(folder)):
        with pytest.raises(TercetError) as error:
            load_table(data, config)
        messages.append(str(error.value).replace(str(data), "DATA"))
    assert len(set(messages)) == 1 and "\n" not in messages[0]
    return messages[0]


UNDERSTOOD = {
    "brain MRI": (in_classes("Training") + in_classes("Testing", count=2), {"train": 18, "test": 6}, 0),
    "fruits": (
        in_classes("fruits-360/Training")
        + in_classes("fruits-360/Test", count=2)
        + numbered("fruits-360/test-multiple_fruits")
        + numbered("fruits-360/papers"),
        {"train": 18, "test": 6},
        4,
    ),
    "Intel scenes": (
        in_classes("seg_train/seg_train") + in_classes("seg_test/seg_test", count=2) + numbered("seg_pred/seg_pred"),
        {"train": 18, "test": 6},
        4,
    ),
    "plant seedlings": (in_classes("train") + numbered("test"), {"train": 18}, 4),
    "chest X-ray": (
        in_classes("chest/train") + in_classes("chest/val", count=1) + in_classes("chest/chest/train"),
        {"train": 18, "val": 3},
        0,
    ),
    "nested twice": (
        in_classes("data/set/train/images") + in_classes("data/set/val/images"),
        {"train": 18, "val": 18},
        0,
    ),
    "years": (in_classes("train2019") + in_classes("val2019") + numbered("test2019"), {"train": 18, "val": 18}, 4),
    "sets": (in_classes("training_set/training_set") + in_classes("test_set/test_set"), {"train": 18, "test": 18}, 0),
    "hold-out": (in_classes("TRAIN") + in_classes("hold-out"), {"train": 18, "test": 18}, 0),
    "eval": (in_classes("trainset") + in_classes("evaluation set"), {"train": 18, "test": 18}, 0),
    "fewer classes": (in_classes("my_train") + in_classes("photos_test", CLASSES[:1]), {"train": 18, "test": 6}, 0),
    "exact words": (
        ["Train/a/1.png", "Train/b/1.png", "Valid/a/1.png", "test/b/1.png"],
        {"train": 2, "val": 1, "test": 1},
        0,
    ),
}


@pytest.mark.parametrize(("paths", "splits", "unlabelled"), UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_splits_are_recognized(tree: Tree, paths: list[str], splits: dict[str, int], unlabelled: int) -> None:
    table = read_all(tree(*paths))
    assert table.classes == (("a", "b") if "Train/a/1.png" in paths else CLASSES)
    assert Counter(table.splits) == splits and len(table.unlabelled) == unlabelled
    assert "training = " in table.layout and ("unlabelled = " in table.layout) == bool(unlabelled)
    assert sum("--predict-test" in note for note in table.notes) == bool(unlabelled)
    rest = sum("papers/" in path or "chest/chest" in path for path in paths)
    assert any(f"{rest} images left out" in note for note in table.notes) == bool(rest)


REFUSED = {
    "flat splits": (["train/1.png", "test/2.png"], "may be classes or splits"),
    "flat splits beside a class": (["train/1.png", "bus/1.png", "test/1.png"], "--data.layout classes"),
    "flat images and test": (["images/1.png", "images/2.png", "test/1.png"], "may be classes or splits"),
    "nested images and test": (in_classes("photos") + in_classes("dev"), "--data.train photos --data.test dev"),
    "flat folder of other name": (in_classes("train") + numbered("pictures-to-do"), "--data.train train"),
    "nested augmented": (in_classes("train") + in_classes("augmented"), "--data.train train"),
    "flat preview": (in_classes("train") + numbered("preview"), "--data.train train"),
    "flat validation": (in_classes("train") + numbered("val"), "may be classes or splits"),
    "third folder": (in_classes("train") + in_classes("test") + in_classes("more"), "'more' with the same classes"),
    "two validation folders": (in_classes("train") + in_classes("val") + in_classes("dev"), "--data.val dev"),
    "same classes": (in_classes("north") + in_classes("south"), "--data.train north --data.test south"),
    "deeper": (["north/1/cat/1.png", "north/1/dog/1.png", "south/2/cat/1.png", "south/2/dog/1.png"], "same names"),
    "splits in classes": (["cat/train/1.png", "cat/test/1.png", "dog/train/1.png", "dog/test/1.png"], "'cat' contains"),
    "splits in one folder": (
        in_classes("set/train") + in_classes("set/test") + numbered("notebooks"),
        "--data.train set/train --data.test set/test",
    ),
    "splits in splits": (
        in_classes("Training/train") + in_classes("Training/val") + in_classes("Testing/test"),
        "contains the split folders",
    ),
    "other classes": (["train_shoes/a/1.png", "train_shoes/b/1.png", "test_tube/c/1.png"], "not the same classes"),
    "classes in names": (
        numbered("train", name="cat.{}.jpg") + numbered("train", name="dog.{}.jpg") + numbered("test1"),
        r"--data.class-from '^(.*[^\W\d_])[\W_]*\d+\.'",
    ),
    "one folder, classes in names": (
        numbered("images", name="great_pyrenees_{}.jpg") + numbered("images", name="Abyssinian_{}.jpg"),
        "--data.class-from",
    ),
    "no folder, classes in names": (["cat1.png", "cat2.png", "dog1.png", "dog2.png"], "--data.class-from"),
}


@pytest.mark.parametrize(("paths", "text"), REFUSED.values(), ids=REFUSED)
def test_ambiguous_folders_are_refused_with_the_option(tree: Tree, paths: list[str], text: str) -> None:
    assert text in error_message(tree(*paths))


CLASS_FOLDERS = [
    (("train/1.png", "bus/1.png", "car/1.png"), ("bus", "car", "train")),
    (("train/steam/1.png", "bus/city/1.png", "car/1.png"), ("bus", "car", "train")),
    (("positive_test/1.png", "negative_test/1.png"), ("negative_test", "positive_test")),
    (("n01/images/1.png", "n02/images/1.png"), ("n01", "n02")),
    (("cat/2020/01/1.png", "cat/2021/02/1.png", "dog/2020/01/1.png", "dog/2021/02/1.png"), ("cat", "dog")),
    (("cat/old/1.png", "dog/old/1.png", "dog/new/1.png"), ("cat", "dog")),
    (("photos/1.png", "drawings/1.png"), ("drawings", "photos")),
    (("valid/1.png", "invalid/1.png"), ("invalid", "valid")),
    (("a/b/cat/1.png", "a/b/dog/1.png"), ("cat", "dog")),
    (("stray.png", "pets/cat/1.png", "pets/dog/1.png"), ("cat", "dog")),
]


@pytest.mark.parametrize(("paths", "classes"), CLASS_FOLDERS)
def test_class_folders_stay_classes(tree: Tree, paths: tuple[str, ...], classes: tuple[str, ...]) -> None:
    table = read_all(tree(*paths))
    assert table.classes == classes and table.splits is None and table.layout.startswith("class folders: ")


def test_an_empty_folder_beside_a_class_folder_is_a_class(tree: Tree) -> None:
    root = tree("cat/old/1.png", "cat/new/1.png")
    (root / "dog").mkdir()
    table = load_table(root, CONFIG, min_classes=1)
    assert table.classes == ("cat",) and table.empty == ("dog",)


def test_a_folder_of_other_files_beside_the_images_is_ignored(tree: Tree) -> None:
    root = tree("images/cat/1.png", "images/dog/1.png")
    (root / "annotations").mkdir()
    (root / "annotations/1.xml").write_text("x")
    assert read_all(root).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("options", "classes", "splits", "left_out"),
    [
        ({"layout": "classes"}, ("north", "south", "train"), {}, 0),
        ({"layout": "splits"}, CLASSES, {"train": 18}, 36),
        ({"train": "north", "test": "south"}, CLASSES, {"train": 18, "test": 18}, 18),
        ({"train": "north"}, CLASSES, {"train": 18}, 36),
        ({"train": "north", "val": "south", "test": "train/glioma"}, CLASSES, {"train": 18, "val": 18}, 0),
    ],
)
def test_options_decide(
    tree: Tree, options: dict[str, str], classes: tuple[str, ...], splits: dict[str, int], left_out: int
) -> None:
    root = tree(*in_classes("set/north"), *in_classes("set/south"), *in_classes("set/train"))
    table = read_all(root, DataConfig(**options))  # type: ignore[arg-type]
    assert table.classes == classes and Counter(table.splits or ()) == splits
    assert sum(int(note.split(": ")[1].split()[0]) for note in table.notes if note.endswith("left out")) == left_out
    assert len(table.unlabelled) == (6 if options.get("test") == "train/glioma" else 0)


def test_named_folders_without_a_training_folder_leave_the_rest_for_training(tree: Tree) -> None:
    root = tree(*in_classes("photos"), *in_classes("checked", count=2))
    table = read_all(root, DataConfig(test="checked"))
    assert Counter(table.splits) == {"train": 18, "test": 6}
    (root / "photos").rename(root / "train")
    (root / "checked").rename(root / "test")
    for part in in_classes("unseen", count=1):
        (root / part).parent.mkdir(parents=True, exist_ok=True)
        picture().save(root / part)
    assert "'unseen' with the same classes" in error_message(root)
    assert Counter(load_table(root, DataConfig(val="unseen")).splits) == {"train": 18, "test": 6, "val": 3}
    with pytest.raises(ConfigError, match="names a split that another folder is"):
        load_table(root, DataConfig(test="unseen"))


def test_named_folders_may_be_outside_the_data(tree: Tree, tmp_path: Path) -> None:
    root = tree(*in_classes("photos"))
    shutil.copytree(root / "photos", tmp_path / "other/new")
    for path in (str(tmp_path / "other"), "../other"):
        table = load_table(root, DataConfig(test=path))
        assert Counter(table.splits) == {"train": 18, "test": 18} and table.num_classes == 3
        row = int(table.rows_of("test")[0])
        assert table.source.pixels(table.locations[row], max_pixels=99).shape == (5, 6, 3)
        zipped, _ = archives(root)
        with pytest.raises(ConfigError, match="outside the archive"):
            load_table(zipped, DataConfig(test=path))
    absolute = load_table(root, DataConfig(train=str(root / "photos")))
    assert absolute.ids == load_table(root, DataConfig(train="photos")).ids and "../" not in absolute.ids[0]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"train": "absent"}, ConfigError, "no such folder with images"),
        ({"train": "flat"}, DataError, "no class folders"),
        ({"val": "flat", "train": "north"}, DataError, "no class folders"),
        ({"train": ".", "test": "north"}, ConfigError, "is within"),
        ({"layout": "splits"}, DataError, "--data.train FOLDER"),
        ({"layout": "table"}, DataError, "holds no table"),
        ({"class_from": "x"}, ConfigError, "has no group"),
        ({"class_from": "(z+)"}, DataError, "none in a class folder"),
        ({"train": "north", "label_columns": ("x",)}, ConfigError, "--data.train applies to folders"),
    ],
)
def test_options_that_do_not_apply_are_errors(
    tree: Tree, options: dict[str, str], error: type[TercetError], text: str
) -> None:
    root = tree(*in_classes("north"), *in_classes("south"), *numbered("flat"))
    with pytest.raises(error, match=text):
        load_table(root, DataConfig(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"layout": "splits"}, {"train": "x"}, {"class_from": "(x)"}])
def test_folder_options_need_a_folder(tree: Tree, options: dict[str, str]) -> None:
    root = tree("1.png", "2.png")
    (root / "labels.csv").write_text("image,label\n1.png,a\n2.png,b\n")
    config = DataConfig(**options)  # type: ignore[arg-type]
    for data in (root / "labels.csv", "digits", load_table(root, CONFIG)):
        with pytest.raises(ConfigError, match="applies to folders and archives of images"):
            load_table(data, config)


def test_classes_in_file_names(tree: Tree) -> None:
    config = DataConfig(class_from=r"^([a-z]+)\.")
    cats, dogs = numbered("train", name="cat.{}.jpg"), numbered("train", name="dog.{}.jpg")
    table = read_all(tree(*cats, *dogs, "train/7.jpg", *numbered("test1")), config)
    assert table.classes == ("cat", "dog") and Counter(table.splits) == {"train": 8}
    assert len(table.unlabelled) == 4
    assert "1 skipped, name does not match data.class_from: 'train/7.jpg'" in table.notes


def test_classes_in_file_names_of_one_folder(tree: Tree) -> None:
    config = DataConfig(class_from=r"^([a-z]+)")
    root = tree("all/cat1.png", "all/dog2.png", "dog3.png", "all/deep/cat4.png")
    table = read_all(root, config)
    assert dict(zip(table.ids, table.label_names(), strict=True))["dog3.png"] == "dog" and len(table) == 4


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("subject{:02d}_{}.png", r"(subject\d+)"), ("img-Plant {}-{}.png", r"(Plant\ \d+)"), ("P{}_{}.png", "")],
)
def test_names_of_groups_get_a_hint(tree: Tree, name: str, pattern: str) -> None:
    root = tree(*(f"{kind}/{name.format(group, row)}" for kind in "ab" for group in range(3) for row in range(3)))
    table = read_all(root)
    hints = [note for note in table.notes if "--data.group-from" in note]
    assert table.groups is None and len(hints) == bool(pattern)
    if pattern:
        assert f"--data.group-from '{pattern}'" in hints[0] and "3 groups" in hints[0]
        grouped = load_table(root, DataConfig(group_from=pattern))
        assert len(set(grouped.groups or ())) == 3 and grouped.notes == ()


WORDS = {
    "train": ["train", "training", "trn"],
    "val": ["val", "valid", "validation", "dev"],
    "test": ["test", "testing", "holdout", "eval"],
}
CLASS_NAMES = st.sampled_from(["cat", "dog", "red fox", "n0123", "Ähre", "bus", "train", "invalid"])


@st.composite
def split_folders(draw: st.DrawFn) -> dict[str, str]:
    """Return names of split folders, by split."""
    prefix, suffix = draw(st.sampled_from(["", "seg", "my", "2019"])), draw(st.sampled_from(["", "set", "2019", "v1"]))
    separator = draw(st.sampled_from(["_", "-", " "]))
    change = draw(st.sampled_from([str, str.upper, str.title]))
    splits = ["train", *draw(st.sets(st.sampled_from(["val", "test"]), min_size=1))]
    parts = {split: [prefix, draw(st.sampled_from(WORDS[split])), suffix] for split in splits}
    return {split: change(separator.join(filter(None, words))) for split, words in parts.items()}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    splits=split_folders(),
    classes=st.sets(CLASS_NAMES, min_size=2, max_size=4),
    wrapper=st.sampled_from(["", "archive", "a/b"]),
    inner=st.sampled_from(["", "images", "SAME"]),
    flat=st.booleans(),
    other=st.sampled_from(["", "docs"]),
)
def test_split_words_never_become_classes(
    splits: dict[str, str], classes: set[str], wrapper: str, inner: str, flat: bool, other: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "data")
        for split, name in splits.items():
            for kind in sorted(classes) if not (flat and split != "train") else [""]:
                target = root.joinpath(wrapper, name, name if inner == "SAME" else inner, kind, "1.png")
                target.parent.mkdir(parents=True, exist_ok=True)
                picture().save(target)
        if other:
            target = root.joinpath(wrapper, other, "1.png")
            target.parent.mkdir()
            picture().save(target)
        try:
            table = load_table(root, CONFIG)
        except DataError as error:
            assert flat or other, "the splits have the same classes"
            assert "--data." in str(error) and "\n" not in str(error)
            return
        assert set(table.classes) == classes
        expected = {"train"} if flat else {*splits}
        assert set(table.splits or ()) == expected and len(table) == len(classes) * len(expected)
        assert len(table.unlabelled) == sum(split == "test" for split in splits) * flat


@pytest.mark.parametrize(
    ("name", "kind", "rest"),
    [
        ("seg_train", "train", "seg"),
        ("Train Data (2)", "train", ""),
        ("ValData", "val", ""),
        ("HOLD_OUT", "test", ""),
        ("trainval", "train", ""),
        ("train_val", "train", ""),
        ("train_test", "mixed", ""),
        ("unlabeled_test", "unlabelled", ""),
        ("trains", "", "trains"),
        ("contest", "", "contest"),
        ("holiday photos", "", "holiday"),
        ("photos", "images", ""),
        ("prüf-test", "test", "pr ü f"),
    ],
)
def test_words_of_folder_names(name: str, kind: str, rest: str) -> None:
    assert split_name(name) == (kind, rest)
