"""Lists of paths, JSON lines, and image folders with metadata files."""

import json
import zipfile
from pathlib import Path

import pytest
from tests.fixtures.image_trees import Tree

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.load import load_table
from tercet.data.table import SampleTable


def load(path: Path, text: str, **options: object) -> SampleTable:
    path.write_text(text, "utf-8")
    return load_table(path, DataConfig(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "a/1.png 0\nb/2 x.png 10\na/3.png 2\n",
        "a/1.png\t0\nb/2 x.png\t10\n\na/3.png\t2",
        "a/1.png,0\nb/2 x.png,10\na/3.png,2",
    ],
)
def test_lists_of_paths_and_numbers(tree: Tree, text: str) -> None:
    root = tree("a/1.png", "b/2 x.png", "a/3.png")
    table = load(root / "train.txt", text)
    assert table.classes == ("0", "2", "10") and table.labels.tolist() == [0, 2, 1]
    assert table.locations == ("a/1.png", "b/2 x.png", "a/3.png")


def test_lists_of_paths_without_labels_have_the_folders_as_classes(tree: Tree) -> None:
    root = tree("img/a/1.png", "img/b/2 x.png")
    table = load(root / "list.txt", "img/a/1\nimg\\b\\2 x.png\n")
    assert table.classes == ("a", "b") and table.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("a/1.png 0\na/3.png\n", "line 2: no label"),
        ("a/1.png 0\ngone.png 1\n", r"gone.png \(line 2\)"),
        ("1.png\n2.png\n", "no row has a label|do not exist"),
    ],
)
def test_invalid_lists_are_errors(tree: Tree, text: str, message: str) -> None:
    root = tree("a/1.png", "a/3.png", "1.png", "2.png")
    with pytest.raises(DataError, match=message):
        load(root / "list.txt", text)


def json_lines(*rows: object) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def test_json_lines_keep_numbers_and_missing_keys_are_blank(tree: Tree) -> None:
    root = tree("1.png", "2.png", "3.png", "4.png")
    text = json_lines({"file_name": "1.png", "label": 1.50, "hand": "x"}, {"label": 10, "file_name": "2.png"})
    text += json_lines({"file_name": "3.png"}, {"file_name": "4.png", "label": None, "objects": {"bbox": [[1, 2]]}})
    table = load(root / "labels.jsonl", text, group_column="hand")
    assert table.classes == ("1.5", "10") and table.labels.tolist() == [0, 1, -1, -1]
    assert table.groups == ("x", "=2.png", "=3.png", "=4.png")


def test_lists_of_labels_need_a_separator(tree: Tree) -> None:
    root = tree("1.png", "2.png")
    text = json_lines({"file_name": "1.png", "labels": ["cat", "dog"]}, {"file_name": "2.png", "labels": ["dog"]})
    with pytest.raises(DataError, match=r"'labels' are lists.*--data.label-separator"):
        load(root / "labels.jsonl", text)
    table = load(root / "labels.jsonl", text, label_separator="|")
    assert table.membership is not None and table.membership.tolist() == [[True, True], [False, True]]
    with pytest.raises(DataError, match="are lists"):
        load(root / "t.csv", "image,label\n1.png,\"['cat']\"\n2.png,[]\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("{}\n", "no rows"),
        ("[1]\n", "line 1: expected an object"),
        ('{"file_name": "1.png", "label": "x"}\n{"file_name":', "line 2: not JSON"),
        ('{"file_name": "\\ud800.png", "label": "x"}', "line 1: not JSON"),
        ('{"file_name": "\\u0000.png", "label": "x"}', "line 1: a NUL"),
        ("[" * 100_000, "line 1: not JSON"),
    ],
)
def test_invalid_json_lines_are_errors_with_the_line(tree: Tree, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        load(tree("1.png") / "labels.jsonl", text)
    assert "\n" not in str(error.value)


def write_metadata(folder: Path, rows: list[dict[str, str]], suffix: str) -> None:
    text = json_lines(*rows)
    if suffix == ".csv":
        text = "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)])
    (folder / f"metadata{suffix}").write_text(text)


def archived(root: Path) -> Path:
    path = root.parent / "packed.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root.parent))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("packed", [False, True])
def test_metadata_in_each_split(tree: Tree, suffix: str, packed: bool) -> None:
    root = tree("train/1.png", "train/2.png", "validation/3.png", "test/1.png")
    for split, names in {"train": ["1", "2"], "validation": ["3"], "test": ["1"]}.items():
        rows = [{"file_name": f"{name}.png", "label": "xy"[int(name) % 2]} for name in names]
        write_metadata(root / split, rows, suffix)
    table = load_table(archived(root) if packed else root, DataConfig())
    by_split = {(split, label) for split, label in zip(table.splits or (), table.label_names(), strict=True)}
    assert by_split == {("train", "x"), ("train", "y"), ("val", "y"), ("test", "y")} and len(table) == 4
    assert table.source.pixels(table.locations[0], max_pixels=99).shape == (5, 6, 3)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_metadata_beside_folders(tree: Tree, suffix: str) -> None:
    root = tree("train/1.png", "train/2.png", "test/1.png")
    rows = [
        {"file_name": f"{name}.png", "label": label}
        for name, label in [("train/1", "x"), ("train/2", "y"), ("test/1", "x")]
    ]
    write_metadata(root, rows, suffix)
    table = load_table(root, DataConfig())
    assert table.splits == ("train", "train", "test") and table.classes == ("x", "y")
    assert f"labels are read from metadata{suffix}" in table.notes


def test_metadata_without_labels_leaves_the_classes_to_the_folders(tree: Tree) -> None:
    root = tree("cat/1.png", "dog/1.png")
    write_metadata(
        root, [{"file_name": "cat/1.png", "text": "a cat"}, {"file_name": "dog/1.png", "text": "a dog"}], ".jsonl"
    )
    table = load_table(root, DataConfig())
    assert table.classes == ("cat", "dog") and table.splits is None


def test_conflicts_between_metadata_files_name_both_lines(tree: Tree) -> None:
    root = tree("train/1.png", "test/1.png")
    write_metadata(root / "train", [{"file_name": "1.png", "label": "x"}], ".jsonl")
    write_metadata(root / "test", [{"file_name": "../train/1.png", "label": "y"}], ".jsonl")
    with pytest.raises(DataError, match=r"lines 1 of test/metadata.jsonl and 1 of train/metadata.jsonl: .*both"):
        load_table(root, DataConfig())
